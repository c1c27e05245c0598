"""Emissions of recordings of any length: overlapping windows joined where no symbol is cut.

A recording that fits into one window goes through in one pass. Of a longer one, neighbouring windows overlap, and the
frames of both are joined near the middle of the overlap, at a frame that is blank in both where there is one: a symbol
is taken whole from one window. What comes out is one sequence of frames, which `downstream.phrases` parts at pauses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from upstream.errors import UsageError
from upstream.frames import FrameGrid

WINDOW_SECONDS = 30.0
OVERLAP_SECONDS = 6.0

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
