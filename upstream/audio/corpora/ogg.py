"""Ogg files that hold several recordings, one after the other: of those libsndfile reads the first."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

_PLACES = 16  # looked at; a page is at most 64 KiB, so that an hour costs no more than a minute
_BEGINS = 2  # a flag of a page


def ogg_fault(content: mmap.mmap | bytes, begin: int, end: int) -> str | None:
    """That the Ogg in bytes [begin, end) was joined from several, in words; None where nothing shows it.

    The last page tells where the parts have serial numbers of their own, as they should. Where they share one (a file
    behind itself), pages on the way must be numbered upwards.
    """
    known, behind = _first_serials(content, begin, end)
    numbers: dict[bytes, int] = {}
    for at in _pages(content, behind, end):
        serial, number = content[at + 14:at + 18], int.from_bytes(content[at + 18:at + 22], "little")
        if serial not in known or content[at + 5] & _BEGINS or number < numbers.get(serial, 0):
            return ("holds several streams, one after the other, and only the first would be read; part them, or write "
                    "it anew, e.g. as FLAC (ffmpeg -i IN OUT.flac)")
        numbers[serial] = number
    return None


def _first_serials(content: mmap.mmap | bytes, begin: int, end: int) -> tuple[set[bytes], int]:
    """Serial numbers of the streams that begin together, and where the pages behind their first ones begin."""
    found, at = set(), begin
    while content[at:at + 5] == b"OggS\0" and at + 27 <= end and content[at + 5] & _BEGINS:
        found.add(content[at + 14:at + 18])
        segments = content[at + 26]
        at += 27 + segments + sum(content[at + 27:at + 27 + segments])
    return found, at


def _pages(content: mmap.mmap | bytes, begin: int, end: int) -> Iterator[int]:
    """Where some pages begin, in order, the last one among them."""
    starts = {content.find(b"OggS\0", begin + (end - begin) * i // _PLACES, end - 22) for i in range(_PLACES)}
    yield from sorted((starts | {content.rfind(b"OggS\0", begin, end - 22)}) - {-1})
