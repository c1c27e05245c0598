"""Counts of all orders from the n-grams of the highest one, which pass by in suffix order.

The suffixes of k words lie together in that order, so each is counted while its n-grams pass: its occurrences are
theirs, and the words to its left are as many as there are suffixes of k + 1 words among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from downstream.lm.packing import first_words, unpack, words_in_common
from downstream.lm.reading import BOS


@dataclass(frozen=True)
class Level:
    """Some n-grams of one order, in suffix order. `n` rows, int64.

    Attributes:
        order: words of each.
        ids: (n, order) word ids, first word first.
        raw: (n,) occurrences.
        adjusted: (n,) adjusted counts.
        counted: (n,) the counts that go into lmplz's counts of counts (see `kneser_ney`).
        lower: (n,) rows of the last k - 1 words in the order below; ids of the words at order 2.
    """

    order: int
    ids: np.ndarray
    raw: np.ndarray
    adjusted: np.ndarray
    counted: np.ndarray
    lower: np.ndarray


def levels_of(blocks: Iterable[np.ndarray], order: int, width: int) -> Iterator[Level]:
    """The n-grams of orders 1 to `order`.

    Args:
        blocks: records `key` (all different, sorted, last word first, packed with `width`) and `count`.
    """
    open_groups = [_OpenGroups(k, order, width) for k in range(1, order + 1)]
    before: np.ndarray | None = None
    for block in blocks:
        keys = block["key"]
        common = words_in_common(keys, keys[:0] if before is None else before, width)
        if before is None:
            common[0] = 0
        begun = unpack(keys, width) == BOS
        longest = np.where(begun.any(1), begun.argmax(1) + 1, order)  # <s> stands first or nowhere
        below = unpack(first_words(keys, 1, width), width)[:, 0]
        for groups in open_groups:
            level, below = groups.take(block, common, longest, below)
            if len(level.raw):
                yield level
        before = keys[-1:].copy()
    for groups in open_groups:
        level = groups.close()
        if len(level.raw):
            yield level


class _OpenGroups:
    """The n-grams of order k as they pass; the last one is held back, as more of it may come."""

    def __init__(self, k: int, order: int, width: int) -> None:
        self._k, self._order, self._width = k, order, width
        self._rows = 0
        self._dtype = [("key", f"S{k * width}"), ("raw", np.int64), ("left", np.int64), ("lower", np.int64),
                       ("there", bool)]
        self._held = np.empty(0, self._dtype)

    def take(self, block: np.ndarray, common: np.ndarray, longest: np.ndarray,
             below: np.ndarray) -> tuple[Level, np.ndarray]:
        """The n-grams that are complete, and for each row of the block the row of its n-gram in this order.

        Args:
            block, common, longest: the n-grams of the highest order, the words that each shares with the one before it,
                and how many of its words can be an n-gram (with `<s>` first or nowhere).
            below: what this gave for the order below; ids of the last words for order 1.
        """
        k = self._k
        new = common < k
        firsts = np.flatnonzero(new) if new[0] else np.append(0, np.flatnonzero(new))
        found = np.empty(len(firsts), self._dtype)
        found["key"] = first_words(block["key"][firsts], k, self._width)
        found["raw"] = np.add.reduceat(block["count"], firsts)
        found["left"] = np.add.reduceat((common < k + 1).astype(np.int64), firsts)
        found["lower"] = below[firsts]
        found["there"] = longest[firsts] >= k
        if not new[0]:
            for field in ("raw", "left"):
                self._held[field][-1] += found[field][0]
            found = found[1:]
        found = np.concatenate([self._held, found])
        self._held = found[-1:].copy()
        numbers = self._rows + np.cumsum(new & (longest >= k)) - 1
        self._rows = int(numbers[-1]) + 1
        return self._level(found[:-1], False), below if k == 1 else numbers

    def close(self) -> Level:
        """The last n-gram."""
        return self._level(self._held, True)

    def _level(self, found: np.ndarray, last: bool) -> Level:
        found = found[found["there"]]
        ids = unpack(found["key"], self._width)
        outermost = (self._k == self._order) | (ids[:, -1] == BOS)
        adjusted = np.where(outermost, found["raw"], found["left"])
        return Level(self._k, ids[:, ::-1], found["raw"], adjusted, found["raw"] if last else adjusted, found["lower"])
