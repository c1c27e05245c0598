"""Recordings of any length as phrases that are decoded one by one, each heard as if it were a recording of its own.

A recogniser and a language model learn from utterances: nothing is before them, nothing behind, and the last word has
no separator. So a long recording is parted at its pauses, and what lies between two of them goes through the encoder
once more, by itself. Speech without pauses is parted at a separator and stays as its windows have it; where a script
has none either, between two letters, once it is longer than two windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from downstream.chunking import OVERLAP_SECONDS, WINDOW_SECONDS, Encode, emission_pieces
from downstream.decode.alphabet import Alphabet
from upstream.errors import UsageError
from upstream.frames import FrameGrid

PAUSE_SECONDS = 0.5  # without a symbol, after which a word has ended
READ_SPEECH_SECONDS = 1.5  # the longest pauses inside of utterances of read speech are 1.3 s to 1.6 s


class Phrase(NamedTuple):
    """Frames of a recording that are decoded by themselves.

    Attributes:
        first: where they begin.
        rows: (T, V) natural-log probabilities.
        apart: whether a long pause, or an end of the recording, is before and behind them; not of a whole recording
            that went through the encoder at once.
    """

    first: int
    rows: np.ndarray
    apart: bool


def phrases(encode: Encode, blocks: Iterable[np.ndarray], grid: FrameGrid, columns: Alphabet, blank: int,
            window_seconds: float = WINDOW_SECONDS, overlap_seconds: float = OVERLAP_SECONDS,
            pause_seconds: float = PAUSE_SECONDS) -> Iterator[Phrase]:
    """The phrases of a recording as its samples come in; what was given never changes.

    Args:
        encode, blocks, grid, blank, window_seconds, overlap_seconds: as `emission_pieces`.
        columns: what the columns of the emissions mean.
        pause_seconds: without a symbol, at which a recording is parted; 0 parts it at separators only, and hears
            nothing twice.

    Raises:
        UsageError: windows too short for their overlap, or a pause that is none.
    """
    if not 0 <= pause_seconds < math.inf:
        raise UsageError(f"a pause of {pause_seconds:g} s: must be at least 0 and finite")
    pause = math.ceil(pause_seconds * grid.rate)
    heard = _Heard(blocks)
    pieces = emission_pieces(encode, heard, grid, blank, window_seconds, overlap_seconds)
    for phrase in segments(pieces, columns, pause, lambda frame: heard.forget(grid.crop_start(frame)),
                           2 * window_seconds * grid.rate):
        first, rows, apart = phrase
        start = grid.crop_start(first)
        if apart and len(rows) <= window_seconds * grid.rate:
            again = encode(heard.samples(start, start + grid.samples(len(rows))))
            yield Phrase(first, parted_at_pauses(again, columns, pause), apart)
        else:
            yield phrase


def segments(pieces: Iterable[tuple[np.ndarray, bool]], columns: Alphabet, pause: int = 0,
             forget: Callable[[int], None] = lambda frame: None, most: float = math.inf) -> Iterator[Phrase]:
    """Pieces parted between words instead: each segment can be decoded by itself, and none changes afterwards.

    Segments end in the middle of every long pause, so that a language model meets whole phrases, but take no more than
    `pause` frames of it, so that they can be heard again however long it is; nor is its end waited for. Where there is
    none, they end at the word separator of the longest shorter one in the later half of the frames at hand. Greedy
    decoding finds the same words as in the whole (with its pauses parted). A script without spaces has no separators
    either: there, the longest stretch of blanks in the later half must do once there are more frames than `most`.

    Args:
        pieces: (T, V) rows and whether they are the last, as `emission_pieces` gives them.
        columns: what the V columns mean.
        pause: frames without a letter that are a long pause, and end a word (`parted_at_pauses`); 0: there are none.
        forget: told of the first frame that what is still to come may begin with, after every piece.
        most: frames at hand beyond which a word may be parted.

    Yields:
        Segments in order; those without a letter are left out.
    """
    first, opened = 0, True  # opened: what is pending begins behind a long pause, or with the recording
    pending: np.ndarray | None = None
    for piece, last in pieces:
        pending = piece if pending is None else np.concatenate([pending, piece])
        if pause:
            pending = parted_at_pauses(pending, columns, pause)
        path = _path(pending, columns)
        letters = _letters(path)
        whole = last and len(pending) == len(piece) and not first and not (np.diff(letters) > pause).any()
        stops = [(stop, True) for stop in (_about_pauses(letters, len(path), pause) if pause and not whole else [])]
        if last:
            stops.append((len(path), True))
        elif not len(letters):  # nothing said: keep the end of the silence
            stops.append((max(0, len(path) - pause), True))
        elif not stops:
            stops.append((_parting(path) or (_parting_of_a_word(letters, len(path)) if len(path) > most else 0), False))
        begin = 0
        for stop, closed in stops:
            if ((letters >= begin) & (letters < stop)).any():
                yield Phrase(first + begin, pending[begin:stop], opened and closed and not whole and pause > 0)
            if stop > begin:
                begin, opened = stop, closed
        first, pending = first + begin, pending[begin:]
        forget(first)


def longest_pause(rows: np.ndarray, columns: Alphabet, rate: float) -> float:
    """Seconds of the longest stretch between two letters of an utterance; 0 where it has fewer than two.

    Args:
        rows: (T, V) natural-log probabilities.
        columns: what the V columns mean.
        rate: frames a second (Hz).
    """
    letters = _letters(_path(rows, columns))
    return float(np.diff(letters).max()) / rate if len(letters) > 1 else 0.0


def usual_pause(longest_seconds: float | None) -> float:
    """The pause in seconds at which to part what a recogniser hears: longer than those inside of the utterances that it
    learnt from, for at these it has learnt to go on. None: not known, and taken for read speech."""
    return max(PAUSE_SECONDS, READ_SPEECH_SECONDS if longest_seconds is None else longest_seconds)


def parted_at_pauses(rows: np.ndarray, columns: Alphabet, pause: int) -> np.ndarray:
    """Rows in which a long pause between two letters holds a word separator, where the likeliest path has none.

    A recogniser learns from utterances, whose last word has no separator behind it, so it need not say one where one
    utterance ends and another begins. In the middle frame of the pause blank and separator change places.

    Args:
        rows: (T, V) natural-log probabilities.
        columns: what the V columns mean.
        pause: least frames between one letter and the next.

    Returns:
        (T, V): `rows` itself where there is no such pause.
    """
    path = np.array(_path(rows, columns) or [""])
    spoken = np.flatnonzero(path != "")  # letters and separators
    before, after = spoken[:-1], spoken[1:]
    long = (after - before > pause) & (path[before] != " ") & (path[after] != " ")
    if not long.any():
        return rows
    middles = (before[long] + after[long]) // 2
    blank, separator = (columns.columns[columns.characters.index(character)] for character in ("", " "))
    rows = rows.copy()
    rows[middles[:, None], [blank, separator]] = rows[middles[:, None], [separator, blank]]
    return rows


def _path(rows: np.ndarray, columns: Alphabet) -> list[str]:
    return [columns.characters[c] for c in columns.usable(rows).argmax(axis=1)]


def _letters(path: list[str]) -> np.ndarray:
    """The frames of a path that are letters."""
    return np.flatnonzero([character not in ("", " ") for character in path])


def _about_pauses(letters: np.ndarray, frames: int, pause: int) -> list[int]:
    """Where to part at pauses of more than `pause` frames between two letters, and before the first and behind the last
    of them: the frames at which what has letters ends, and those at which it begins."""
    if not len(letters):
        return []
    begins = [int(letters[0]) - pause] if letters[0] > pause else []
    before, after = letters[:-1], letters[1:]
    long = after - before > pause
    before, after = before[long], after[long]
    ends = np.minimum((before + after) // 2, before + pause) + 1
    between = np.stack([ends, np.maximum(ends, after - pause)], axis=1)
    # how long the last pause will be is not known yet: half of the least is surely in its first half
    last = [int(letters[-1]) + pause // 2 + 1] if frames - 1 - letters[-1] > pause else []
    return [*begins, *between.reshape(-1).tolist(), *last]


def _parting(path: list[str]) -> int:
    """The frame after a separator where a path is best parted; 0 where it has none."""
    pauses: list[tuple[int, int]] = []  # frames without a letter, and the end of the last separator in them
    length = end = 0
    for frame, character in enumerate([*path, "."]):
        if character in ("", " "):
            length += 1
            end = frame + 1 if character else end
        else:
            if end:
                pauses.append((length, end))
            length = end = 0
    late = [pause for pause in pauses if pause[1] > len(path) // 2]
    return max(late or pauses, default=(0, 0))[1]


def _parting_of_a_word(letters: np.ndarray, frames: int) -> int:
    """The frame after the middle of the longest stretch between two letters in the later half of a path without
    separators, the last of equals; 0 where all frames are letters."""
    lengths, middles = np.diff(letters), (letters[:-1] + letters[1:]) // 2 + 1
    late = (lengths > 1) & (middles > frames // 2)
    return int(max(zip(lengths[late], middles[late]), default=(0, 0))[1])


class _Heard:
    """Blocks of samples that are passed on and kept until they are forgotten."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = blocks
        self._kept, self._new = np.zeros(0, np.float32), list[np.ndarray]()
        self._start = 0  # of what is kept, in the recording

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            self._new.append(np.array(block))  # a reader may put the next block into the same memory
            yield block

    def samples(self, start: int, end: int) -> np.ndarray:
        """Samples `start` to `end` of the recording, as far as there are."""
        self._join()
        return self._kept[start - self._start:end - self._start]

    def forget(self, start: int) -> None:
        """What lies before a sample will not be asked for."""
        self._join()
        self._kept, self._start = self._kept[start - self._start:], start

    def _join(self) -> None:
        if self._new:
            parts = [self._kept, *self._new] if len(self._kept) else list(self._new)
            self._new.clear()
            self._kept = parts[0] if len(parts) == 1 else np.concatenate(parts)
