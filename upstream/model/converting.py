"""Checkpoints from one format into another, saying what the other cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from upstream.disk import disk_errors
from upstream.errors import UsageError
from upstream.locks import filling, is_taken
from upstream.model.formats import fairseq_writing, torchaudio
from upstream.model.formats.checkpoint import Checkpoint
from upstream.model.saving import save_checkpoint

Format = Literal["huggingface", "fairseq", "torchaudio"]
_FILE_ENDINGS = (".pt", ".pth")


def write_as(checkpoint: Checkpoint, target: Path, to: Format,
             beside: Callable[[Path], None] | None = None) -> list[str]:
    """Write a checkpoint in another format, whole or not at all; gives what that cannot hold, a line each.

    Args:
        target: a folder for huggingface, which is one of ours as well; a file ending in .pt or .pth for the others.
        beside: writes more into the folder of huggingface, before that takes its name.

    Raises:
        UsageError: something stands at `target`, or the format has no such model.
        HubertkitError: the disk is full or cannot be written; nothing is left then.
    """
    target = Path(target)
    if to not in get_args(Format):
        raise UsageError(f"{to!r} is not a format to write; known are {', '.join(get_args(Format))}")
    if checkpoint.config.frontend != "conv":
        raise UsageError(f"{checkpoint.source}: the {checkpoint.config.frontend} front end is hubertkit's own; {to} "
                         "has convolutions only, so nothing was written")
    if checkpoint.ctc is not None and checkpoint.ctc.settings:
        raise UsageError(f"{checkpoint.source}: its head is hubertkit's own ({checkpoint.ctc.described}); {to} has a "
                         "linear one on the encoder's output only, so nothing was written")
    if is_taken(target):
        raise UsageError(f"{target}: already there; give a name that is free")
    if to == "huggingface":
        with disk_errors(target), filling(target) as folder:
            save_checkpoint(checkpoint, folder)
            if beside is not None:
                beside(folder)
        return _unread_by_transformers(checkpoint)
    if target.suffix not in _FILE_ENDINGS:
        raise UsageError(f"{target}: {to} keeps a model in one file; give a name that ends in {_FILE_ENDINGS[0]}")
    with disk_errors(target):
        return fairseq_writing.write(checkpoint, target) if to == "fairseq" else torchaudio.write(checkpoint, target)


def heads_written(checkpoint: Checkpoint, to: Format) -> list[str]:
    """Which heads of a checkpoint are in what `write_as` makes of it, in words."""
    found = {"masked prediction": checkpoint.prediction is not None, "a quantiser": checkpoint.quantiser is not None,
             "a CTC head": checkpoint.ctc is not None}
    if to == "torchaudio":
        found |= {"masked prediction": torchaudio.takes_head(checkpoint), "a quantiser": False}
    elif to == "fairseq":  # one head a file
        predicts = fairseq_writing.takes_prediction(checkpoint)
        found |= {"masked prediction": predicts,
                  "a quantiser": checkpoint.quantiser is not None and checkpoint.ctc is None and not predicts}
    return [name for name, written in found.items() if written]


def _unread_by_transformers(checkpoint: Checkpoint) -> list[str]:
    """What is in a folder beside what transformers reads."""
    unread = []
    if checkpoint.prediction is not None or checkpoint.others:
        unread.append("the pretraining heads, for transformers: they are in head.safetensors, which it does not "
                      "read")
    if checkpoint.ctc is not None and checkpoint.ctc.symbols is None:
        unread.append("a vocab.json, as nothing says what the rows of the head stand for; give one (--vocabulary)")
    return unread
