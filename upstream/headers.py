"""Headers of folders of arrays: JSON objects that say what the arrays are, of which each value has a kind."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from upstream.disk import read_json
from upstream.errors import FormatError, UsageError

Field = tuple[str, Callable[[Any], bool]]  # what is expected, in words, and whether a value is that
Parts = Callable[[dict[str, Any]], Sequence[str]]  # a header -> names of the files beside it that it speaks of
WRITING = ".writing"  # a folder in one that is being written: where it is left, that was cut short


def is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number, as true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_rate(value: Any) -> bool:
    """Whether a value of JSON is a number above 0, and finite."""
    return isinstance(value, int | float) and value is not True and 0 < value < float("inf")


HASH: Field = "a string", lambda value: isinstance(value, str)
META: Field = "an object", lambda value: isinstance(value, dict)


def read_header(path: Path, kind: str, version: int, fields: Mapping[str, Field], again: str) -> dict[str, Any]:
    """A header with all of these fields.

    Args:
        kind: of the folder, `units` for instance.
        again: what to do where it is none: `make them again`.

    Raises:
        FormatError: no JSON, of another kind or version, a field that is missing or of another kind.
    """
    header = read_json(path)
    if not isinstance(header, dict) or header.get("version") != version or header.get("format") != f"hubertkit {kind}":
        raise FormatError(f"{path}: not {kind} of format version {version} (format must be 'hubertkit {kind}', version "
                          f"{version}); {again}")
    missing = fields.keys() - header.keys()
    if missing:
        raise FormatError(f"{path}: lacks {', '.join(sorted(missing))}; {again}")
    for name, (expected, sound) in fields.items():
        if not sound(header[name]):
            raise FormatError(f"{path}: {name} is {str(header[name])[:40]!r}; expected {expected}")
    return header


def parts_held(header: Path, kind: str, parts: Parts) -> list[str] | None:
    """The files of a folder that are ours: what its header speaks of, and the header.

    Args:
        header: its path.
        kind: as for `read_header`.
        parts: gives the names that a header speaks of.

    Returns:
        Names, the header's last; none where there is no header, or one of somebody else; None where it is damaged and
        does not say.
    """
    if not header.is_file():
        return []
    try:
        found = read_json(header)
    except FormatError:
        return None
    if not isinstance(found, dict) or found.get("format") != f"hubertkit {kind}":
        return []
    try:
        return [*parts(found), header.name]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def refuse_other_files(header: Path, kind: str, parts: Parts, names: Sequence[str]) -> None:
    """Raise UsageError where a file that is to be written is in a folder already, and is somebody else's: no part of
    what the folder holds of this kind, nor left by a writing that was cut short.

    Args:
        header: its path; it is to be written, too.
        kind, parts: as for `parts_held`.
        names: of what is to be written beside it.
    """
    held = parts_held(header, kind, parts)
    if held is None or (header.parent / WRITING).is_dir():
        return
    for name in (header.name, *names):
        if name not in held and (header.parent / name).exists():
            raise UsageError(f"{header.parent / name}: is there already and no part of {kind} of ours, so it is left "
                             "as it is; give a folder of its own (--out), or move it away")


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """Say in a folder that it is being written, for as long as that takes; after a kill, until it is done anew."""
    (folder / WRITING).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(folder / WRITING, ignore_errors=True)  # of a command that was killed it may hold something
