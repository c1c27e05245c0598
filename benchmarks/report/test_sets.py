"""Whether results are of the same test set: error rates on different ones say nothing about which system is better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.report.reading import Results
from upstream.errors import InputError

# Where results name what they were measured on, by what it is called in a message.
_NAMED = {"manifest": (("test", "manifest"), ("judged_on", "manifest")), "text": (("text_sha256",),)}
_COUNTS = ("words", "characters")


def refuse_different(files: Sequence[Results]) -> None:
    """Raise InputError where rows of a table would be of different test sets: their hashes differ, or the numbers of
    reference words or characters where there is an error rate. Likewise where errors are counted in different units."""
    for file in files:
        if file.unit != files[0].unit:
            raise InputError(f"{file.path}: counts errors in {file.unit}s, and {files[0].path} in {files[0].unit}s, so "
                             "their rates cannot be compared; make a report of each")
    seen: dict[str, tuple[Any, str]] = {}
    for file in files:
        for what, value, where in _evidence(file):
            known, there = seen.setdefault(what, (value, where))
            if known != value:
                raise InputError(f"{where}: another test set than {there} ({_said(what, value)} here, "
                                 f"{_said(what, known)} there), so their rates cannot be compared; make a report of "
                                 "each")


def named_test(file: Results) -> dict[str, Any]:
    """What a file says of its test set: `words` and `characters` of the references, and what else it has."""
    row = next((row for row in file.rows if "wer" in row), {})
    test = file.content.get("test")
    return {key: row[key] for key in _COUNTS if key in row} | (test if isinstance(test, dict) else {})


def names_hash(file: Results) -> bool:
    """Whether a file says by a hash which test set it is of."""
    return any(what == "manifest" for what, _, _ in _evidence(file))


def _evidence(file: Results) -> Iterator[tuple[str, Any, str]]:
    """What a test set is known by, its value, and where that stands."""
    for what, places in _NAMED.items():
        for place in places:
            value: Any = file.content
            for key in place:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                yield what, value, str(file.path)
    for number, row in enumerate(file.rows):
        for key in _COUNTS:
            if "wer" in row and key in row:
                yield key, row[key], f"{file.path}, row {number + 1}"


def _said(what: str, value: Any) -> str:
    return f"{value:,} reference {what}" if isinstance(value, int) else f"{what} {str(value)[:12]}…"
