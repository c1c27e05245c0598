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

from upstream.errors import FormatError, UsageError
from upstream.frames import CONV_GRID, SAMPLE_RATE
from upstream.model.config import EncoderConfig
from upstream.model.formats.checkpoint import (
    Checkpoint,
    CtcHead,
    Source,
    check_conv_norm,
    check_convolutions,
    config_from,
    family_of,
    new_weight_norm,
    of_shape,
    old_weight_norm,
    refuse_rest,
    shapes,
    take,
    without_zero_biases,
)
from upstream.model.formats.pickles import read_torch_file
from upstream.model.formats.tensors import read_tensors
from upstream.stage import read_json

PREFIXES = {"hubert": "hubert.", "wav2vec2": "wav2vec2.", "wavlm": "wavlm.", "data2vec-audio": "data2vec_audio."}
_FAMILIES = {"hubert": "hubert", "wav2vec2": "wav2vec2", "wavlm": "wavlm", "data2vec-audio": "data2vec"}
_MODELS = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM", "data2vec-audio": "Data2VecAudio"}
QUANTISER = ("quantizer.codevectors", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias",
             "project_q.weight", "project_q.bias", "project_hid.weight", "project_hid.bias")
_BLANKS = ("<pad>", "[PAD]", "<blank>", "-")
_HUB_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin"]


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
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
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
        "family": _FAMILIES[kind],
        "conv_dim": check_convolutions(list(zip(get("conv_dim"), get("conv_kernel"), get("conv_stride"))), path),
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
    return described.get("mask_time_prob", 0.05) > 0 or described.get("mask_feature_prob", 0.0) > 0


def _normalize(folder: Path, conv_norm: str) -> tuple[bool, tuple[str, ...]]:
    """Whether waveforms are standardised, and a note if preprocessor_config.json says otherwise.

    With group norm they are not, as these models were trained: transformers' converter writes `do_normalize` for all
    of them, and there it hardly matters, since the norm cancels gain and offset.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return conv_norm == "layer", ()
    content = read_json(path)
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected the settings of a feature extractor")
    rate = content.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise FormatError(f"{path}: waveforms at {rate} Hz; hubertkit's encoders hear {SAMPLE_RATE} Hz")
    asked = bool(content.get("do_normalize", True))
    if conv_norm == "layer":
        return asked, ()
    return False, ("preprocessor_config.json asks for standardised waveforms; with group norm hubertkit feeds them as "
                   "they are, as such models were trained",) if asked else ()


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
    symbols = _symbols(folder / "vocab.json", rows)
    path = folder / "config.json"
    described = read_json(path) if path.is_file() else {}
    blank = described.get("pad_token_id")
    if symbols is None:
        return None, blank or 0
    named = [i for i, symbol in enumerate(symbols) if symbol in _BLANKS]
    if blank is None or "vocab_size" not in described:  # not a recogniser's configuration of transformers
        blank = named[0] if named else 0
    if symbols[blank] not in _BLANKS:
        swapped = {**dict.fromkeys(named[:1], symbols[blank]), blank: _BLANKS[0]}
        symbols = tuple(swapped.get(i, symbol) for i, symbol in enumerate(symbols))
    return symbols, blank


def _symbols(path: Path, rows: int) -> tuple[str, ...] | None:
    """Symbols in the order of their ids; None if there is no vocab.json or it is another kind of thing."""
    content = read_json(path) if path.is_file() else None
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(rows))):
        return None
    return tuple(sorted(content, key=lambda symbol: int(content[symbol])))


def take_quantiser(heads: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights of wav2vec 2.0's quantiser and projections, taken out of `heads`; None if they are not all there."""
    if any(key not in heads for key in QUANTISER):
        return None
    return {key: heads.pop(key).float() for key in QUANTISER}


def model_type(config: EncoderConfig) -> str:
    """The family's name in config.json."""
    return next(kind for kind, family in _FAMILIES.items() if family == family_of(config))


def split_head(tensors: dict[str, Tensor], prefix: str | None = None
               ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's tensors under their bare names, and those of a head: none if there is no prefix."""
    prefixes = [prefix] if prefix else list(PREFIXES.values())
    prefix = next((p for p in prefixes if any(key.startswith(p) for key in tensors)), None)
    if prefix is None:
        return dict(tensors), {}
    inside = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return inside, {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}


def named(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of model.safetensors: the encoder's alone, or behind the prefix beside a head."""
    tensors = {new_weight_norm(name): tensor for name, tensor in checkpoint.tensors.items()}
    heads = dict(checkpoint.quantiser or {})
    if checkpoint.ctc is not None:
        heads = {"lm_head.weight": checkpoint.ctc.weight, "lm_head.bias": checkpoint.ctc.bias}
    prefix = PREFIXES[model_type(checkpoint.config)] if heads else ""
    return {**{prefix + name: tensor for name, tensor in tensors.items()}, **heads}


def has_pretraining(checkpoint: Checkpoint) -> bool:
    """Whether `transformers` has a model for the pretraining heads: the quantiser of wav2vec 2.0."""
    conv = checkpoint.config.frontend == "conv" and model_type(checkpoint.config) == "wav2vec2"
    return conv and checkpoint.quantiser is not None and checkpoint.ctc is None


def json_files(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The JSON files beside the weights, by their names."""
    config, ctc, files = checkpoint.config, checkpoint.ctc, {}
    if config.frontend != "conv":  # a model_type that transformers refuses
        files["config.json"] = {"model_type": f"hubertkit-{config.frontend}", **config.to_dict()}
    else:
        files["config.json"] = {**_config_json(config, ctc), **_pretraining_json(checkpoint)}
        files["preprocessor_config.json"] = _preprocessor_json(config, ctc)
    if ctc is not None and ctc.symbols is not None:
        files["vocab.json"] = {symbol: index for index, symbol in enumerate(ctc.symbols)}
    if ctc is not None and ctc.symbols is not None and config.frontend == "conv":
        names = _special_names(ctc)
        files["special_tokens_map.json"] = {key: name for key, name in names.items() if name is not None}
        files["tokenizer_config.json"] = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer", "processor_class": "Wav2Vec2Processor", "do_lower_case": False,
            "word_delimiter_token": "|", "replace_word_delimiter_char": " ", **names,
        }
    return files


def _special_names(ctc: CtcHead) -> dict[str, str | None]:
    """The tokenizer's special tokens; those that are no rows of the head would be added behind it, so they are null."""
    assert ctc.symbols is not None
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return {"pad_token": ctc.symbols[ctc.blank],
            **{key: name if name in ctc.symbols else None for key, name in given.items()}}


def _preprocessor_json(config: EncoderConfig, ctc: CtcHead | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": config.normalize,
        "return_attention_mask": config.conv_norm == "layer",  # with group norm the padding is heard either way
    }
    return content if ctc is None else {**content, "processor_class": "Wav2Vec2Processor"}


def _config_json(config: EncoderConfig, ctc: CtcHead | None) -> dict[str, Any]:
    kind = model_type(config)
    layers = len(CONV_GRID.kernels)
    content: dict[str, Any] = {
        "architectures": [_MODELS[kind] + ("Model" if ctc is None else "ForCTC")],
        "model_type": kind,
        "dtype": "float32",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "hidden_act": "gelu",
        "hidden_dropout": config.dropout,
        "activation_dropout": config.activation_dropout,
        "attention_dropout": config.attention_dropout,
        "feat_proj_layer_norm": True,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": config.layerdrop,
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": "gelu",
        "conv_dim": [config.conv_dim] * layers,
        "conv_kernel": list(CONV_GRID.kernels),
        "conv_stride": list(CONV_GRID.strides),
        "num_feat_extract_layers": layers,
        "conv_bias": config.conv_bias,
        "num_conv_pos_embeddings": config.positional_kernel,
        "num_conv_pos_embedding_groups": config.positional_groups,
        "do_stable_layer_norm": config.pre_norm,
        "initializer_range": 0.02,
        "apply_spec_augment": True,
        "mask_time_prob": 0.05,
        "mask_time_length": 10,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    sizes = config.to_dict()
    if kind == "wavlm":
        content |= {"num_buckets": sizes["relative_buckets"], "max_bucket_distance": sizes["relative_distance"]}
    if kind == "data2vec-audio":
        content |= {"num_conv_pos_embeddings": sizes["positional_depth"],
                    "conv_pos_kernel_size": sizes["positional_kernel"]}
    if ctc is not None:
        content |= {"vocab_size": len(ctc.weight), "pad_token_id": ctc.blank, "final_dropout": 0.0,
                    "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
    return content


def _pretraining_json(checkpoint: Checkpoint) -> dict[str, Any]:
    if not has_pretraining(checkpoint):
        return {}
    assert checkpoint.quantiser is not None
    vectors, projected = checkpoint.quantiser["quantizer.codevectors"], checkpoint.quantiser["project_q.weight"]
    groups = projected.shape[1] // vectors.shape[2]
    objective = checkpoint.extra.get("objective") or {}
    return {"architectures": ["Wav2Vec2ForPreTraining"], "num_codevector_groups": groups,
            "num_codevectors_per_group": vectors.shape[1] // groups, "codevector_dim": projected.shape[1],
            "proj_codevector_dim": projected.shape[0],
            "contrastive_logits_temperature": objective.get("temperature", 0.1)}
