"""N-gram counts of a text as sorted integer arrays.

An n-gram of order k is a row of order k's arrays and points at its first and its last k - 1 words as rows of order
k - 1: no table of tuples is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from downstream.lm.reading import BOS, Progress, Text


@dataclass(frozen=True)
class Order:
    """All different n-grams of one order, sorted by (prefix, word). `n` rows, int64 each.

    Attributes:
        prefix: row of the first k - 1 words in the order below (0 at order 1).
        suffix: row of the last k - 1 words in the order below (0 at order 1).
        word: id of the last word.
        count: occurrences.
        initial: bool; it starts with `<s>`.
    """

    prefix: np.ndarray
    suffix: np.ndarray
    word: np.ndarray
    count: np.ndarray
    initial: np.ndarray

    def __len__(self) -> int:
        return len(self.word)


def count(text: Text, order: int, progress: Progress | None = None) -> list[Order]:
    """All n-grams of orders 1 to `order` that end at a word or `</s>`, and `<unk>` and `<s>` as unigrams of count 0.

    N-grams in which `<s>` stands anywhere but first do not exist here. Row i of order 1 is the word with id i.
    """
    tokens = text.tokens.astype(np.int64)
    size = len(text.words)
    predicted = tokens != BOS
    first = Order(np.zeros(size, np.int64), np.zeros(size, np.int64), np.arange(size),
                  np.bincount(tokens[predicted], minlength=size), np.arange(size) == BOS)
    orders, rows = [first], tokens  # rows[i]: row of the n-gram that ends at position i, -1 if there is none
    for number in range(2, order + 1):
        found, rows = _longer(orders[-1], rows, tokens, predicted, size)
        orders.append(found)
        if progress is not None:
            progress(number, order)
    return orders


def last_in_suffix_order(text: Text, order: int) -> list[int]:
    """Word ids of the n-gram that comes last when compared from its last word backwards, padded with `<s>`.

    lmplz leaves its suffixes' counts unadjusted in the counts of counts (see `kneser_ney`).
    """
    tokens = text.tokens
    ends = np.flatnonzero(tokens == tokens.max())
    starts = np.flatnonzero(tokens == BOS)
    best: list[int] = []
    for end in ends:
        begin = starts[np.searchsorted(starts, end, side="right") - 1]
        words = [int(w) for w in tokens[max(begin, end - order + 1):end + 1]][::-1]
        best = max(best, words + [BOS] * (order - len(words)))
    return best[::-1]


def _longer(below: Order, rows: np.ndarray, tokens: np.ndarray, predicted: np.ndarray,
            size: int) -> tuple[Order, np.ndarray]:
    """The n-grams one word longer, and their rows by position."""
    places = np.flatnonzero(predicted[1:] & (rows[:-1] >= 0)) + 1
    keys = rows[places - 1] * size + tokens[places]
    by_key = np.argsort(keys, kind="stable")
    ordered = keys[by_key]
    new = np.empty(len(ordered), bool)
    new[:1] = True
    new[1:] = ordered[1:] != ordered[:-1]
    firsts = np.flatnonzero(new)
    counts = np.diff(np.append(firsts, len(ordered)))
    example = places[by_key[firsts]]
    prefix = rows[example - 1]
    found = Order(prefix, rows[example], tokens[example], counts, below.initial[prefix])
    longer = np.full(len(rows), -1, np.int64)
    longer[places[by_key]] = np.cumsum(new) - 1
    return found, longer
