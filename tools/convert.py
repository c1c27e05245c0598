"""`hubertkit convert`: checkpoints of fairseq, Hugging Face and torchaudio, and ours, into each other."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from downstream.recogniser_formats import with_vocabulary
from upstream.model.converting import heads_written, write_as
from upstream.model.loading import read_checkpoint
from upstream.progress import say
from upstream.teacher.teacher import Teacher

TEACHER = "teacher"  # within an encoder's folder


class Format(str, Enum):
    """What can be written."""

    huggingface = "huggingface"
    fairseq = "fairseq"
    torchaudio = "torchaudio"


class SpecialRows(str, Enum):
    """What becomes of the rows for `<s>`, `<pad>`, `</s>`, `<unk>` that fairseq's class tables start with."""

    keep = "keep"
    drop = "drop"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(convert)


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder of ours or of Hugging Face, a fairseq .pt, a "
                                          "torchaudio state dict, a hub id, or a torchaudio bundle.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A folder for huggingface, else a file ending in .pt.")],
    to: Annotated[Format, typer.Option(help="The format to write; a huggingface folder is one of ours as well.")],
    pretrained: Annotated[Path | None, typer.Option(help="The checkpoint that a fairseq CTC model started from, where "
                                                    "it does not carry its configuration.")] = None,
    vocabulary: Annotated[Path | None,
                          typer.Option(help="A vocab.json for a CTC head whose rows nothing names.")] = None,
    special_rows: Annotated[SpecialRows,
                            typer.Option(help="fairseq's four special rows of a class table: kept as classes, or "
                                         "dropped so that units are classes.")] = SpecialRows.keep,
) -> None:
    """Write a model in another format; what that cannot hold is said on standard error."""
    found = read_checkpoint(source, pretrained, special_rows=special_rows is SpecialRows.keep)
    found = with_vocabulary(found, vocabulary)
    for note in found.notes:
        say(f"note: {note}")
    teacher = Path(found.source) / TEACHER
    for loss in write_as(found, target, to.value, lambda folder: _carry_teacher(teacher, folder)):
        say(f"not in {to.value}: {loss}")
    if to is not Format.huggingface and _is_teacher(teacher):
        say(f"not in {to.value}: the teacher of its units, which stays in {teacher}")
    parameters = sum(tensor.numel() for tensor in found.tensors.values())
    heads = " and ".join(heads_written(found, to.value))
    print(f"{target}: {to.value}, an encoder of {parameters:,} parameters{f', with {heads}' * bool(heads)}")


def _carry_teacher(teacher: Path, folder: Path) -> None:
    """The teacher that made the labels of a pretraining head goes along into a folder; a file has no place for it."""
    if _is_teacher(teacher):
        Teacher.load(teacher).save(folder / TEACHER)


def _is_teacher(folder: Path) -> bool:
    return (folder / "teacher.json").is_file()

