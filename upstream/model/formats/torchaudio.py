"""torchaudio's state dicts (`.pt`, `.pth`) and bundles: `wav2vec2_model`, `wavlm_model`, `hubert_pretrain_model`.

A state dict says nothing about attention heads or the place of the norms. We write what the model must be made with
into a JSON file beside it, `NAME.pt.json`, and read it from there; without it, published sizes are known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upstream.disk import json_text, read_json, writing_together
from upstream.errors import FormatError, UsageError
from upstream.frames import CONV_GRID
from upstream.model.config import EncoderConfig
from upstream.model.formats.checkpoint import (
    Checkpoint,
    CtcHead,
    Prediction,
    Source,
    check_conv_norm,
    check_convolutions,
    config_from,
    new_weight_norm,
    of_shape,
    old_weight_norm,
    refuse_rest,
    shapes,
    take,
)
from upstream.model.formats.pickles import write_torch_file
from upstream.model.formats.published import settings_from_shapes

_ARGUMENTS = {"extractor_conv_bias": "conv_bias", "encoder_embed_dim": "width",
              "encoder_projection_dropout": "input_dropout", "encoder_pos_conv_kernel": "positional_kernel",
              "encoder_pos_conv_groups": "positional_groups", "encoder_num_layers": "layers",
              "encoder_num_heads": "heads", "encoder_attention_dropout": "attention_dropout",
              "encoder_ff_interm_features": "ffn", "encoder_ff_interm_dropout": "activation_dropout",
              "encoder_dropout": "dropout", "encoder_layer_norm_first": "pre_norm", "encoder_layer_drop": "layerdrop"}
_WAVLM = {"encoder_num_buckets": "relative_buckets", "encoder_max_distance": "relative_distance"}
_PRETRAINING = {"mask_prob": 0.8, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10,
                "no_mask_overlap": False, "mask_min_space": 1, "mask_channel_prob": 0.0,
                "mask_channel_selection": "static", "mask_channel_other": 0.0, "mask_channel_length": 10,
                "no_mask_channel_overlap": False, "mask_channel_min_space": 1, "skip_masked": False,
                "skip_nomask": False}
_NORMS = {"group_norm": "group", "layer_norm": "layer"}
_BLANK = "<pad>"  # what transformers and we call it; torchaudio's bundles say "-"


def looks_like(content: Any) -> bool:
    """Whether the contents of a torch file are such a state dict, perhaps in a Lightning checkpoint."""
    tensors = _state(content)
    return tensors is not None and any("encoder.transformer." in key for key in tensors)


def sidecar(path: Path) -> Path:
    """The JSON file beside a state dict."""
    return Path(path).with_name(Path(path).name + ".json")


def read(path: Path, content: Any) -> Checkpoint:
    """Read a state dict.

    Args:
        content: what `read_torch_file(path)` gave.

    Raises:
        FormatError: no JSON file and no published size, or weights that do not fit.
    """
    tensors = _state(content)
    assert tensors is not None
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    described = read_json(sidecar(path)) if sidecar(path).is_file() else None
    return _read(path, tensors, described)


def is_bundle(name: str) -> bool:
    """Whether torchaudio has a bundle of pretrained weights of this name, e.g. HUBERT_BASE."""
    if not name.isupper() or not name.isidentifier():
        return False
    import torchaudio.pipelines

    return isinstance(getattr(torchaudio.pipelines, name, None), torchaudio.pipelines.Wav2Vec2Bundle)


def read_bundle(name: str) -> Checkpoint:
    """Read a bundle, which torchaudio fetches on its first use.

    Raises:
        UsageError: it could not be fetched.
    """
    import torchaudio.pipelines

    bundle = getattr(torchaudio.pipelines, name)
    try:
        model = bundle.get_model()
    except OSError as error:
        raise UsageError(f"{name}: torchaudio could not fetch it ({' '.join(str(error).split())[:200]}); without a "
                         "network, give the file of a copy") from error
    tensors = {key.removeprefix("model."): tensor for key, tensor in model.state_dict().items()}
    family = "wavlm" if bundle._model_type == "WavLM" else "hubert" if name.startswith("HUBERT") else "wav2vec2"
    described = {"arguments": bundle._params, "family": family, "normalize": bundle._normalize_waveform}
    if isinstance(bundle, torchaudio.pipelines.Wav2Vec2ASRBundle):
        rows = bundle._params["aux_num_out"]  # the star of an aligner (MMS_FA) is none
        described["symbols"] = list(bundle.get_labels(blank=_BLANK))[:rows]
    return _read(name, tensors, described)


def write(checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write a state dict and its JSON file; gives what they cannot hold, a line each.

    Raises:
        UsageError: an architecture that torchaudio does not have.
    """
    config, lost = checkpoint.config, []
    if config.family == "data2vec":
        raise UsageError(f"{checkpoint.source}: torchaudio has no data2vec; write it as huggingface")
    body, mask = dict(checkpoint.tensors), checkpoint.tensors["masked_spec_embed"]
    del body["masked_spec_embed"]
    tensors = {_their_name(new_weight_norm(name)): tensor for name, tensor in body.items()}
    if config.family == "wavlm":
        tensors = _packed(tensors, config.layers)
    arguments = _arguments(config)
    described: dict[str, Any] = {"factory": "wavlm_model" if config.family == "wavlm" else "wav2vec2_model",
                                 "arguments": arguments, "family": config.family, "normalize": config.normalize}
    lost += _left_behind(checkpoint)
    if checkpoint.ctc is not None:
        tensors |= {"aux.weight": checkpoint.ctc.weight, "aux.bias": checkpoint.ctc.bias}
        arguments["aux_num_out"] = len(checkpoint.ctc.weight)
        described |= {"symbols": checkpoint.ctc.symbols, "blank": checkpoint.ctc.blank}
        lost.append(f"the names of the symbols, which are in {sidecar(path).name}")
    if takes_head(checkpoint):
        assert checkpoint.prediction is not None
        head, multiplier = _first_stream(checkpoint.prediction), config.feature_grad_mult
        if not 0 < multiplier <= 1:
            lost.append(f"feature_grad_mult={multiplier}: torchaudio's lies between 0 and 1")
        described |= {"factory": "hubert_pretrain_model", "special_rows": head.special_rows,
                      "labels": None if head.labels is None else head.labels[0]}
        del arguments["aux_num_out"]
        arguments |= {**_PRETRAINING, "num_classes": len(head.tables[0]), "final_dim": head.final_dim,
                      "feature_grad_mult": multiplier if 0 < multiplier < 1 else None}
        tensors = {**{f"wav2vec2.{name}": tensor for name, tensor in tensors.items()},
                   "mask_generator.mask_embedding": mask, "logit_generator.label_embeddings": head.tables[0],
                   "logit_generator.final_proj.weight": head.weight, "logit_generator.final_proj.bias": head.bias}
    else:
        lost.append("the mask vector: only torchaudio's hubert_pretrain_model has one")
    with writing_together([sidecar(path), path]) as (about, weights):  # the weights last: theirs is the name to be free
        write_torch_file(weights, {name: tensor.contiguous() for name, tensor in tensors.items()})
        about.write_text(json_text(described), encoding="utf-8")
    return lost


def _left_behind(checkpoint: Checkpoint) -> list[str]:
    lost, head = [], checkpoint.prediction
    if checkpoint.others:
        lost.append(f"heads that torchaudio does not have: {', '.join(sorted(checkpoint.others)[:4])}")
    if checkpoint.quantiser is not None:
        lost.append("the quantiser of wav2vec 2.0: torchaudio's models have none")
    if head is not None and not takes_head(checkpoint):
        lost.append("the heads of masked prediction: torchaudio has them on HuBERT without a recogniser's head only")
    elif head is not None:
        if len(head.tables) > 1:
            lost.append(f"all but the first of {len(head.tables)} streams of labels: torchaudio has one")
        if head.temperature != 0.1:
            lost.append(f"the temperature {head.temperature}: torchaudio's is 0.1")
        if head.special_rows:
            lost.append(f"which classes are units: the first {head.special_rows} rows of the table are fairseq's "
                        f"specials, so unit c is class c + {head.special_rows} (--special-rows drop leaves them out)")
    return lost


def takes_head(checkpoint: Checkpoint) -> bool:
    """Whether a file has the heads of masked prediction of a checkpoint."""
    return checkpoint.prediction is not None and checkpoint.ctc is None and checkpoint.config.family == "hubert"


def _first_stream(head: Prediction) -> Prediction:
    labels = None if head.labels is None else head.labels[:1]
    dim = head.final_dim
    return Prediction(head.weight[:dim], head.bias[:dim], head.tables[:1], head.temperature, head.special_rows, labels)


def _state(content: Any) -> dict[str, Tensor] | None:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        return None
    fine = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    return content if fine else None


def _read(source: Source, tensors: dict[str, Tensor], described: Any) -> Checkpoint:
    tensors = _unpacked(old_weight_norm(tensors))
    heads = {}
    if any(key.startswith("wav2vec2.") for key in tensors):
        heads = {key: tensors.pop(key) for key in list(tensors) if not key.startswith("wav2vec2.")}
        tensors = {key.removeprefix("wav2vec2."): tensor for key, tensor in tensors.items()}
    tensors = {key.replace("encoder.readout.", "aux."): tensor for key, tensor in tensors.items()}
    config, said = _config(source, tensors, described)
    check_conv_norm(config.conv_norm, "feature_extractor.conv_layers.1.layer_norm.weight" in tensors, source)
    expected = shapes(config)
    shape = expected.pop("masked_spec_embed")
    notes: tuple[str, ...] = ()
    found = take(expected, tensors, _their_name, source)
    if "mask_generator.mask_embedding" in heads:
        mask = of_shape(heads.pop("mask_generator.mask_embedding"), shape, "mask_generator.mask_embedding", source)
    else:
        mask = torch.zeros(shape)
        notes = ("torchaudio keeps no mask vector; zeros were put in its place",)
    prediction = _prediction(heads, said, config.width, source)
    ctc = _ctc(tensors, said, config.width, source)
    refuse_rest([*tensors, *heads], source)
    return Checkpoint(source, config, {"masked_spec_embed": mask, **found}, prediction, ctc=ctc, notes=notes)


def _config(source: Source, tensors: dict[str, Tensor], described: Any) -> tuple[EncoderConfig, dict[str, Any]]:
    """The configuration, and what else the JSON file says."""
    if described is not None:
        where = sidecar(Path(source)) if isinstance(source, Path) else source
        if not isinstance(described, dict) or not isinstance(described.get("arguments"), dict):
            raise FormatError(f"{where}: expected the arguments of a torchaudio model")
        return _described(described, where), described
    norm = "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in tensors else "group"

    def shape(ours: str) -> tuple[int, ...] | None:
        tensor = tensors.get(_their_name(ours))
        return None if tensor is None else tuple(tensor.shape)

    found = settings_from_shapes(shape, norm)
    if found is None:
        raise FormatError(f"{source}: not the state dict of a wav2vec 2.0, HuBERT or WavLM encoder of torchaudio")
    missing = [name for name in ("heads", "pre_norm") if name not in found]
    if missing:
        raise FormatError(f"{source}: a state dict does not say {' and '.join(missing)}, and its size (width "
                          f"{found['width']}, {found['layers']} layers) is not a published one; put "
                          f'{sidecar(Path(source)).name} beside it: {{"arguments": {{...}}, "normalize": false}} with '
                          "the arguments of the torchaudio model")
    return config_from(found, source), {}


def _described(described: dict[str, Any], where: Source) -> EncoderConfig:
    arguments = described["arguments"]
    family = described.get("family", "hubert")
    wanted = {**_ARGUMENTS, **(_WAVLM if family == "wavlm" else {})}
    missing = [name for name in ("extractor_mode", *wanted) if name not in arguments]
    if missing:
        raise FormatError(f"{where}: no argument {missing[0]!r}")
    if arguments["extractor_mode"] not in _NORMS:
        raise FormatError(f"{where}: extractor_mode={arguments['extractor_mode']!r}, must be {' or '.join(_NORMS)}")
    settings = {ours: arguments[theirs] for theirs, ours in wanted.items()}
    conv = arguments.get("extractor_conv_layer_config") or [
        (512, kernel, stride) for kernel, stride in zip(CONV_GRID.kernels, CONV_GRID.strides)]
    if not isinstance(conv, list | tuple) or not all(isinstance(layer, list | tuple) for layer in conv):
        raise FormatError(f"{where}: extractor_conv_layer_config={conv!r} is not a list of layers")
    norm = _NORMS[arguments["extractor_mode"]]
    settings |= {"family": family, "conv_norm": norm, "feature_grad_mult": _or(arguments.get("feature_grad_mult"), 1.0),
                 "conv_dim": check_convolutions(list(zip(*conv)), where),
                 "normalize": bool(described.get("normalize", norm == "layer"))}
    return config_from(settings, where)


def _arguments(config: EncoderConfig) -> dict[str, Any]:
    """Arguments of `torchaudio.models.wav2vec2_model` or `wavlm_model`."""
    modes = {ours: theirs for theirs, ours in _NORMS.items()}
    conv = [[config.conv_dim, kernel, stride] for kernel, stride in zip(CONV_GRID.kernels, CONV_GRID.strides)]
    wanted = {**_ARGUMENTS, **(_WAVLM if config.family == "wavlm" else {})}
    return {"extractor_mode": modes[config.conv_norm], "extractor_conv_layer_config": conv,
            **{theirs: getattr(config, ours) for theirs, ours in wanted.items()}, "aux_num_out": None}


def _their_name(name: str) -> str:
    """torchaudio's name of a tensor of ours, the mask vector excepted."""
    if name.startswith("feature_projection."):
        return f"encoder.{name}"
    return name.replace("encoder.", "encoder.transformer.", 1) if name.startswith("encoder.") else name


def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """WavLM's joint projections of queries, keys and values, apart."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        for kind in ("weight", "bias"):
            if key.endswith(f".attention.attention.in_proj_{kind}"):
                stem = key[: -len(f"attention.in_proj_{kind}")]
                found |= dict(zip((f"{stem}{part}_proj.{kind}" for part in "qkv"), tensor.chunk(3)))
                break
        else:
            found[key.replace(".attention.attention.out_proj.", ".attention.out_proj.")] = tensor
    return found


def _packed(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The inverse of `_unpacked`."""
    found = {key.replace(".attention.out_proj.", ".attention.attention.out_proj."): t for key, t in tensors.items()}
    for layer in range(layers):
        stem = f"encoder.transformer.layers.{layer}.attention."
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{stem}{part}_proj.{kind}") for part in "qkv"]
            found[f"{stem}attention.in_proj_{kind}"] = torch.cat(parts)
    return found


def _prediction(heads: dict[str, Tensor], said: dict[str, Any], width: int, source: Source) -> Prediction | None:
    keys = ("logit_generator.final_proj.weight", "logit_generator.final_proj.bias", "logit_generator.label_embeddings")
    if any(key not in heads for key in keys):
        return None
    weight, bias, table = (heads.pop(key) for key in keys)
    classes, dim = table.shape
    labels = said.get("labels")
    return Prediction(of_shape(weight, (dim, width), keys[0], source), of_shape(bias, (dim,), keys[1], source),
                      (of_shape(table, (classes, dim), keys[2], source),), 0.1, int(said.get("special_rows", 0)),
                      None if labels is None else (tuple(map(str, labels)),))


def _ctc(tensors: dict[str, Tensor], said: dict[str, Any], width: int, source: Source) -> CtcHead | None:
    if "aux.weight" not in tensors or "aux.bias" not in tensors:
        return None
    rows = len(tensors["aux.weight"])
    weight = of_shape(tensors.pop("aux.weight"), (rows, width), "aux.weight", source)
    bias = of_shape(tensors.pop("aux.bias"), (rows,), "aux.bias", source)
    symbols = said.get("symbols")
    if symbols is not None and len(symbols) != rows:
        raise FormatError(f"{source}: 'aux.weight' has {rows} rows for {len(symbols)} symbols")
    return CtcHead(weight, bias, None if symbols is None else tuple(map(str, symbols)), int(said.get("blank", 0)))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
