"""fairseq's configurations and ours: `cfg` groups, the flat `args` of older files, and WavLM's flat `cfg`.

Names and defaults are those of fairseq 0.12 (`models/wav2vec/wav2vec2.py`, `models/hubert/hubert.py`).
"""

from __future__ import annotations

import ast
from typing import Any

from upstream.errors import FormatError
from upstream.frames import CONV_GRID, SAMPLE_RATE
from upstream.model.config import EncoderConfig
from upstream.model.formats.checkpoint import Source, check_convolutions
from upstream.model.formats.pickles import plain

_FAMILIES = {"hubert": "hubert", "hubert_ctc": "hubert", "hubert_pretraining": "hubert", "wav2vec2": "wav2vec2",
             "wav2vec_ctc": "wav2vec2", "data2vec_audio": "data2vec"}
_WANTED = {"extractor_mode": "conv_norm", "encoder_embed_dim": "width", "encoder_layers": "layers",
           "encoder_attention_heads": "heads", "encoder_ffn_embed_dim": "ffn", "layer_norm_first": "pre_norm"}
_OPTIONAL = {"conv_bias": ("conv_bias", False), "conv_pos": ("positional_kernel", 128),
             "conv_pos_groups": ("positional_groups", 16), "dropout": ("dropout", 0.1),
             "attention_dropout": ("attention_dropout", 0.1), "activation_dropout": ("activation_dropout", 0.0),
             "dropout_input": ("input_dropout", 0.0), "encoder_layerdrop": ("layerdrop", 0.0),
             "feature_grad_mult": ("feature_grad_mult", 1.0)}
_USUAL = {"activation_fn": ("gelu",), "layer_type": ("transformer",), "conv_pos_batch_norm": (False,),
          "pos_enc_type": ("abs",), "attn_type": ("",), "target_glu": (False,), "quantize_input": (False,)}
_NORMS = {"default": "group", "layer_norm": "layer"}
_CONVOLUTIONS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
# A CTC configuration's own names of what it changes in the encoder that it starts from.
_OVERRIDES = {"dropout": "dropout", "attention_dropout": "attention_dropout", "dropout_input": "input_dropout",
              "activation_dropout": "activation_dropout", "layerdrop": "layerdrop",
              "feature_grad_mult": "feature_grad_mult"}


def groups_of(holder: dict[str, Any], where: Source) -> dict[str, dict[str, Any]]:
    """The groups of a checkpoint's configuration, `model` and `task` among them, whichever form it has.

    Raises:
        FormatError: none that is known.
    """
    for key in ("cfg", "args"):
        found = plain(holder.get(key))
        if isinstance(found, dict) and found:
            return as_groups(found)
    raise FormatError(f"{where}: neither cfg nor args says what model this is")


def as_groups(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A configuration as groups: flat ones stand for both model and task."""
    if isinstance(found.get("model"), dict):
        return {**found, "task": found.get("task") or {}}
    return {"model": found, "task": found}


def settings_of(groups: dict[str, dict[str, Any]], where: Source) -> dict[str, Any]:
    """Settings of an EncoderConfig from those of a pretraining.

    Raises:
        FormatError: an architecture that we do not have, or a setting that is missing.
    """
    model, task = groups["model"], groups["task"]
    name = model.get("_name") or model.get("arch")
    wavlm = bool(model.get("relative_position_embedding"))
    if name is not None and name not in _FAMILIES:
        raise FormatError(f"{where}: model {name!r} is an architecture that hubertkit does not have; it has "
                          f"{', '.join(_FAMILIES)} and WavLM")
    for key, usual in _USUAL.items():
        if model.get(key, usual[0]) not in (*usual, None):
            raise FormatError(f"{where}: {key}={model[key]!r}; hubertkit has {usual[0]!r} only")
    missing = [key for key in _WANTED if key not in model]
    if missing:
        raise FormatError(f"{where}: its configuration has no {missing[0]!r}")
    if task.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise FormatError(f"{where}: sample_rate={task['sample_rate']}; hubertkit's encoders hear {SAMPLE_RATE} Hz")
    settings: dict[str, Any] = {ours: model[theirs] for theirs, ours in _WANTED.items()}
    settings |= {ours: _or(model.get(theirs), default) for theirs, (ours, default) in _OPTIONAL.items()}
    if settings["conv_norm"] not in _NORMS:
        raise FormatError(f"{where}: extractor_mode={settings['conv_norm']!r}, must be default or layer_norm")
    settings["conv_norm"] = _NORMS[settings["conv_norm"]]
    settings["conv_dim"] = check_convolutions(list(zip(*_convolutions(model.get("conv_feature_layers"), where))), where)
    settings["normalize"] = bool(task.get("normalize", False))
    settings["family"] = "wavlm" if wavlm else _FAMILIES.get(name or "hubert", "hubert")
    if wavlm:
        settings |= {"relative_buckets": model.get("num_buckets", 320),
                     "relative_distance": model.get("max_distance", 800)}
    depth = model.get("pos_conv_depth") or 1
    if depth > 1:
        settings |= {"positional_depth": depth, "positional_kernel": max(3, settings["positional_kernel"] // depth)}
    return settings


def overridden(settings: dict[str, Any], groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of a pretraining with what a CTC configuration changes in them: dropouts, not architecture."""
    changes = {ours: groups["model"][theirs] for theirs, ours in _OVERRIDES.items()
               if groups["model"].get(theirs) is not None}
    normalize = groups["task"].get("normalize", groups["model"].get("normalize", settings.get("normalize", False)))
    return {**settings, **changes, "normalize": bool(normalize)}


def model_group(config: EncoderConfig) -> dict[str, Any]:
    """What fairseq's model configurations of all families have in common."""
    conv = [(config.conv_dim, kernel, stride) for kernel, stride in zip(CONV_GRID.kernels, CONV_GRID.strides)]
    modes = {ours: theirs for theirs, ours in _NORMS.items()}
    group = {theirs: getattr(config, ours) for theirs, ours in _WANTED.items()}
    group |= {theirs: getattr(config, ours) for theirs, (ours, _) in _OPTIONAL.items()}
    group |= {"extractor_mode": modes[config.conv_norm], "conv_feature_layers": str(conv), "activation_fn": "gelu",
              "mask_prob": 0.8 if config.family == "hubert" else 0.65, "mask_length": 10}
    sizes = config.to_dict()
    if config.family == "wavlm":
        group |= {"relative_position_embedding": True, "num_buckets": sizes["relative_buckets"],
                  "max_distance": sizes["relative_distance"], "gru_rel_pos": True, "normalize": config.normalize}
    if config.family == "data2vec":
        group |= {"pos_conv_depth": sizes["positional_depth"],
                  "conv_pos": sizes["positional_depth"] * sizes["positional_kernel"]}
    return group


def ctc_overrides(config: EncoderConfig) -> dict[str, Any]:
    """A CTC configuration's names of what it may change in the encoder."""
    return {theirs: getattr(config, ours) for theirs, ours in _OVERRIDES.items()}


def _convolutions(text: Any, where: Source) -> list[tuple[int, int, int]]:
    """`[(512,10,5)] + [(512,3,2)] * 4 + ...` as a list; fairseq would evaluate it, here sums and products are read."""
    try:
        found = _value(ast.parse(text or _CONVOLUTIONS, mode="eval").body)
        return [(int(channels), int(kernel), int(stride)) for channels, kernel, stride in found]
    except (SyntaxError, ValueError, TypeError) as error:
        raise FormatError(f"{where}: conv_feature_layers={str(text)[:80]!r} is not a list of (channels, kernel, stride)"
                          ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left) + _value(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _value(node.left), _value(node.right)
        if not (isinstance(left, list) and isinstance(right, int) and 0 <= right <= 100 and len(left) <= 100):
            raise ValueError("only a short list times a small number")
        return left * right
    return ast.literal_eval(node)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
