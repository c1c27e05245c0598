"""Getting recordings through a source of frames: read ahead, batch by length, give back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from upstream.ahead import ahead
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.keyed import keyed
from upstream.places import places

_STRETCH = 16  # batches

Read = Callable[[int], np.ndarray]


class Lengths(Protocol):
    """What is asked of a manifest here: (N,) int64 samples of each utterance at 16 kHz."""

    @property
    def lengths(self) -> np.ndarray: ...


def read_ahead(manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(index, waveform) in order, those after the first so many; the next ones are read while the caller is busy.
    Raises InputError as `places`."""
    return ahead(lambda index: checked(manifest, int(index), read), places(indices, len(manifest.lengths))[after:])


def checked(manifest: Lengths, index: int, read: Read) -> tuple[int, np.ndarray]:
    """(index, waveform (length,) float32). Raises InputError if its length is not what the manifest says."""
    wave = read(index)
    expected = int(manifest.lengths[index])
    if wave.shape != (expected,):
        raise InputError(f"utterance {index}: {wave.shape[0]} samples, the manifest says {expected}; import it again")
    return index, np.asarray(wave, np.float32)


def check_hours(hours: float) -> None:
    """Raise UsageError for an amount of speech that is none."""
    if not hours > 0:
        raise UsageError(f"{hours:g} hours: must be above 0")


def draw_hours(lengths: np.ndarray, hours: float, seed: int) -> np.ndarray:
    """Indices, sorted, of utterances drawn until they last so long; at least one of `lengths (N,)` samples, if any.

    Raises:
        UsageError: hours that are not above 0.
    """
    check_hours(hours)
    order = keyed(seed, "hours").permutation(len(lengths))
    before = np.cumsum(lengths[order]) - lengths[order]
    return np.sort(order[before < max(hours * 3600 * SAMPLE_RATE, 1)])


def plan_batches(indices: np.ndarray, lengths: np.ndarray, samples: int) -> list[np.ndarray]:
    """Batches of utterances of similar length.

    Args:
        indices: (n,) utterances, in the order in which their results are wanted.
        lengths: (N,) samples of each utterance.
        samples: of a batch, padding included; an utterance that is longer is a batch of its own.

    Returns:
        Index arrays. Only neighbours within 16 batches' worth of audio share one, so that little waits for its turn.
    """
    if not len(indices):
        return []
    ends = np.cumsum(lengths[indices])
    stretches = np.split(indices, np.flatnonzero(np.diff(ends // (_STRETCH * max(1, samples)))) + 1)
    return [batch for stretch in stretches for batch in _by_length(stretch, lengths, samples)]


def in_order(indices: np.ndarray, batches: Iterable[dict[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The results of batches as one stream in the order of `indices`, which are all different; each is let go as soon
    as its turn has come."""
    waiting: dict[int, Any] = {}
    turn = iter(indices.tolist())
    upcoming = next(turn, None)
    for batch in batches:
        waiting |= batch
        while upcoming is not None and upcoming in waiting:
            yield upcoming, waiting.pop(upcoming)
            upcoming = next(turn, None)


def _by_length(indices: np.ndarray, lengths: np.ndarray, samples: int) -> list[np.ndarray]:
    """Utterances of similar length together, at most so many samples with padding, but at least one utterance."""
    order = indices[np.argsort(-lengths[indices], kind="stable")]
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        count = max(1, samples // max(1, int(lengths[order[start]])))  # the first is the longest
        batches.append(order[start:start + count])
        start += count
    return batches
