"""Which files of a folder we wrote, where others have files of the same kind and name: only ours may be replaced or
removed. Of exports of corpora, alignments and transcripts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from upstream.disk import disk_errors, writing
from upstream.errors import InputError

MARK = ".hubertkit-export"  # names of files, one a line


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
    refuse_others(folder, names)
    before = _claimed(folder)
    if not before.issuperset(names):
        _note(folder, before.union(names))


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove our files of these names; what is written there from then on is somebody's own.

    Raises as `refuse_others`.
    """
    names = set(names)
    refuse_others(folder, names)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    ours = _claimed(folder)
    if ours & names:
        _note(folder, ours - names)


def _note(folder: Path, names: Iterable[str]) -> None:
    with disk_errors(folder), writing(folder / MARK) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


def _claimed(folder: Path) -> frozenset[str]:
    try:
        return frozenset((folder / MARK).read_text(encoding="utf-8").split("\n")) - {""}
    except FileNotFoundError:
        return frozenset()
