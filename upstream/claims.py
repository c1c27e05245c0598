"""Which files of a folder we wrote, where others have files of the same kind and name: only ours may be replaced or
removed. Of exports of corpora, alignments and transcripts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from upstream.disk import disk_errors, writing
from upstream.errors import FormatError, InputError

MARK = ".hubertkit-export"  # names of files, one a line; in JSON those that no line of text can hold


def refuse_others(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError where a file of one of these names is in a folder and nothing notes that we wrote it."""
    ours = _claimed(folder)
    for name in names:
        if name not in ours and (folder / name).exists():
            raise InputError(f"{folder / name}: is there already, and nothing notes that hubertkit wrote it; give "
                             "another folder or name, or move it away")


def claim(folder: Path, names: Iterable[str]) -> None:
    """Note that files of these names in a folder are ours. Raises as `refuse_others`."""
    names = list(names)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        refuse_others(folder, names)
        before = _claimed(folder)
        if not before.issuperset(names):
            _note(folder, before.union(names))


def unclaim_missing(folder: Path, names: Iterable[str]) -> None:
    """Of these names let go of those that no file has: claimed for what then could not be made. Who puts a file of his
    own there keeps it."""
    with _alone(folder):
        before = _claimed(folder)
        missing = {name for name in before.intersection(names) if not (folder / name).exists()}
        if missing:
            _note(folder, before - missing)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove our files of these names; what is written there from then on is somebody's own.

    Raises as `refuse_others`.
    """
    names = set(names)
    refuse_others(folder, names)
    if not folder.is_dir():
        return
    with _alone(folder):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        ours = _claimed(folder)
        if ours & names:
            _note(folder, ours - names)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the notes of a folder: several may transcribe into one. Without a word where
    the file system has no locks."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _note(folder: Path, names: Iterable[str]) -> None:
    with disk_errors(folder), writing(folder / MARK) as temporary:
        temporary.write_text("".join(f"{_line(name)}\n" for name in sorted(names)), encoding="utf-8")


def _claimed(folder: Path) -> frozenset[str]:
    mark = folder / MARK
    try:
        return frozenset(map(_name, mark.read_text(encoding="utf-8").split("\n"))) - {""}
    except FileNotFoundError:
        return frozenset()
    except UnicodeDecodeError as error:
        raise FormatError(f"{mark}: no list of names of files, so nothing tells which of them hubertkit wrote; give "
                          "another folder, or move it away") from error


def _line(name: str) -> str:
    """Line breaks, and bytes that are no UTF-8, as JSON has them."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)


def _name(line: str) -> str:
    with contextlib.suppress(ValueError):
        if line.startswith('"') and isinstance(name := json.loads(line), str):
            return name
    return line
