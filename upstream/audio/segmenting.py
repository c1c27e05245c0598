"""Cut long recordings at pauses, into pieces for pretraining: spans in a manifest, no audio is copied.

Pauses are found by energy alone, relative to each recording: hubertkit needs no labels and no model for it, and nothing
is random. A piece ends in the middle of the longest pause of the second half of its longest length; where nobody
pauses there, at its quietest moment. Long silences are cut out: at each end of a piece only a little is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.reading import read
from upstream.errors import UsageError
from upstream.frames import SAMPLE_RATE
from upstream.progress import progress

STEP = 0.01  # seconds between levels
BLOCK_SECONDS = 60  # decoded at once
LEAST_DB = -100.0  # what digital silence counts as
SMOOTH = 5  # levels: 50 ms, so that the closure of a consonant is no pause
# Silence is 35 dB below the loud parts, or, over a noise that is louder than that, in the lowest third of the range;
# and whatever is below -70 dB of full scale, ten steps of 16 bits.
BELOW_LOUD_DB, RANGE_SHARE, LEAST_RANGE_DB, ALWAYS_SILENT_DB = 35.0, 0.3, 6.0, -70.0
SILENT_PERCENTILE, LOUD_PERCENTILE = 5, 95


@dataclass(frozen=True)
class Pieces:
    """How long pieces may be.

    Attributes:
        min_seconds: shorter ones are left out.
        max_seconds: longer recordings are cut. At least twice the other, so that every remainder can be cut.
        edge_seconds: of silence kept at each end of a piece.

    Raises:
        UsageError: lengths that cannot be.
    """

    min_seconds: float = 2.0
    max_seconds: float = 15.6  # the longest crop of HuBERT (250,000 samples)
    edge_seconds: float = 0.3

    def __post_init__(self) -> None:
        possible = 0 < 2 * self.min_seconds <= self.max_seconds < math.inf and 0 <= self.edge_seconds < math.inf
        if not possible:  # NaN is none either
            raise UsageError(f"pieces of {self.min_seconds:g} to {self.max_seconds:g} s with {self.edge_seconds:g} s "
                             "of silence: the longest must be at least twice the shortest, and none may be negative")
        if self.min_seconds < STEP:
            raise UsageError(f"pieces of {self.min_seconds:g} s at least: levels are {STEP:g} s apart, so no piece can "
                             "be shorter than that; give more")


def segment(manifest: Manifest, pieces: Pieces) -> Manifest:
    """Pieces of the utterances of a manifest, in its order.

    An utterance of at most `max_seconds` stays as it is, with its text, or is left out if it is too short. A longer one
    becomes `ID-0000`, `ID-0001`, ... with its speaker and without a text.

    Raises:
        InputError: a recording cannot be read.
    """
    return Manifest.of(_segments(manifest, pieces), manifest.source)


def levels(utterance: Utterance) -> np.ndarray:
    """(F,) float32, the level of every 10 ms in dB of full scale; a rest shorter than that is not counted."""
    found = []
    step = int(STEP * SAMPLE_RATE)
    for first in range(0, utterance.samples, BLOCK_SECONDS * utterance.rate):
        samples = min(BLOCK_SECONDS * utterance.rate, utterance.samples - first)
        wave = read(replace(utterance, start=utterance.start + first, samples=samples))
        frames = wave[:len(wave) // step * step].reshape(-1, step)
        found.append(np.mean(frames.astype(np.float64)**2, axis=1))
    power = np.concatenate(found) if found else np.zeros(0)
    return np.maximum(10 * np.log10(np.maximum(power, 1e-20)), LEAST_DB).astype(np.float32)


def silences(level: np.ndarray) -> np.ndarray:
    """(F,) bool, which of the levels are pauses. Where all is within 6 dB, only what is below -70 dB is."""
    if not len(level):
        return np.zeros(0, bool)
    smooth = _smoothed(level)
    quiet, loud = np.percentile(smooth, [SILENT_PERCENTILE, LOUD_PERCENTILE])
    if loud - quiet < LEAST_RANGE_DB:
        return smooth < ALWAYS_SILENT_DB
    return smooth < max(loud - BELOW_LOUD_DB, quiet + RANGE_SHARE * (loud - quiet), ALWAYS_SILENT_DB)


def cuts(level: np.ndarray, silent: np.ndarray, least: int, most: int, edge: int) -> list[tuple[int, int]]:
    """First level and the one after the last of each piece of a recording; lengths and `edge` count levels."""
    places, start, smooth = [0], 0, _smoothed(level)
    while len(level) - start > most:
        first, last = start + max(1, most // 2), min(start + most, len(level) - least)
        first = min(first, last)
        start = first + _best_cut(smooth[first:last + 1], silent[first:last + 1])
        places.append(start)
    places.append(len(level))
    trimmed = (_trimmed(silent, a, b, edge) for a, b in pairwise(places))
    return [(a, b) for a, b in trimmed if b - a >= least]


def _segments(manifest: Manifest, pieces: Pieces) -> Iterator[Utterance]:
    least, most, edge = (round(s / STEP) for s in (pieces.min_seconds, pieces.max_seconds, pieces.edge_seconds))
    with progress("listening for pauses", len(manifest)) as report:
        for done, utterance in enumerate(manifest, 1):
            seconds = utterance.samples / utterance.rate
            if pieces.min_seconds <= seconds <= pieces.max_seconds:
                yield utterance
            elif seconds > pieces.max_seconds:
                level = levels(utterance)
                for number, (first, last) in enumerate(cuts(level, silences(level), least, most, edge)):
                    yield _piece(utterance, number, first, last)
            report(done)


def _piece(utterance: Utterance, number: int, first: int, last: int) -> Utterance:
    begin, end = (min(utterance.samples, round(place * STEP * utterance.rate)) for place in (first, last))
    return replace(utterance, id=f"{utterance.id}-{number:04d}", start=utterance.start + begin, samples=end - begin,
                   text=None)


def _best_cut(smooth: np.ndarray, silent: np.ndarray) -> int:
    """The middle of the longest pause (the last of equals), or the quietest place."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]])))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return int(np.argmin(smooth))
    longest = len(begins) - 1 - int(np.argmax((ends - begins)[::-1]))
    return int((begins[longest] + ends[longest] - 1) // 2)


def _trimmed(silent: np.ndarray, first: int, last: int, edge: int) -> tuple[int, int]:
    """A piece with at most `edge` levels of silence at its ends; an empty one where it is silent throughout."""
    speech = np.flatnonzero(~silent[first:last])
    if not len(speech):
        return first, first
    return max(first, first + int(speech[0]) - edge), min(last, first + int(speech[-1]) + 1 + edge)


def _smoothed(level: np.ndarray) -> np.ndarray:
    """Mean of the neighbours, in dB; at the ends of fewer."""
    if len(level) < SMOOTH:
        return level.astype(np.float64)
    window = np.ones(SMOOTH)
    return np.convolve(level, window, "same") / np.convolve(np.ones(len(level)), window, "same")
