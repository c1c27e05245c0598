"""A back-off model as one tree of n-grams, in which words are looked up after contexts, many at a time.

Node 0 is the empty n-gram, then come the unigrams, the bigrams and so on, each order sorted by (node of the first
words, last word). So the key `node of the first words * V + last word` rises from node to node, and one search among
all keys finds any n-gram. Probabilities and weights are natural logarithms.

Back-off weights are summed along suffixes beforehand (`total`), so what is backed off between two contexts is a
difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from downstream.lm.arpa_lines import LN10
from downstream.lm.kneser_ney import Grams, NGramModel
from downstream.lm.reading import BOS

_NOTHING = 1e-6  # mass that may be rounding: probabilities in ARPA files are float32
_LEAST = 1e-99  # weight in place of 0, the custom of ARPA files


@dataclass(frozen=True)
class Tree:
    """All n-grams of a model.

    Attributes:
        vocabulary: V, the number of unigrams; unigram i is node i + 1.
        orders: nodes of orders 1, 2, ...
        prefix: (nodes,) int64, node of the first words.
        word: (nodes,) int64, last word.
        keys: (nodes,) int64, rising; -1 for node 0.
        suffix: (nodes,) int64, the longest n-gram of the model that this one ends with, itself left out.
        logprob: (nodes,) float64, of the last word after the first ones.
        backoff: (nodes,) float64, 0 for the longest n-grams.
        total: (nodes,) float64, back-off weights of a node and of all its suffixes.
    """

    vocabulary: int
    orders: tuple[slice, ...]
    prefix: np.ndarray
    word: np.ndarray
    keys: np.ndarray
    suffix: np.ndarray
    logprob: np.ndarray
    backoff: np.ndarray
    total: np.ndarray

    def advance(self, contexts: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Words after contexts, each row by itself.

        Args:
            contexts: (n,) int64 nodes, what this gave or 0.
            words: (n,) int64 in [0, V).

        Returns:
            (n,) float64 natural-log probabilities, and (n,) int64 nodes of the longest n-grams that end with the words.
        """
        nodes = _longest(self.keys, self.suffix, contexts, words, self.vocabulary)
        return self._backed_off(contexts, nodes), nodes

    def below(self, nodes: slice) -> np.ndarray:
        """Log-probabilities of n-grams' last words after their first words but one: what they would back off to."""
        return self._backed_off(self.suffix[self.prefix[nodes]], self.suffix[nodes])

    def _backed_off(self, contexts: np.ndarray, found: np.ndarray) -> np.ndarray:
        return self.logprob[found] - self.total[self.prefix[found]] + self.total[contexts]


def tree_of(model: NGramModel) -> Tree:
    """All n-grams of a model, with the back-off weights that it has."""
    size = len(model.words)
    starts = np.cumsum([0, 1, *(len(grams) for grams in model.orders)]).tolist()
    orders = tuple(slice(first, last) for first, last in pairwise(starts[1:]))
    prefix = np.concatenate([[0], *(grams.prefix + start for start, grams in zip(starts, model.orders))])
    word = np.concatenate([[0], *(grams.word for grams in model.orders)])
    keys = prefix * size + word
    keys[0] = -1  # no n-gram ends with the empty one as its word
    suffix = np.zeros(len(word), np.int64)
    for order in orders[1:]:  # found by the suffixes of the orders below
        suffix[order] = _longest(keys, suffix, suffix[prefix[order]], word[order], size)
    logprob = np.concatenate([[0.0], *(grams.logprob.astype(float) * LN10 for grams in model.orders)])
    backoff = np.concatenate([[0.0], *(grams.backoff.astype(float) * LN10 for grams in model.orders)])
    backoff[orders[-1]] = 0
    total = np.zeros(len(word))
    for order in orders:
        total[order] = backoff[order] + total[suffix[order]]
    return Tree(size, orders, prefix, word, keys, suffix, logprob, backoff, total)


def normalised(tree: Tree) -> Tree:
    """The same n-grams with the back-off weights by which all words after a context sum to 1, unlisted ones included.

    The weight of a context is what its n-grams leave of 1, over what the same words leave of 1 one order below.
    """
    backoff, total = np.zeros_like(tree.backoff), np.zeros_like(tree.total)
    found = replace(tree, backoff=backoff, total=total)
    for contexts, order in pairwise(tree.orders):
        left, left_below = masses(found, contexts, order)
        weight = np.where(left_below > _NOTHING, left / np.maximum(left_below, _NOTHING), 1.0)
        backoff[contexts] = np.log(np.maximum(weight, _LEAST))
        total[contexts] = backoff[contexts] + total[tree.suffix[contexts]]
    return found


def masses(tree: Tree, contexts: slice, order: slice) -> tuple[np.ndarray, np.ndarray]:
    """What the n-grams of contexts leave of 1, and what their words leave of 1 after the contexts' suffixes.

    Args:
        contexts: nodes of an order.
        order: nodes of the order above.

    Returns:
        (contexts,) float64 each. `<s>` is never predicted, whatever its probability.
    """
    size, predicted = contexts.stop - contexts.start, tree.word[order] != BOS
    context = tree.prefix[order] - contexts.start
    taken = np.bincount(context, np.exp(tree.logprob[order]) * predicted, size)
    taken_below = np.bincount(context, np.exp(tree.below(order)) * predicted, size)
    return 1 - taken, 1 - taken_below


def weighted(model: NGramModel) -> NGramModel:
    """A model with the back-off weights by which it is normalised; longest orders without n-grams are left out."""
    orders = list(model.orders)
    while len(orders) > 1 and not len(orders[-1]):
        orders.pop()
    tree = normalised(tree_of(NGramModel(model.words, tuple(orders), ())))
    grams = (Grams(g.prefix, g.word, g.logprob, (tree.backoff[nodes] / LN10).astype(np.float32))
             for g, nodes in zip(orders, tree.orders))
    return NGramModel(model.words, tuple(grams), ())


def _longest(keys: np.ndarray, suffix: np.ndarray, contexts: np.ndarray, words: np.ndarray,
             vocabulary: int) -> np.ndarray:
    """Nodes of the longest n-grams made of a context or of a suffix of it, and a word."""
    found = 1 + words
    left = np.flatnonzero(contexts)
    contexts = contexts[left]
    while len(left):
        wanted = contexts * vocabulary + words[left]
        nodes = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        there = keys[nodes] == wanted
        found[left[there]] = nodes[there]
        contexts = suffix[contexts[~there]]
        left, contexts = left[~there][contexts > 0], contexts[contexts > 0]
    return found
