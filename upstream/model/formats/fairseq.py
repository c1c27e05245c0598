"""fairseq's checkpoints (`.pt`): HuBERT, wav2vec 2.0 and WavLM, pretrained or fine-tuned with CTC.

    cfg or args    the configuration: groups, or a flat namespace in files before 2021
    model          tensors; those of a fine-tuned encoder behind `w2v_encoder.w2v_model.`
    task_state     dictionaries: of the units of each stream, or of the letters

Nothing of a file's pickle is run (`pickles`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from upstream.errors import FormatError
from upstream.model.config import EncoderConfig
from upstream.model.formats.checkpoint import (
    Checkpoint,
    CtcHead,
    Prediction,
    Source,
    check_conv_norm,
    config_from,
    of_shape,
    old_weight_norm,
    refuse_rest,
    shapes,
    take,
)
from upstream.model.formats.fairseq_config import as_groups, groups_of, overridden, settings_of
from upstream.model.formats.pickles import Dictionary, plain, read_torch_file
from upstream.model.formats.published import settings_from_shapes

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # the first rows of everything that is counted by a Dictionary
BODY = "w2v_encoder.w2v_model."
FILLER_BIAS = -1e4  # of a row that a fairseq head must have and that is never to be chosen
QUANTISER = {"quantizer.codevectors": "quantizer.vars", "quantizer.weight_proj.weight": "quantizer.weight_proj.weight",
             "quantizer.weight_proj.bias": "quantizer.weight_proj.bias", "project_q.weight": "project_q.weight",
             "project_q.bias": "project_q.bias", "project_hid.weight": "final_proj.weight",
             "project_hid.bias": "final_proj.bias"}
_NAMES = (
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
    (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"encoder.pos_conv.\1.0."),
    (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
    (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
    (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
    (r"\.attention\.", ".self_attn."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
)


def their_name(name: str, conv_norm: str) -> str:
    """fairseq's name of a tensor of ours."""
    norm = ".2.1." if conv_norm == "layer" else ".2."
    name = re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", rf"\g<1>{norm}", name)
    for pattern, theirs in _NAMES:
        name = re.sub(pattern, theirs, name)
    return name


def looks_like(content: Any) -> bool:
    """Whether the contents of a torch file are a fairseq checkpoint."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return False
    return "cfg" in content or "args" in content


def read(path: Path, content: dict[str, Any], pretrained: Path | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        content: what `read_torch_file(path)` gave.
        pretrained: the checkpoint that a CTC model was fine-tuned from, where it does not carry its configuration;
            not needed if that lies beside it under its own name, or for published sizes.

    Raises:
        FormatError: an architecture that we do not have, no configuration, or weights that do not fit it.
    """
    given, notes = _without_teacher(content["model"])
    tensors = old_weight_norm(given)
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise FormatError(f"{path}: 'model' holds other things than tensors")
    groups = groups_of(content, path)
    state = content.get("task_state") or {}
    if not any(key.startswith("w2v_encoder.") for key in tensors):
        config, encoder, more = _encoder(tensors, settings_of(groups, path), path)
        quantiser = _quantiser(tensors)
        prediction = None if quantiser else _prediction(tensors, groups, state, config.width, path)
        more += _drop_regression(tensors, config)
        refuse_rest(tensors, path)
        return Checkpoint(path, config, encoder, prediction, quantiser, extra={"fairseq": groups}, notes=notes + more)

    body = {key[len(BODY):]: tensors.pop(key) for key in list(tensors) if key.startswith(BODY)}
    settings = overridden(_pretrained_settings(groups, body, Path(path), pretrained), groups)
    config, encoder, more = _encoder(body, settings, path)
    more += _drop_regression(body, config)
    table = body.pop("label_embs_concat", None)
    refuse_rest((BODY + key for key in body), path)
    ctc = _ctc(tensors, state, config.width, path)
    refuse_rest(tensors, path)
    others = {} if table is None else {"label_embs_concat": table.float().clone()}
    return Checkpoint(path, config, encoder, ctc=ctc, others=others, extra={"fairseq": groups},
                      notes=notes + more)


def _encoder(tensors: dict[str, Tensor], settings: dict[str, Any], path: Source
             ) -> tuple[EncoderConfig, dict[str, Tensor], tuple[str, ...]]:
    """The encoder's configuration and tensors, taken out of `tensors`."""
    norm = settings["conv_norm"]
    check_conv_norm(norm, "feature_extractor.conv_layers.1.2.1.weight" in tensors, path)
    config = config_from(settings, path)
    expected, given = shapes(config), {}
    notes: tuple[str, ...] = ()
    if "post_extract_proj.weight" not in tensors and config.conv_dim == config.width:
        given = {"feature_projection.projection.weight": tensors["mask_emb"].new_ones(config.width).diag().float(),
                 "feature_projection.projection.bias": tensors["mask_emb"].new_zeros(config.width).float()}
        notes = ("fairseq leaves the projection of the features out where widths agree; it became the identity",)
    wanted = {name: shape for name, shape in expected.items() if name not in given}
    return config, {**take(wanted, tensors, lambda name: their_name(name, norm), path), **given}, notes


def _pretrained_settings(groups: dict[str, Any], body: dict[str, Tensor], path: Path, pretrained: Path | None
                         ) -> dict[str, Any]:
    """The architecture of a fine-tuned model: from its own w2v_args, its pretraining checkpoint, or published sizes."""
    known = plain(groups["model"].get("w2v_args"))
    if isinstance(known, dict) and known:
        return settings_of(as_groups(known), path)
    name = Path(str(groups["model"].get("w2v_path") or "")).name
    beside = pretrained or (path.parent / name if name and (path.parent / name).is_file() else None)
    if beside is not None and beside.resolve() != path.resolve():
        return settings_of(groups_of(read_torch_file(beside), beside), beside)
    norm = "layer" if "feature_extractor.conv_layers.1.2.1.weight" in body else "group"

    def shape(ours: str) -> tuple[int, ...] | None:
        tensor = body.get(their_name(ours, norm))
        return None if tensor is None else tuple(tensor.shape)

    found = settings_from_shapes(shape, norm)
    if found is None or "heads" not in found:
        beside_it = f", or have that lie beside it as {name}" * bool(name)
        raise FormatError(f"{path}: a fine-tuned model without w2v_args does not say how many attention heads it has; "
                          "give the checkpoint that it was fine-tuned from (pretrained=FILE; `hubertkit convert "
                          f"--pretrained FILE`){beside_it}")
    name = groups["model"].get("_name") or groups["model"].get("arch")
    return {"family": "wav2vec2" if name == "wav2vec_ctc" else "hubert", **found}


def _quantiser(tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights of wav2vec 2.0's quantiser and projections, taken out of `tensors`; None if they are not all there."""
    if any(theirs not in tensors for theirs in QUANTISER.values()):
        return None
    return {ours: tensors.pop(theirs).float().clone() for ours, theirs in QUANTISER.items()}


def _without_teacher(model: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """All but data2vec's averaged teacher, a dictionary under one key, which only its training needs."""
    kept = {key: value for key, value in model.items() if not key.removeprefix(BODY).startswith("_ema")}
    return kept, ("left out data2vec's averaged teacher (_ema)",) if len(kept) < len(model) else ()


def _drop_regression(tensors: dict[str, Tensor], config: EncoderConfig) -> tuple[str, ...]:
    """Drop the head of data2vec's training, a matrix of the encoder's width."""
    names = [key for key in ("final_proj.weight", "final_proj.bias") if key in tensors]
    if config.family != "data2vec" or not names:
        return ()
    for name in names:
        del tensors[name]
    return ("left out data2vec's regression (final_proj)",)


def _prediction(tensors: dict[str, Tensor], groups: dict[str, Any], state: dict[str, Any], width: int, path: Source
                ) -> Prediction | None:
    if "label_embs" in tensors:
        tensors["label_embs_concat"] = tensors.pop("label_embs")  # files of early 2021
    if "final_proj.weight" not in tensors or "label_embs_concat" not in tensors:
        return None
    table, weight = tensors.pop("label_embs_concat"), tensors.pop("final_proj.weight")
    dictionaries = [_symbols(entry) for entry in state.get("dictionaries") or []]
    counts = [len(symbols) for symbols in dictionaries] or [len(table)]
    if sum(counts) != len(table) or table.dim() != 2:
        raise FormatError(f"{path}: 'label_embs_concat' has shape {tuple(table.shape)}; its dictionaries have "
                          f"{' + '.join(map(str, counts))} symbols")
    dim = table.shape[1]
    table = of_shape(table, (sum(counts), dim), "label_embs_concat", path)
    projected = dim if len(weight) == dim else dim * len(counts)
    weight = of_shape(weight, (projected, width), "final_proj.weight", path)
    if "final_proj.bias" not in tensors:
        raise FormatError(f"{path}: no tensor 'final_proj.bias', of shape {(projected,)}")
    bias = of_shape(tensors.pop("final_proj.bias"), (projected,), "final_proj.bias", path)
    labels = tuple(tuple(symbols[len(SPECIALS):]) for symbols in dictionaries) if dictionaries else None
    if labels and all(names == tuple(map(str, range(len(names)))) for names in labels):
        labels = None
    temperature = float(groups["model"].get("logit_temp") or 0.1)
    found = Prediction(weight, bias, table.split(counts), temperature, len(SPECIALS), labels)
    filled = not any(bool(part[: len(SPECIALS)].any()) for part in found.tables)  # by us (`fairseq_writing`)
    return found.without_special_rows() if filled else found


def _symbols(entry: Any) -> list[str]:
    """The symbols of a dictionary, in the order of their ids; plain lists are ours."""
    found = getattr(entry, "symbols", None) if isinstance(entry, Dictionary) else entry
    return [str(symbol) for symbol in found] if isinstance(found, list) else []


def _ctc(tensors: dict[str, Tensor], state: dict[str, Any], width: int, path: Source) -> CtcHead:
    key = "w2v_encoder.proj."
    if f"{key}weight" not in tensors or f"{key}bias" not in tensors:
        raise FormatError(f"{path}: no tensor '{key}{'bias' if f'{key}weight' in tensors else 'weight'}' with "
                          f"{width} columns")
    rows = len(tensors[f"{key}weight"])
    weight = of_shape(tensors.pop(f"{key}weight"), (rows, width), f"{key}weight", path)
    bias = of_shape(tensors.pop(f"{key}bias"), (rows,), f"{key}bias", path)
    symbols = _symbols(state.get("target_dictionary"))
    if not symbols:
        return CtcHead(weight, bias, None)
    if len(symbols) != rows:
        raise FormatError(f"{path}: '{key}weight' has {rows} rows; its dictionary has {len(symbols)} symbols")
    # fairseq's blank is `<s>`, row 0; transformers and we call that row `<pad>`. The rows stay where they are.
    names = ["<pad>", "<s>", *symbols[2:]] if tuple(symbols[:2]) == SPECIALS[:2] else symbols
    kept = [i for i in range(rows) if i == 0 or float(bias[i]) != FILLER_BIAS or bool(weight[i].any())]
    return CtcHead(weight[kept], bias[kept], tuple(names[i] for i in kept))
