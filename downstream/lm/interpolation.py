"""Two models as one: p(w | h) = weight * p_A(w | h) + (1 - weight) * p_B(w | h), the weight tuned on text by EM.

The mixture is written as one back-off model, as SRILM's `ngram -mix-lm` does: it has the n-grams of both, each with the
mixed probability, and back-off weights made anew. For n-grams that neither has it is an approximation.

The vocabulary is that of both. A word that a model does not know has no probability there, as `<unk>` is kept for words
that neither knows; so all words still sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from downstream.lm.kneser_ney import Grams, NGramModel, log10_or_99
from downstream.lm.reading import BOS, EOS, UNK, split_words
from downstream.lm.tree import Tree, tree_of, weighted
from upstream.errors import InputError

_STEPS = 10_000
_ENOUGH = 1e-9  # change of the weight


@dataclass(frozen=True)
class Tuned:
    """The weight that EM found, and what a model makes of the text: A, B, and the two mixed word for word.

    Attributes:
        weight: of model A.
        perplexities: of the tokens that a model knows, `</s>` among them. They compare where `unknown` is the same.
        unknown: tokens that a model does not know.
        tokens: of the text.
    """

    weight: float
    perplexities: tuple[float, float, float]
    unknown: tuple[int, int, int]
    tokens: int


class Pair:
    """Two models over the vocabulary of both.

    Attributes:
        words: `<unk>`, `<s>`, `</s>`, those of A, and those of B alone.
        only: words that A alone, and that B alone, knows.
    """

    def __init__(self, first: NGramModel, second: NGramModel) -> None:
        known = set(first.words)
        self.words = [*first.words, *(word for word in second.words if word not in known)]
        self._sides = [_Side(model, self.words) for model in (first, second)]
        self.only = len(self.words) - len(second.words), len(self.words) - len(first.words)

    def tune(self, sentences: Iterable[str]) -> Tuned:
        """The weight by which the known words of a text are likeliest. Raises InputError where there is no text.

        Args:
            sentences: one an item.
        """
        ids = {word: id for id, word in enumerate(self.words)}
        rows = [[ids.get(word, UNK) for word in split_words(sentence)] + [EOS] for sentence in sentences]
        if not rows:
            raise InputError("no sentence to tune the weight on")
        one, two = (side.tokens(rows) for side in self._sides)
        nobody = np.concatenate([np.array(row) == UNK for row in rows])
        weight = em(one[~nobody], two[~nobody])  # a small model would win weight by its large <unk>
        perplexities, unknown = [], []
        for p in (one, two, weight * one + (1 - weight) * two):
            known = ~nobody & (p > 0)
            perplexities.append(float(np.exp(-np.log(p[known]).mean())))
            unknown.append(int((~known).sum()))
        return Tuned(weight, tuple(perplexities), tuple(unknown), len(one))  # type: ignore[arg-type]

    def mixed(self, weight: float) -> NGramModel:
        """One back-off model with all n-grams of both, A weighing `weight`."""
        size, orders = len(self.words), []
        states = [np.zeros(1, np.int64), np.zeros(1, np.int64)]  # of each model after the n-grams of the order below
        for pair in zip_longest(*(side.model.orders for side in self._sides)):
            keys = [side.keys(grams, size) for side, grams in zip(self._sides, pair)]
            both = np.union1d(*keys)
            prefix, word = both // size, both % size
            mixture = np.zeros(len(both))
            for number, (side, share) in enumerate(zip(self._sides, (weight, 1 - weight))):
                p, states[number] = side.advance(states[number][prefix], word)
                mixture += share * p
                side.rows = np.searchsorted(both, keys[number])
            orders.append(Grams(prefix, word, log10_or_99(mixture), np.zeros(len(both), np.float32)))
        return weighted(NGramModel(self.words, tuple(orders), ()))


def em(first: np.ndarray, second: np.ndarray) -> float:
    """The weight of `first` by which the product of `weight * first + (1 - weight) * second` is largest.

    Args:
        first, second: (n,) float64 probabilities, n > 0; nowhere both 0.
    """
    weight = 0.5
    for _ in range(_STEPS):
        share = weight * first
        after = float((share / (share + (1 - weight) * second)).mean())
        change, weight = abs(after - weight), after
        if change < _ENOUGH:
            break
    return weight


class _Side:
    """One of the two models.

    Attributes:
        rows: of its n-grams of the order in hand, among those of both models.
    """

    def __init__(self, model: NGramModel, words: list[str]) -> None:
        self.model, self.rows = model, np.zeros(1, np.int64)
        self._tree: Tree = tree_of(model)
        ids = {word: id for id, word in enumerate(model.words)}
        self._own = np.array([ids.get(word, -1) for word in words])
        self._common = np.empty(len(model.words), np.int64)
        self._common[self._own[self._own >= 0]] = np.flatnonzero(self._own >= 0)

    def keys(self, grams: Grams | None, size: int) -> np.ndarray:
        """`row of the first words * size + last word` of its n-grams, as both models number them."""
        if grams is None:
            return np.empty(0, np.int64)
        return self.rows[grams.prefix] * size + self._common[grams.word]

    def advance(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of words, 0 where it does not know them, and the states after them."""
        own = self._own[words]
        known = own >= 0
        logprob, nodes = self._tree.advance(states, np.where(known, own, UNK))
        return np.where(known, np.exp(logprob), 0.0), np.where(known, nodes, 0)

    def tokens(self, rows: list[list[int]]) -> np.ndarray:
        """Probabilities of all tokens of sentences, one after another."""
        lengths = np.array([len(row) for row in rows])
        tokens = np.concatenate([np.array(row) for row in rows])
        longest_first = np.argsort(-lengths, kind="stable")
        starts = (np.cumsum(lengths) - lengths)[longest_first]
        states, found = np.full(len(rows), 1 + BOS), np.zeros(len(tokens))
        for position in range(lengths.max()):
            here = starts[:int((lengths > position).sum())] + position
            found[here], states = self.advance(states[:len(here)], tokens[here])
        return found
