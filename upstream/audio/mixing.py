"""Utterance mixing: lay another voice or noise over part of some utterances (Chen et al. 2022, WavLM, algorithm 1).

Whoever hears the mixture must still name the units of the main speaker, so the encoder learns to tell speakers apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from upstream.audio.caching import AudioCache
from upstream.errors import RecipeError
from upstream.keyed import keyed

SPEECH_DB = (-5.0, 5.0)  # energy of the main utterance over that of what is laid over it
NOISE_DB = (-5.0, 20.0)


@dataclass(frozen=True)
class Mixing:
    """How much is mixed in. WavLM: a share of 0.2; noise in none of it (BASE) or in 0.1 (BASE+, LARGE).

    Raises:
        RecipeError: a share out of range, or noise without recordings of it.
    """

    share: float = 0.0  # of utterances that something is laid over; 0 mixes nothing
    noise_share: float = 0.0  # of those, the part that gets noise; the others get an utterance of their batch
    noise: str = ""  # manifest or folder of recordings of noise

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.noise_share <= 1:
            raise RecipeError(f"mixing: share={self.share} and noise_share={self.noise_share} must lie in [0, 1]")
        if self.noise_share and not self.noise:
            raise RecipeError(f"mixing: noise_share={self.noise_share} needs mixing.noise=MANIFEST_OR_FOLDER of noise")


def mix(waveforms: np.ndarray, ids: Sequence[str], starts: Sequence[int] | np.ndarray, update: int, mixing: Mixing,
        seed: int, noise: AudioCache | None = None, copy: int = 0) -> np.ndarray:
    """A batch with something laid over some of its rows; the others are returned as they are.

    Every draw is keyed by the row's utterance, its crop, the update and the copy, and partners are told apart by their
    ids, so the order of the rows plays no part. A row alone in its batch, and silence, are left as they are.

    Args:
        waveforms: (B, S) float32, nothing padded.
        ids, starts: of each row its utterance and the place of its crop.
        noise: recordings of noise, if `mixing.noise_share` is above 0.
        copy: of the same crops in this update, from 0 (`MicroBatch.copy`).

    Returns:
        (B, S) float32.
    """
    mixed = waveforms.copy()
    again = [copy] if copy else []  # a first copy is drawn for as ever
    order = sorted(range(len(ids)), key=lambda row: (ids[row], starts[row]))
    for row, (utterance, start) in enumerate(zip(ids, starts)):
        rng = keyed(seed, "mixing", update, utterance, int(start), *again)
        if rng.random() >= mixing.share:
            continue
        if rng.random() < mixing.noise_share:
            assert noise is not None  # the recipe's own check
            other, decibels = _window(noise, waveforms.shape[1], rng), rng.uniform(*NOISE_DB)
        else:
            others = [place for place in order if place != row]
            if not others:
                continue
            other, decibels = waveforms[others[rng.integers(len(others))]], rng.uniform(*SPEECH_DB)
        lay_over(mixed[row], other, decibels, rng)
    return mixed


def lay_over(main: np.ndarray, other: np.ndarray, decibels: float, rng: np.random.Generator) -> None:
    """Add part of `other` to less than half of `main (S,)` in place, scaled so that the mean squares of the two whole
    waveforms stand in a ratio of `decibels`."""
    ours, theirs = float(np.mean(main**2, dtype=np.float64)), float(np.mean(other**2, dtype=np.float64))
    length = int(rng.integers(1, max(2, (len(main) + 1) // 2)))
    length = min(length, len(other))
    here, there = rng.integers(len(main) - length + 1), rng.integers(len(other) - length + 1)
    if theirs > 0:
        scale = np.float32((ours / (10 ** (decibels / 10) * theirs)) ** 0.5)
        main[here:here + length] += scale * other[there:there + length]


def _window(noise: AudioCache, samples: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many samples from somewhere in one of the recordings."""
    wave = noise.wave(int(rng.integers(len(noise.manifest))))
    first = int(rng.integers(max(1, len(wave) - samples + 1)))
    return wave[first:first + samples]
