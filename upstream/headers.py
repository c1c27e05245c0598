"""Headers of folders of arrays: JSON objects that say what the arrays are, of which each value has a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from upstream.disk import read_json
from upstream.errors import FormatError

Field = tuple[str, Callable[[Any], bool]]  # what is expected, in words, and whether a value is that


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
