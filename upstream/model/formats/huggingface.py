"""Folders of the Hugging Face hub: `config.json`, weights in safetensors or a torch file, perhaps in several shards.

    config.json                what `transformers.AutoConfig` reads
    model.safetensors          or pytorch_model.bin; or model.safetensors.index.json beside the shards that it names
    preprocessor_config.json   whether waveforms are standardised, and their rate
    vocab.json                 of a recogniser, with tokenizer_config.json and special_tokens_map.json

Our parameter names are those of `transformers`. Models with a head (ForCTC, ForPreTraining, ...) put the encoder's
behind a prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from upstream.disk import read_json
from upstream.errors import FormatError, UsageError
from upstream.frames import CONV_GRID, SAMPLE_RATE
from upstream.model.formats.checkpoint import (
    Checkpoint,
    CtcHead,
    Source,
    check_conv_norm,
    check_convolutions,
    config_from,
    of_shape,
    old_weight_norm,
    refuse_rest,
    shapes,
    take,
    without_zero_biases,
)
from upstream.model.formats.pickles import read_torch_file
from upstream.model.formats.tensors import read_tensors

PREFIXES = {"hubert": "hubert.", "wav2vec2": "wav2vec2.", "wavlm": "wavlm.", "data2vec-audio": "data2vec_audio."}
FAMILIES = {"hubert": "hubert", "wav2vec2": "wav2vec2", "wavlm": "wavlm", "data2vec-audio": "data2vec"}
QUANTISER = ("quantizer.codevectors", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias",
             "project_q.weight", "project_q.bias", "project_hid.weight", "project_hid.bias")
_ENCODER = ("masked_spec_embed", "feature_extractor.", "feature_projection.", "encoder.")  # its tensors' names
_BLANKS = ("<pad>", "[PAD]", "<blank>", "-")
_HUB_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin", "teacher/*.npy"]
_NOT_OF_THE_MODEL = ["checkpoint-*", "adapter*"]


def looks_like(folder: Path) -> bool:
    """Whether a folder has the configuration of a Hugging Face model."""
    return (folder / "config.json").is_file()


def download(name: str) -> Path:
    """Fetch a model of the hub by its id, `owner/name`, into the usual cache, and give its folder.

    Raises:
        UsageError: huggingface_hub is not installed, no such model, or the hub cannot be reached.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(f"{name}: no such file or folder here; to fetch it from the Hugging Face hub, install "
                         "huggingface_hub (pip install 'hubertkit[hf]')") from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES,
                                                      ignore_patterns=_NOT_OF_THE_MODEL))
    except Exception as error:  # no network, no such model, no permission: each has a class of its own
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{name}: no such file or folder here, and the Hugging Face hub did not give it "
                         f"({type(error).__name__}: {reason}). Without a network, give the folder of a copy") from error


def read(folder: Path) -> Checkpoint:
    """Read a folder.

    Raises:
        FormatError: a broken file, an architecture that we do not have, waveforms at another rate, or weights that do
            not fit config.json.
    """
    folder = Path(folder)
    described = _described(folder)
    kind = described["model_type"]
    tensors, where = _weights(folder)
    found, heads = split_head(old_weight_norm(tensors), PREFIXES[kind])
    prefix = PREFIXES[kind] if heads else ""
    if not heads and any(key.startswith(_ENCODER) for key in found):  # and maybe more: ContentVec has a `final_proj`
        heads = {key: found.pop(key) for key in list(found) if not key.startswith(_ENCODER)}
    settings = _settings(described, folder)
    notes = without_zero_biases(settings, found, "")
    check_conv_norm(settings["conv_norm"], "feature_extractor.conv_layers.1.layer_norm.weight" in found, where)
    normalize, more = _normalize(folder, settings["conv_norm"])
    config = config_from({**settings, "normalize": normalize}, folder / "config.json")
    expected = shapes(config)
    if "masked_spec_embed" not in found and not _masks(described):
        found["masked_spec_embed"] = next(iter(found.values())).new_zeros(config.width)
        more += ("it holds no mask vector, as config.json masks nothing: zeros were put in its place",)
    encoder = take(expected, found, lambda name: name, where)
    refuse_rest((prefix + key for key in found), where)
    ctc = _ctc(heads, folder, config.width, where)
    if ctc is not None and ctc.symbols is None and (folder / "vocab.json").is_file():
        more += (f"vocab.json does not name the {len(ctc.weight)} rows of the head, one symbol each, and was left "
                 "aside",)
    quantiser = take_quantiser(heads)
    if heads:
        more += (f"{where.name}: left out what belongs to other heads: {', '.join(sorted(heads)[:4])}",)
    return Checkpoint(folder, config, encoder, quantiser=quantiser, ctc=ctc, notes=notes + more)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no config.json, so it is no Hugging Face folder; and no hubertkit.json")
    described = read_json(path)
    kind = described.get("model_type") if isinstance(described, dict) else None
    if kind not in PREFIXES:
        raise FormatError(f"{path}: model_type {kind!r} is an architecture that hubertkit does not have; it has "
                          f"{', '.join(PREFIXES)}")
    return described


def _weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """All tensors of a folder, and the file that messages should name."""
    for name, read_file in (("model.safetensors", read_tensors), ("pytorch_model.bin", _read_bin)):
        if (folder / name).is_file():
            return read_file(folder / name), folder / name
        index = folder / f"{name}.index.json"
        if index.is_file():
            return {key: tensor for shard in _shards(index) for key, tensor in read_file(shard).items()}, index
    raise UsageError(f"{folder}: no weights: expected model.safetensors or pytorch_model.bin, or an index of shards")


def _shards(index: Path) -> list[Path]:
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise FormatError(f"{index}: expected a weight_map from tensors to files")
    shards = sorted(set(names.values()))
    for name in shards:
        if Path(name).name != name:
            raise FormatError(f"{index}: {name!r} is not the name of a file beside it")
        if not (index.parent / name).is_file():
            raise FormatError(f"{index.parent / name}: no such file, though {index.name} names it; fetch it as well")
    return [index.parent / name for name in shards]


def _read_bin(path: Path) -> dict[str, Tensor]:
    content = read_torch_file(path)
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise FormatError(f"{path}: expected names and tensors, as transformers saves them")
    return content


def _settings(described: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of an EncoderConfig, `normalize` excepted."""
    path = folder / "config.json"
    _refuse_strange(described, path)
    kind = described["model_type"]
    defaults = _defaults(kind)

    def get(name: str) -> Any:
        value = described.get(name, defaults.get(name))
        if value is None:
            raise FormatError(f"{path}: no {name!r}")
        return value

    if get("feat_extract_norm") not in ("group", "layer"):
        raise FormatError(f"{path}: feat_extract_norm={get('feat_extract_norm')!r}, must be group or layer")
    settings = {
        "family": FAMILIES[kind],
        "conv_dim": check_convolutions([get("conv_dim"), get("conv_kernel"), get("conv_stride")], path),
        "conv_bias": bool(get("conv_bias")),
        "conv_norm": get("feat_extract_norm"),
        "width": get("hidden_size"),
        "layers": get("num_hidden_layers"),
        "heads": get("num_attention_heads"),
        "ffn": get("intermediate_size"),
        "pre_norm": bool(get("do_stable_layer_norm")),
        "positional_kernel": get("num_conv_pos_embeddings"),
        "positional_groups": get("num_conv_pos_embedding_groups"),
        "dropout": get("hidden_dropout"),
        "attention_dropout": get("attention_dropout"),
        "activation_dropout": get("activation_dropout"),
        "input_dropout": get("feat_proj_dropout"),
        "layerdrop": get("layerdrop"),
        "feature_grad_mult": 1.0,  # transformers has no such thing
    }
    if kind == "wavlm":
        settings |= {"relative_buckets": get("num_buckets"), "relative_distance": get("max_bucket_distance")}
    if kind == "data2vec-audio":
        settings |= {"positional_kernel": get("conv_pos_kernel_size"),
                     "positional_depth": get("num_conv_pos_embeddings"), "pre_norm": False, "conv_norm": "layer"}
    return settings


def _defaults(kind: str) -> dict[str, Any]:
    """What transformers takes a field for that config.json leaves out: the values of BASE models."""
    return {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_dropout": 0.1, "activation_dropout": 0.1, "attention_dropout": 0.1, "feat_proj_dropout": 0.0,
        "layerdrop": 0.1, "feat_extract_norm": "layer" if kind == "data2vec-audio" else "group",
        "conv_dim": [512] * 7, "conv_kernel": list(CONV_GRID.kernels), "conv_stride": list(CONV_GRID.strides),
        "conv_bias": False, "num_conv_pos_embeddings": 5 if kind == "data2vec-audio" else 128,
        "num_conv_pos_embedding_groups": 16, "conv_pos_kernel_size": 19, "do_stable_layer_norm": False,
        "num_buckets": 320, "max_bucket_distance": 800,
    }


def _refuse_strange(described: dict[str, Any], path: Path) -> None:
    """Raise FormatError for switches that change the body into one that we do not have."""
    usual = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": 1e-5, "add_adapter": False,
             "adapter_attn_dim": None, "conv_pos_batch_norm": False, "feat_proj_layer_norm": True}
    for name, value in usual.items():
        if described.get(name, value) != value:
            raise FormatError(f"{path}: {name}={described[name]!r}; hubertkit has {value!r} only")


def _masks(described: dict[str, Any]) -> bool:
    """Whether transformers gives the model a mask vector."""
    return bool(described.get("mask_time_prob", 0.05) or described.get("mask_feature_prob", 0.0))


def _normalize(folder: Path, conv_norm: str) -> tuple[bool, tuple[str, ...]]:
    """Whether waveforms are standardised, and a note if the settings of the feature extractor say otherwise.

    With group norm they are not, as these models were trained: transformers' converter writes `do_normalize` for all
    of them, and there it hardly matters, since the norm cancels gain and offset.
    """
    path, content = _feature_extractor(folder)
    if content is None:
        return conv_norm == "layer", ()
    rate = content.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise FormatError(f"{path}: waveforms at {rate} Hz; hubertkit's encoders hear {SAMPLE_RATE} Hz")
    asked = bool(content.get("do_normalize", True))
    if conv_norm == "layer":
        return asked, ()
    return False, (f"{path.name} asks for standardised waveforms; with group norm hubertkit feeds them as they are, as "
                   "such models were trained",) if asked else ()


def _feature_extractor(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """The settings of the feature extractor and where they stand: transformers 5 writes those of a processor into the
    processor's file. None where there are none."""
    alone, together = folder / "preprocessor_config.json", folder / "processor_config.json"
    path = alone if alone.is_file() or not together.is_file() else together
    if not path.is_file():
        return path, None
    content = read_json(path)
    if path is together and isinstance(content, dict):
        content = content.get("feature_extractor")
        if content is None:
            return path, None
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected the settings of a feature extractor")
    return path, content


def _ctc(heads: dict[str, Tensor], folder: Path, width: int, where: Source) -> CtcHead | None:
    if "lm_head.weight" not in heads:
        return None
    weight = heads.pop("lm_head.weight")
    weight = of_shape(weight, (len(weight), width), "lm_head.weight", where)
    if "lm_head.bias" not in heads:
        raise FormatError(f"{where}: no tensor 'lm_head.bias', of shape {(len(weight),)}")
    bias = of_shape(heads.pop("lm_head.bias"), (len(weight),), "lm_head.bias", where)
    symbols, blank = read_vocabulary(folder, len(weight))
    return CtcHead(weight, bias, symbols, blank)


def read_vocabulary(folder: Path, rows: int) -> tuple[tuple[str, ...] | None, int]:
    """The symbols of `rows` rows, and which of them is the blank: config.json's pad_token_id.

    The blank is called `<pad>` whatever vocab.json calls it; fairseq's dictionaries call it `<s>`, and then the row
    that they call `<pad>` takes that name.
    """
    symbols = _symbols(folder, rows)
    path = folder / "config.json"
    described = read_json(path) if path.is_file() else {}
    if not isinstance(described, dict):
        raise FormatError(f"{path}: no configuration of a model; copy it once more from where the model came from")
    blank = described.get("pad_token_id", 0)
    named = [i for i, symbol in enumerate(symbols or ()) if symbol in _BLANKS]
    if named and "vocab_size" not in described:  # no configuration of a recogniser, which says so
        blank = named[0]
    if not isinstance(blank, int) or not 0 <= blank < rows:
        raise FormatError(f"{path}: pad_token_id={blank!r}, which is the CTC blank, must be one of the {rows} rows of "
                          "the head")
    if symbols is None:
        return None, blank
    return with_blank_named(symbols, blank), blank


def with_blank_named(symbols: tuple[str, ...], blank: int) -> tuple[str, ...]:
    """The same symbols with a blank that is called as blanks are; a row that was called so takes the blank's old name,
    but for `-`, which is a letter where it is no blank."""
    if symbols[blank] in _BLANKS:
        return symbols
    others = [i for i, symbol in enumerate(symbols) if symbol in _BLANKS and len(symbol) > 1]
    swapped = {**dict.fromkeys(others[:1], symbols[blank]), blank: _BLANKS[0]}
    return tuple(swapped.get(i, symbol) for i, symbol in enumerate(symbols))


def _symbols(folder: Path, rows: int) -> tuple[str, ...] | None:
    """Symbols in the order of their ids, those that the tokenizer added among them; None if there is no vocab.json or
    it is another kind of thing."""
    content, added = (read_json(path) if path.is_file() else None
                      for path in (folder / "vocab.json", folder / "added_tokens.json"))
    if isinstance(content, dict) and isinstance(added, dict):  # some models have no rows for what was added
        known = set(map(str, range(rows)))
        content = {**content, **{symbol: id for symbol, id in added.items() if str(id) in known}}
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(rows))):
        return None
    return tuple(sorted(content, key=lambda symbol: int(content[symbol])))


def take_quantiser(heads: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights of wav2vec 2.0's quantiser and projections, taken out of `heads`; None if they are not all there."""
    if any(key not in heads for key in QUANTISER):
        return None
    return {key: heads.pop(key).float() for key in QUANTISER}


def split_head(tensors: dict[str, Tensor], prefix: str | None = None
               ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's tensors under their bare names, and those of a head: none if there is no prefix."""
    prefixes = [prefix] if prefix else list(PREFIXES.values())
    prefix = next((p for p in prefixes if any(key.startswith(p) for key in tensors)), None)
    if prefix is None:
        return dict(tensors), {}
    inside = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return inside, {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
