"""Encoders on disk: a folder that `transformers` can load when the front end is convolutional.

    config.json              what `transformers` reads: the model's sizes
    model.safetensors        float32 weights under its names; with the head of a recogniser in front of one
    preprocessor_config.json whether waveforms are standardised
    head.safetensors         weights that are neither (heads of the objective), if any
    hubertkit.json           the encoder's configuration, versions, and whatever the caller records; written last

A recogniser's folder also holds `vocab.json` and what `transformers.AutoProcessor` wants beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upstream.disk import check_json, write_json
from upstream.errors import FormatError, UsageError
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.model.formats import huggingface, huggingface_files
from upstream.model.formats.checkpoint import (
    Checkpoint,
    CtcHead,
    Prediction,
    new_weight_norm,
    of_shape,
    old_weight_norm,
    refuse_rest,
    shapes,
    take,
)
from upstream.model.formats.tensors import as_saved, read_tensors, write_tensors

FORMAT_VERSION = 1
WRITTEN_HERE = ("format", "encoder", "transformers_loads_it", "transformers_lacks", "hash", "has_head", "versions",
                "head_settings")


def save_encoder(
    encoder: Encoder,
    folder: Path,
    extra: dict[str, Any],
    head: dict[str, Tensor] | None = None,
    ctc: CtcHead | None = None,
) -> None:
    """Write an encoder to `folder`, each file under a temporary name first.

    With the conv front end `transformers.AutoModel` loads the folder, and `AutoModelForCTC` if there is `ctc`.

    Args:
        extra: what else belongs to it, JSON values (recipe, round, label classes); keys of its own in hubertkit.json.
        head: tensors of a head, to head.safetensors.
        ctc: head and symbols of a recogniser.

    Raises:
        UsageError: `extra` uses a key that is ours, or holds what JSON cannot.
    """
    tensors = {name: as_saved(tensor) for name, tensor in encoder.state_dict().items()}
    _write(Checkpoint(folder, encoder.config, tensors, ctc=ctc, others=head or {}, extra=extra), Path(folder))


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write whatever a checkpoint of any format holds to `folder`, as `save_encoder` does."""
    others, extra = dict(checkpoint.others), dict(checkpoint.extra)
    if checkpoint.prediction is not None:
        others |= prediction_tensors(checkpoint.prediction, checkpoint.config.layers)
        extra |= _prediction_keys(checkpoint.prediction, extra.get("objective") or {})
    quantiser = checkpoint.quantiser if huggingface_files.has_pretraining(checkpoint) else None
    if checkpoint.quantiser is not None:
        extra.setdefault("objective", {"kind": "wav2vec2"})
        others |= {} if quantiser else checkpoint.quantiser
    if checkpoint.ctc is not None:
        extra.setdefault("head", "ctc")
    _write(Checkpoint(checkpoint.source, checkpoint.config, checkpoint.tensors, quantiser=quantiser,
                      ctc=checkpoint.ctc, others=others, extra=extra), Path(folder))


def read_encoder(folder: Path, device: str | torch.device | None = None) -> Encoder:
    """Read an encoder that `save_encoder` wrote, in evaluation mode.

    Raises:
        UsageError: no such encoder.
        FormatError: a broken file, another format version, or weights that do not fit the configuration.
    """
    return _read_encoder(Path(folder), read_description(folder)).encoder().to(device or "cpu")


def read_checkpoint_folder(folder: Path) -> Checkpoint:
    """Read a folder of ours with all that is in it. Raises as `read_encoder`."""
    folder = Path(folder)
    described = read_description(folder)
    found = _read_encoder(folder, described)
    head_file = folder / "head.safetensors"
    others = read_tensors(head_file) if head_file.is_file() and described.get("has_head", True) else {}
    ctc = found.ctc
    if ctc is None and described.get("head") == "ctc":
        ctc = _take_ctc(others, described, folder)
    if ctc is not None:
        symbols, blank = huggingface.read_vocabulary(folder, len(ctc.weight))
        ctc = replace(ctc, symbols=symbols, blank=blank)
    prediction = _take_prediction(others, described, found.config, head_file)
    quantiser = found.quantiser or huggingface.take_quantiser(others)
    extra = {key: value for key, value in described.items() if key not in WRITTEN_HERE}
    return Checkpoint(folder, found.config, found.tensors, prediction, quantiser, ctc, others, extra)


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of an encoder folder's hubertkit.json.

    Raises:
        UsageError: the folder holds none.
        FormatError: it is not JSON, or of another version.
    """
    path = Path(folder) / "hubertkit.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no encoder: hubertkit.json is missing (`hubertkit convert` makes a folder "
                         "with one of other formats)")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        version = described["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a description of an encoder ({error!r})") from error
    if version != FORMAT_VERSION:
        raise FormatError(f"{path}: format {version}; this version of hubertkit reads {FORMAT_VERSION}")
    return described


def prediction_tensors(prediction: Prediction, layers: int) -> dict[str, Tensor]:
    """The heads under the names of `MaskedPrediction`."""
    return {f"projections.{layers}.0.weight": prediction.weight, f"projections.{layers}.0.bias": prediction.bias,
            **{f"tables.{i}.embeddings": table for i, table in enumerate(prediction.tables)}}


def encoder_hash(encoder: Encoder | Path) -> str:
    """sha256 (hex) over the names, shapes and float32 values of an encoder's weights, or of a saved encoder's."""
    if isinstance(encoder, Encoder):
        tensors = {new_weight_norm(name): as_saved(tensor) for name, tensor in encoder.state_dict().items()}
    else:
        tensors = huggingface.split_head(read_tensors(Path(encoder) / "model.safetensors"))[0]
    return _hash(tensors)


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over the names, shapes and float32 values of tensors, in the order of their names."""
    return _hash({name: as_saved(tensor) for name, tensor in tensors.items()})


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    config, ctc, head = checkpoint.config, checkpoint.ctc, dict(checkpoint.others)
    files = huggingface_files.json_files(checkpoint)
    lacks = [] if config.frontend == "conv" else [f"the {config.frontend} front end"]
    if ctc is not None and ctc.settings:
        lacks.append(f"the head ({ctc.described})")
    described = {
        "format": FORMAT_VERSION,
        "encoder": config.to_dict(),
        "transformers_loads_it": not lacks,
        "transformers_lacks": lacks,
        "hash": _hash({new_weight_norm(name): as_saved(tensor) for name, tensor in checkpoint.tensors.items()}),
        "versions": {"torch": torch.__version__},
    }
    if ctc is not None and lacks:  # transformers cannot load it anyway
        head |= {"weight": ctc.weight, "bias": ctc.bias, **ctc.under}
        described |= {"head_settings": ctc.settings} if ctc.settings else {}
        checkpoint = replace(checkpoint, ctc=None)
    described["has_head"] = bool(head)
    taken = sorted(set(described) & set(checkpoint.extra))
    if taken:
        raise UsageError(f"{folder}: the key {taken[0]!r} of hubertkit.json is written by hubertkit itself")
    check_json(checkpoint.extra, folder / "hubertkit.json")
    write_tensors(folder / "model.safetensors", huggingface_files.named(checkpoint))
    if head:
        write_tensors(folder / "head.safetensors", head)
    else:
        (folder / "head.safetensors").unlink(missing_ok=True)
    for name, content in files.items():
        write_json(folder / name, content)
    write_json(folder / "hubertkit.json", {**described, **checkpoint.extra})


def _read_encoder(folder: Path, described: dict[str, Any]) -> Checkpoint:
    """Configuration, encoder and, where it stands in the same file, the head of a recogniser without its symbols."""
    try:
        config = EncoderConfig.from_dict(described["encoder"])
    except (KeyError, TypeError, UsageError) as error:
        raise FormatError(f"{folder / 'hubertkit.json'}: {error}") from error
    where = folder / "model.safetensors"
    found, heads = huggingface.split_head(read_tensors(where))
    found = old_weight_norm(found)
    tensors = take(shapes(config), found, lambda name: name, where)
    refuse_rest(found, where)
    ctc = None
    if "lm_head.weight" in heads and "lm_head.bias" in heads:
        ctc = CtcHead(heads.pop("lm_head.weight"), heads.pop("lm_head.bias"), None)
    quantiser = huggingface.take_quantiser(heads)
    refuse_rest(heads, where)
    return Checkpoint(folder, config, tensors, quantiser=quantiser, ctc=ctc)


def _take_ctc(head: dict[str, Tensor], described: dict[str, Any], folder: Path) -> CtcHead | None:
    """The head of a recogniser, taken out of `head`; None if that holds another, or none. Raises FormatError."""
    settings, where = described.get("head_settings", {}), folder / "hubertkit.json"
    if not isinstance(settings, dict):
        raise FormatError(f"{where}: head_settings must be a mapping; copy the recogniser once more")
    if not {"weight", "bias"} <= set(head) or (len(head) > 2 and not settings):
        return None
    found = CtcHead(head.pop("weight"), head.pop("bias"), None, settings=settings, under=dict(head))
    head.clear()
    return found


def _prediction_keys(prediction: Prediction, objective: dict[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {"objective": {**objective, "kind": "hubert", "head": "cosine",
                                          "final_dim": prediction.final_dim, "temperature": prediction.temperature,
                                          "tied_projections": prediction.tied}}
    if prediction.special_rows:
        keys["special_rows"] = prediction.special_rows
    if prediction.labels is not None:
        keys["labels"] = [list(names) for names in prediction.labels]
    return keys


def _take_prediction(head: dict[str, Tensor], described: dict[str, Any], config: EncoderConfig, where: Path
                     ) -> Prediction | None:
    """Heads of masked prediction at the last layer, taken out of `head`; None if they are others, or none."""
    count = sum(key.startswith("tables.") and key.endswith(".embeddings") for key in head)
    names = [f"projections.{config.layers}.0.weight", f"projections.{config.layers}.0.bias",
             *(f"tables.{i}.embeddings" for i in range(count))]
    if not count or set(head) != set(names):
        return None
    weight, bias, *tables = (head.pop(name) for name in names)
    objective = described.get("objective") or {}
    dim = tables[0].shape[1]
    of_shape(weight, (dim if len(weight) == dim else dim * count, config.width), names[0], where)
    labels = described.get("labels")
    return Prediction(weight, bias, tuple(tables), float(objective.get("temperature", 0.1)),
                      int(described.get("special_rows", 0)),
                      None if labels is None else tuple(tuple(names) for names in labels))
