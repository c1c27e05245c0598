"""Emissions of recordings of any length: overlapping windows joined where no symbol is cut, then parted at pauses.

A recording that fits into one window goes through in one pass. Of a longer one, neighbouring windows overlap, and the
frames of both are joined near the middle of the overlap, at a frame that is blank in both where there is one: a symbol
is taken whole from one window. What comes out is one sequence of frames, with which decoding goes on as with any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from downstream.decode.alphabet import Alphabet
from upstream.errors import UsageError
from upstream.frames import FrameGrid

WINDOW_SECONDS = 30.0
OVERLAP_SECONDS = 6.0
PAUSE_SECONDS = 0.5  # without a symbol: longer than any sound, so that a word has ended

Encode = Callable[[np.ndarray], np.ndarray]  # (S,) float32 at 16 kHz to (T, V) float32 natural-log probabilities


def emission_pieces(encode: Encode, blocks: Iterable[np.ndarray], grid: FrameGrid, blank: int,
                    window_seconds: float = WINDOW_SECONDS,
                    overlap_seconds: float = OVERLAP_SECONDS) -> Iterator[tuple[np.ndarray, bool]]:
    """Emissions of a recording, piece after piece; joined they have `grid.frames` of all its samples.

    Args:
        encode: called with a window of samples, gives `grid.frames` of them.
        blocks: of samples (S,) float32 at 16 kHz, of any sizes, in order; nothing is read ahead.
        grid: of the encoder.
        blank: column of the CTC blank.
        window_seconds: that the encoder sees at a time.
        overlap_seconds: of two neighbouring windows, at most half of one.

    Yields:
        (T, V) float32 that later samples do not change, and whether the recording ends there.

    Raises:
        UsageError: windows too short for their overlap.
    """
    if not 1 / grid.rate <= overlap_seconds <= window_seconds / 2 < math.inf:
        raise UsageError(f"windows of {window_seconds:g} s with an overlap of {overlap_seconds:g} s: the overlap must "
                         "be a frame or more and at most half of the window")
    window, overlap = round(window_seconds * grid.rate), round(overlap_seconds * grid.rate)
    samples = np.zeros(0, np.float32)
    held: np.ndarray | None = None  # what the window before says of the overlap
    for block in blocks:
        samples = np.concatenate([samples, block])
        while grid.frames(len(samples)) > window:
            rows = encode(samples[:grid.samples(window)])
            yield _joined(held, rows, blank)[:-overlap], False
            held = rows[-overlap:]
            samples = samples[grid.crop_start(window - overlap):]
    if grid.frames(len(samples)):
        yield _joined(held, encode(samples), blank), True


def segments(pieces: Iterable[tuple[np.ndarray, bool]], columns: Alphabet,
             pause: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces parted between words instead: each segment can be decoded by itself, and none changes afterwards.

    Segments end at a word separator: that of the longest pause in the later half of the frames at hand, so that a
    language model meets whole phrases. Greedy decoding finds the same words as in the whole.

    Args:
        pieces: (T, V) rows and whether they are the last, as `emission_pieces` gives them.
        columns: what the V columns mean.
        pause: frames without a symbol that end a word (`parted_at_pauses`); 0: only separators do.

    Yields:
        The first frame of a segment in the recording, and its rows; segments without a letter are left out.
    """
    first = 0
    pending: np.ndarray | None = None
    for piece, last in pieces:
        pending = piece if pending is None else np.concatenate([pending, piece])
        if pause:
            pending = parted_at_pauses(pending, columns, pause)
        path = _path(pending, columns)
        end = len(pending) if last else _parting(path)
        if any(character not in ("", " ") for character in path[:end]):
            yield first, pending[:end]
        first, pending = first + end, pending[end:]


def parted_at_pauses(rows: np.ndarray, columns: Alphabet, pause: int) -> np.ndarray:
    """Rows in which a long pause between two letters holds a word separator, where the likeliest path has none.

    A recogniser learns from utterances, whose last word has no separator behind it, so it need not say one where one
    utterance ends and another begins. In the middle frame of the pause blank and separator change places.

    Args:
        rows: (T, V) natural-log probabilities.
        columns: what the V columns mean.
        pause: least frames from one letter to the next.

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


def seam(before: np.ndarray, after: np.ndarray, blank: int) -> int:
    """Where two windows (T, V) over the same frames are joined: rows of `before` up to there, of `after` from there.

    The blank frame nearest to the middle, blank in both and within the middle half; else the middle.
    """
    total = len(before)
    quiet = (before.argmax(axis=1) == blank) & (after.argmax(axis=1) == blank)
    places = np.flatnonzero(quiet)
    places = places[(places >= total // 4) & (places < total - total // 4)]
    return int(places[np.abs(places - total // 2).argmin()]) if len(places) else total // 2


def _joined(held: np.ndarray | None, rows: np.ndarray, blank: int) -> np.ndarray:
    if held is None:
        return rows
    place = seam(held, rows[:len(held)], blank)
    return np.concatenate([held[:place], rows[place:]])


def _path(rows: np.ndarray, columns: Alphabet) -> list[str]:
    return [columns.characters[c] for c in columns.usable(rows).argmax(axis=1)]


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
