"""Where the results of a single command may go: not over its inputs, nor over what another command made.

Asked before the work, for an answer after an hour of it comes too late, and what was overwritten does not come back.
And what results say of the command.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from upstream.disk import check_out
from upstream.errors import UsageError

# The file by which a folder is known, and what it then is.
KINDS = {"emissions.json": "emissions", "units.json": "units", "teacher.json": "a teacher",
         "hubertkit.json": "an encoder or recogniser", "characters.json": "a character model"}
_STAGE = "stage.json"
_PARTS = (".npy", ".safetensors", ".arrow")
_NAMED_PARTS = {"vocab.json", "config.json", "preprocessor_config.json"}


def own_command() -> str:
    """The command that this process is, as one would type it again."""
    return shlex.join(["hubertkit", *sys.argv[1:]])


def check_folder(out: Path, inputs: Iterable[Path | None] = (), *, own: str | None = None) -> None:
    """Raise UsageError unless a command may write its results to a folder.

    Args:
        inputs: what the command reads; None for what was not given.
        own: the file by which its own results are known; a folder of these may be written over, where nothing lies
            that the command reads.
    """
    inputs = list(inputs)
    _refuse_inputs(out, inputs)
    if own is not None:
        _refuse_inputs_in(out, inputs)
    check_place(out)
    if (out / _STAGE).is_file():
        raise UsageError(f"{out}: belongs to a run, which would no longer hold what it says it does; give a folder of "
                         "its own with --out")
    found = next((kind for name, kind in KINDS.items() if name != own and (out / name).is_file()), None)
    if found is not None:
        raise UsageError(f"{out}: holds {found}, which would be overwritten; give a folder of its own with --out")


def check_file(out: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Raise UsageError unless a command may write its results to a file: see `check_folder`."""
    _refuse_inputs(out, inputs)
    check_place(check_out(out).parent)
    marks = {*KINDS, _STAGE}
    if out.is_file() and (out.name in marks | _NAMED_PARTS or out.suffix in _PARTS) and any(
            (out.parent / mark).is_file() for mark in marks):
        raise UsageError(f"{out}: a part of what its folder holds, which would be overwritten; give another --out")


def check_manifest_file(out: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Raise UsageError unless a command may write a manifest to a file: as `check_file`, and where a file is there that
    is no manifest."""
    from upstream.audio.corpora.probing import AUDIO_SUFFIXES  # most commands write none, and start sooner
    from upstream.audio.manifest_file import is_manifest

    if out.is_dir():
        raise UsageError(f"{out}: a folder; --out names the manifest's file, such as {out / 'manifest.arrow'}")
    check_file(out, inputs)
    if out.is_file() and out.stat().st_size and not is_manifest(out):
        raise UsageError(f"{out}: is there already and no whole manifest, so it is left as it is; remove it, or give "
                         "another --out")
    if out.suffix.lower() in AUDIO_SUFFIXES:
        raise UsageError(f"{out}: the name of a recording; --out names a manifest, .arrow or .parquet")


def check_place(folder: Path) -> None:
    """Raise UsageError unless a folder can be written to, or made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{there}: a file stands where a folder is needed; give another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{there}: nothing can be written in this folder; give another --out")


def _refuse_inputs(out: Path, inputs: Iterable[Path | None]) -> None:
    if out.exists() and any(given is not None and given.exists() and out.samefile(given) for given in inputs):
        raise UsageError(f"{out}: what the command reads, which would be overwritten; give another --out")


def _refuse_inputs_in(out: Path, inputs: Iterable[Path | None]) -> None:
    for given in inputs:
        if given is not None and given.is_file() and out.is_dir() and any(
                parent.samefile(out) for parent in (given.absolute().parent, given.resolve().parent)):
            raise UsageError(f"{given}: what the command reads lies in the folder that would be filled; give a folder "
                             "of its own with --out")
