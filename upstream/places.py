"""Which utterances of a manifest are meant: places, a mask over all, some of all lengths, or some from all over."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from upstream.errors import InputError


def places(indices: Iterable[int] | np.ndarray, count: int, *, once: bool = False) -> np.ndarray:
    """(n,) int64 places in the order given.

    Args:
        indices: places, or a mask (count,) bool; numpy arrays, tensors or anything to go through once.
        count: utterances of the manifest.
        once: refuse a place that is named twice.

    Raises:
        InputError: neither of the two, a mask of another length, or a repeat where there may be none.
    """
    if isinstance(indices, range):  # of millions, which a list would hold one by one
        indices = np.arange(indices.start, indices.stop, indices.step)
    try:
        given = np.asarray(indices if hasattr(indices, "__array__") else list(indices))
    except (TypeError, ValueError) as error:
        raise InputError(f"indices={indices!r:.40}: expected a list of whole numbers, or a mask") from error
    if not given.size and given.dtype != bool:
        return np.zeros(0, np.int64)
    if given.dtype == bool:
        if given.shape != (count,):
            raise InputError(f"a mask of shape {given.shape} for {count} utterances; give one value for each")
        return np.flatnonzero(given)
    if given.dtype.kind not in "iu":
        raise InputError(f"indices of type {given.dtype}: expected whole numbers, or a mask with a bool for each of "
                         f"{count} utterances")
    found = given.astype(np.int64).reshape(-1)
    if once and len(np.unique(found)) < len(found):
        raise InputError("an utterance is named twice among the indices; name each once")
    return found


def spread(lengths: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64 rising places of so many utterances, evenly spread over their lengths (N,), N >= count >= 1."""
    ranks = ((np.arange(count) + 0.5) * len(lengths) / count).astype(int)
    return np.sort(np.argsort(lengths, kind="stable")[ranks])


def evenly(count: int) -> np.ndarray:
    """(count,) int64: all places, in an order of which every beginning is evenly spread over them: the first, about the
    middle, the quarters, ... (their bits reversed, as van der Corput's sequence)."""
    left = np.arange(count)
    reversed_bits = np.zeros(count, np.int64)
    for _ in range(max(0, count - 1).bit_length()):
        reversed_bits = 2 * reversed_bits + (left & 1)
        left >>= 1
    return np.argsort(reversed_bits)
