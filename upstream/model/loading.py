"""Encoders from wherever they come: what a source is, is recognised here; how it is read, `formats` knows.

    encoder = load_encoder("run/round2/encoder")            a folder of ours, or of Hugging Face
    encoder = load_encoder("facebook/hubert-base-ls960")    a model of the hub
    encoder = load_encoder("hubert_base_ls960.pt")          fairseq, pretrained or fine-tuned; WavLM
    encoder = load_encoder("hubert.pth")                    a torchaudio state dict
    encoder = load_encoder("HUBERT_BASE")                   a bundle of torchaudio
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from upstream.device import named_device
from upstream.errors import FormatError, UsageError
from upstream.model.encoder import Encoder
from upstream.model.formats import fairseq, huggingface, torchaudio
from upstream.model.formats.checkpoint import Checkpoint
from upstream.model.formats.pickles import read_torch_file
from upstream.model.masked_prediction import MaskedPrediction
from upstream.model.saving import prediction_tensors, read_checkpoint_folder

KNOWN = ("a folder of hubertkit (hubertkit.json) or Hugging Face (config.json), a fairseq checkpoint (.pt), a "
         "torchaudio state dict (.pt, .pth), a hub id (owner/name) or a torchaudio bundle (HUBERT_BASE)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_encoder(
    source: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    pretrained: Path | None = None,
) -> Encoder:
    """The encoder of a checkpoint in any format, in evaluation mode.

    Whether it wants standardised waveforms is in its `config.normalize` (`prepared`). Every tensor comes from the
    source; a mask vector that it does not hold is zero.

    Args:
        device: where to; the host if None.
        dtype: float32 if None, whatever the source has.
        pretrained: the checkpoint that a fairseq CTC model was fine-tuned from, if neither it nor a file beside it says
            how many attention heads there are.

    Raises:
        UsageError: no such source, or one that cannot be fetched; a device that is not there; no dtype.
        FormatError: a format or architecture that is not known, a broken file, a tensor that is missing, left over or
            of another shape, a pickle that wants more than tensors.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise UsageError(f"dtype={dtype!r}: expected a type of torch, torch.float16 for instance")
    where = torch.device("cpu") if device is None else named_device(device)
    encoder = read_checkpoint(source, pretrained).encoder()
    return encoder.to(where, dtype or torch.float32)


def load_prediction(source: str | Path, pretrained: Path | None = None, special_rows: bool = True,
                    **settings: Any) -> MaskedPrediction:
    """An encoder with its heads of masked prediction, in evaluation mode.

    Args:
        special_rows: keep the four rows that fairseq's tables start with as classes, so that unit c is class c + 4 and
            logits are fairseq's; without them units are classes.
        settings: further ones of `MaskedPrediction`: weights and the feature penalty.

    Raises:
        UsageError, FormatError: as `load_encoder`; or the source has no such heads.
    """
    found = read_checkpoint(source, pretrained)
    head = found.prediction
    if head is None:
        raise UsageError(f"{source}: no heads of masked prediction over cosines at the last layer")
    if not special_rows:
        head = head.without_special_rows()
    classes = tuple(len(table) for table in head.tables)
    model = MaskedPrediction(found.encoder(), classes, head.final_dim, head.temperature, tied_projections=head.tied,
                             **settings)
    tensors = prediction_tensors(head, found.config.layers)
    model.load_state_dict({**{f"encoder.{name}": tensor for name, tensor in found.tensors.items()}, **tensors})
    return model.eval()


def read_checkpoint(source: str | Path, pretrained: Path | None = None, special_rows: bool = True) -> Checkpoint:
    """All that a source holds. Arguments and errors as `load_encoder` and `load_prediction`."""
    if not isinstance(source, str | Path):
        raise UsageError(f"{source!r:.60}: no encoder. Known are {KNOWN}")
    try:
        found = _read(source, pretrained)
    except (TypeError, ValueError, AttributeError) as error:  # a list where a number belongs, and the like
        raise FormatError(f"{source}: a value in its configuration is of another kind than it should be "
                          f"({' '.join(str(error).split())[:200]})") from error
    if found.prediction is not None and not special_rows:
        found = replace(found, prediction=found.prediction.without_special_rows(),
                        extra={key: value for key, value in found.extra.items() if key != "special_rows"})
    return found


def _read(source: str | Path, pretrained: Path | None) -> Checkpoint:
    path, name = Path(source), str(source)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path, pretrained)
    if torchaudio.is_bundle(name):
        return torchaudio.read_bundle(name)
    if _HUB_ID.fullmatch(name):
        return _read_folder(huggingface.download(name))
    raise UsageError(f"{name}: no such file or folder. Known are {KNOWN}")


def _read_folder(path: Path) -> Checkpoint:
    if (path / "hubertkit.json").is_file():
        return read_checkpoint_folder(path)
    if huggingface.looks_like(path):
        return huggingface.read(path)
    raise UsageError(f"{path} holds no encoder: hubertkit.json is missing, and there is no config.json of a "
                     f"Hugging Face model. Known are {KNOWN}")


def _read_file(path: Path, pretrained: Path | None) -> Checkpoint:
    if path.suffix == ".safetensors" or path.name.startswith("pytorch_model"):
        raise UsageError(f"{path}: weights without their configuration; give the folder that holds it and config.json")
    content = read_torch_file(path)
    if fairseq.looks_like(content):
        return fairseq.read(path, content, pretrained)
    if torchaudio.looks_like(content):
        return torchaudio.read(path, content)
    raise FormatError(f"{path}: neither a checkpoint of fairseq ('model' with 'cfg' or 'args') nor a state dict of "
                      f"torchaudio ('encoder.transformer...'). Known are {KNOWN}")
