"""Perfect hashing of keys that are known beforehand: one look per key, many keys at once (hash and displace).

Keys fall into small groups. Each group has a seed by which its keys go to slots that no other key has, found by trying,
the largest groups first (Belazzougui, Botelho & Dietzfelbinger 2009). A search of 2.4 million keys by halves takes some
twenty reads that wait for each other; this takes two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LOAD = 0.8  # of the slots; more takes longer to build
_GROUP = 3  # keys in a group, about

# odd 64-bit numbers that look random, as signed ones
_FIRST = 0x9E3779B97F4A7C15 - 2**64
_SECOND = 0xD1B54A32D192ED03 - 2**64
_SEEDS = 0xBF58476D1CE4E5B9 - 2**64


def build(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seeds of the groups, a power of two of them, and the slot of each key.

    Args:
        keys: (n,) int64, all different.

    Returns:
        (groups,) int64, and (n,) int64, all different, in [0, `slots_for(n)`).
    """
    size = slots_for(len(keys))
    hashes = keys * np.int64(_FIRST)
    bits = max(1, int(len(keys) // _GROUP).bit_length())
    group = (hashes >> (64 - bits)) & ((1 << bits) - 1)
    by_group = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=1 << bits)
    starts = np.cumsum(counts) - counts
    seeds, slots = np.zeros(1 << bits, np.int64), np.zeros(len(keys), np.int64)
    taken, claimed = np.zeros(size, bool), np.zeros(size, np.int32)
    for count in np.unique(counts[counts > 0])[::-1]:
        groups = np.flatnonzero(counts == count)
        attempt = 0
        while len(groups):
            attempt += 1
            seed = (attempt * _SEEDS + 2**63) % 2**64 - 2**63
            members = by_group[starts[groups, None] + np.arange(count)]
            wanted = _slots(hashes[members] ^ np.int64(seed), size)
            free = np.flatnonzero(~taken[wanted].any(1) & _all_different(wanted))
            claimed[wanted[free]] = np.arange(len(free))[:, None]  # the last one has it
            won = free[(claimed[wanted[free]] == np.arange(len(free))[:, None]).all(1)]
            taken[wanted[won]] = True
            seeds[groups[won]], slots[members[won]] = seed, wanted[won]
            groups = np.delete(groups, won)
    return seeds, slots


def slots_for(keys: int) -> int:
    """How many slots so many keys have."""
    return int(keys / _LOAD) + 1


def slots_of(keys: Any, seeds: Any, slots: int) -> Any:
    """Slots of keys of any shape, int64; those of keys that were not there when it was built are of no meaning.

    Args:
        keys, seeds: torch tensors or numpy arrays, int64.
        slots: how many there are.
    """
    hashes = keys * _FIRST
    bits = len(seeds).bit_length() - 1
    mixed = seeds.take(hashes >> (64 - bits))  # negative ones count from the end
    mixed ^= hashes
    mixed *= _SECOND
    mixed >>= 33
    mixed &= 0x7FFFFFFF
    mixed *= slots
    mixed >>= 31
    return mixed


def _slots(hashes: np.ndarray, size: int) -> np.ndarray:
    """As `slots_of`: the upper 31 bits of the product, spread over the slots."""
    return (((hashes * np.int64(_SECOND)) >> 33) & 0x7FFFFFFF) * size >> 31


def _all_different(rows: np.ndarray) -> np.ndarray:
    ordered = np.sort(rows, axis=1)
    return (ordered[:, 1:] != ordered[:, :-1]).all(1)
