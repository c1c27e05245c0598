"""The folders below a folder, with links to folders followed, but never in a circle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

Unreadable = Callable[[Path, str], None]


def walk(top: Path, unreadable: Unreadable) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of what is no folder in it) of `top` and everything below it, sorted.

    A link that leads back to a folder above it is not followed: all files there would come again and again.

    Args:
        unreadable: called with each folder that cannot be listed, and why.
    """
    pending = [(Path(top), frozenset({os.path.realpath(top)}))]
    while pending:
        folder, above = pending.pop()
        try:
            with os.scandir(folder) as listed:
                found = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            unreadable(folder, f"a folder that cannot be read ({error.strerror})")
            continue
        inside = [entry for entry in found if _is_folder(entry)]
        names = {entry.name for entry in inside}
        yield folder, [entry.name for entry in found if entry.name not in names]
        for entry in reversed(inside):
            real = os.path.realpath(entry.path)
            if real not in above:
                pending.append((folder / entry.name, above | {real}))


def files_below(top: Path, suffix: str | tuple[str, ...], unreadable: Unreadable) -> Iterator[Path]:
    """Files whose names end so, or in one of these ways (lower case), however the names have it, at any depth;
    `unreadable` as for `walk`."""
    yield from (folder / name for folder, names in walk(top, unreadable) for name in names
                if name.lower().endswith(suffix))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # a link to itself is none
