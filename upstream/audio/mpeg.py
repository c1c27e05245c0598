"""How many samples an MP3 holds, where its own header does not say so or says what is not true.

libsndfile goes by the first frame: by the count in its Xing (or Info) header, else by its size, as if all had the same.
A recording of variable bit rate without such a header would end early then: it is read behind a header that is made for
it. Of joined files the header knows the first only.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

_KBITS = {True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1, layer III
          False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}  # MPEG 2 and 2.5
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
UNHEARD_FRAMES = 2  # at the end, some 50 ms, that are no reason to refuse a recording
_TAGS_BYTES = 2048  # behind the last frame there may be tags, with the names of a song

Content = mmap.mmap | bytes


class _Frame(NamedTuple):
    kind: tuple[int, int]  # version and rate: the same in all frames of a stream
    size: int  # bytes
    samples: int
    mono: bool


def mp3_samples(content: Content, begin: int, end: int, said: int) -> int | str:
    """Samples that reading the MP3 in bytes [begin, end) gives, or why it cannot be used.

    The frames are only walked where the header has no count, or one that the size of the file belies.

    Args:
        said: samples by libsndfile, which never reads beyond them; where `missing_header` makes a header, behind it.
    """
    first, frame = _first(content, begin, end)
    if frame is None:
        return said  # another layer, or free of a fixed bit rate: libsndfile knows better
    promised, size = _xing(content, first, frame)
    if promised and size and 0 <= end - first - size <= _TAGS_BYTES:
        return said
    found = _walk(content, first, end, frame.kind)
    if promised:
        if abs(found - 1 - promised) <= 1:  # its own frame is counted or not
            return said
        if found < promised:
            return f"is cut short: its header promises {promised} frames, {found} are there"
        return (f"has {found} frames and a header that knows of {promised}: it was joined from several files, and only "
                "the first of them would be read; write it anew, e.g. as FLAC (ffmpeg -i IN OUT.flac)")
    if found * frame.samples - said > UNHEARD_FRAMES * frame.samples:
        return (f"has no header with its length, which cannot be read beyond {said} of {found * frame.samples} "
                "samples; write it anew, e.g. as FLAC (ffmpeg -i IN OUT.flac)")
    return min(found * frame.samples, said)


def missing_header(content: Content, begin: int, end: int, said: int) -> tuple[bytes, int] | None:
    """The header that the MP3 in bytes [begin, end) lacks, and where in `content` the frames to read behind it begin.

    Args:
        said: samples by libsndfile.

    Returns:
        None where there is a header, or without one no more frames than libsndfile takes for granted.
    """
    first, frame = _first(content, begin, end)
    if frame is None or _xing(content, first, frame)[0]:
        return None
    found = _walk(content, first, end, frame.kind)
    if found * frame.samples - said <= UNHEARD_FRAMES * frame.samples:
        return None
    return _header(content, first, frame, found, end - first), first


def _first(content: Content, begin: int, end: int) -> tuple[int, _Frame | None]:
    """Where the first frame begins, and the frame; None where there is none of layer III."""
    first = _find(content, _behind_tag(content, begin, end), end)
    return (begin, None) if first is None else (first, _frame(content, first, end))


def _header(content: Content, at: int, frame: _Frame, count: int, size: int) -> bytes:
    """A frame that says that so many follow, in so many bytes: of the same kind as the one that begins at `at`."""
    for bits in range(1, 15):  # the least bit rate at which it has room
        start = bytes([0xFF, content[at + 1] | 1, bits << 4 | content[at + 2] & 0x0C, content[at + 3]])  # | 1: no CRC
        room = _frame(start, 0, len(start))
        if room is not None and room.size >= 4 + _side_bytes(frame) + 16:
            break
    assert room is not None  # the highest bit rate has room in any case
    said = b"Xing\0\0\0\3" + count.to_bytes(4, "big") + (size + room.size).to_bytes(4, "big")  # 3: frames and bytes
    return (start + bytes(_side_bytes(frame)) + said).ljust(room.size, b"\0")


def _walk(content: Content, at: int, end: int, kind: tuple[int, int]) -> int:
    """Number of whole frames from `at` on; what is none (tags of the second of two joined files) is passed over."""
    count = 0
    while at < end:
        frame = _frame(content, at, end)
        if frame is None or frame.kind != kind:
            found = _find(content, at + 1, end, kind)
            if found is None:
                break
            at = found
            continue
        at += frame.size
        count += at <= end
    return count


def _find(content: Content, at: int, end: int, kind: tuple[int, int] | None = None) -> int | None:
    """Where the next frame begins, one that another follows or the end: three bytes in a tag may look like one."""
    while (at := content.find(b"\xff", at, end)) >= 0:
        frame = _frame(content, at, end)
        if frame is not None and kind in (None, frame.kind):
            behind = at + frame.size
            following = _frame(content, behind, end)
            if behind == end or (following is not None and following.kind == frame.kind):
                return at
        at += 1
    return None


def _frame(content: Content, at: int, end: int) -> _Frame | None:
    """The frame of layer III that begins at a byte."""
    if at + 4 > end or content[at] != 0xFF or content[at + 1] & 0xE6 != 0xE2:
        return None
    version, bits, rate = content[at + 1] >> 3 & 3, content[at + 2] >> 4, content[at + 2] >> 2 & 3
    if version == 1 or rate == 3 or bits in (0, 15):
        return None
    samples, hertz = 1152 if version == 3 else 576, _RATES[version][rate]
    size = samples * 125 * _KBITS[version == 3][bits] // hertz + (content[at + 2] >> 1 & 1)
    return _Frame((version, rate), size, samples, content[at + 3] >> 6 == 3)


def _behind_tag(content: Content, begin: int, end: int) -> int:
    """Where what follows an ID3v2 tag begins: its pictures hold bytes that look like frames."""
    if content[begin:begin + 3] != b"ID3" or begin + 10 > end:
        return begin
    size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(content[begin + 6:begin + 10])))
    return begin + 10 + size + (10 if content[begin + 5] & 0x10 else 0)


def _xing(content: Content, at: int, frame: _Frame) -> tuple[int, int]:
    """Frames and bytes by the header in the first frame; 0 is what it does not say."""
    at += 4 + _side_bytes(frame)
    if content[at:at + 4] not in (b"Xing", b"Info"):
        return 0, 0
    flags, at = content[at + 7], at + 8
    words = [int.from_bytes(content[at + 4 * i:at + 4 * i + 4], "big") for i in range(2)]
    frames = words.pop(0) if flags & 1 else 0
    return frames, words[0] if flags & 2 else 0


def _side_bytes(frame: _Frame) -> int:
    """Of the side information, behind which the header stands in the first frame."""
    if frame.kind[0] == 3:
        return 17 if frame.mono else 32
    return 9 if frame.mono else 17
