"""Relative-entropy pruning of back-off models (Stolcke 1998, "Entropy-based pruning of backoff language models").

An n-gram (h, w) that goes is backed off, and the weight of its context changes from a(h) to a'(h):

    a'(h) = (left(h) + p(w | h)) / (left'(h) + p(w | h'))
    loss  = -p(h) * (p(w | h) * (log p(w | h') + log a'(h) - log p(w | h)) + left(h) * (log a'(h) - log a(h)))

with h' the context without its first word, left(h) what the n-grams of h leave of 1, left'(h) what their words leave of
1 after h'. The model's perplexity grows by exp(loss) - 1 of itself, were this the only one to go. What an n-gram that
stays begins or ends with, stays: ARPA files need its context, and KenLM puts a blank in the place of a missing end, for
which a small model has no room.

p(h) is the model's own. Kneser-Ney unigrams are no frequencies of words, which harms pruning (Chelba et al. 2010), so
the first word of a context has the share of running words that the model's bigrams come to rest at. On 8.8 million
words of books, a trigram pruned from 6.5 to .6 million n-grams has a perplexity of 342 so, and of 352 with the unigrams
(306 unpruned). Where a count threshold when estimating (`--prune 0,0,1`) makes a model small enough, it is better.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from downstream.lm.kneser_ney import Grams, NGramModel
from downstream.lm.reading import BOS, EOS
from downstream.lm.tree import Tree, masses, tree_of, weighted
from upstream.errors import UsageError

_TINY = 1e-12  # mass, so that no logarithm is of 0
_STEPS = 200  # towards the bigrams' rest; some 30 are usual
_REST = 1e-7


def prune_to_loss(model: NGramModel, threshold: float) -> NGramModel:
    """Leave out n-grams by each of which the perplexity would grow by less than `threshold` of itself, e.g. 1e-8.

    Probabilities stay as they are, back-off weights are made anew; unigrams all stay.

    Raises:
        UsageError: a threshold that is not positive.
    """
    if not threshold > 0:
        raise UsageError(f"threshold {threshold:g}: must be above 0; 1e-8 is a usual one")
    return _kept(model, [growth >= threshold for growth in _growth(model)])


def prune_to_ngrams(model: NGramModel, ngrams: int) -> NGramModel:
    """Keep at most so many n-grams of all orders together, those that matter most, as `prune_to_loss` does.

    Raises:
        UsageError: fewer than there are unigrams, which all stay.
    """
    size = len(model.words)
    if ngrams < size:
        raise UsageError(f"{ngrams} n-grams (--ngrams): the model has {size} words, which all stay")
    growth = _growth(model)
    return _kept(model, _largest(growth, [np.ones(len(values)) for values in growth], ngrams))


def prune_to_bytes(model: NGramModel, limit: int) -> NGramModel:
    """Keep as many n-grams as an ARPA file (not gzipped) of at most so many bytes holds, as `prune_to_loss` does.

    Raises:
        UsageError: so few that not even the unigrams fit.
    """
    growth = _growth(model)
    added = _bytes_added(model, growth)
    room = limit - _header_bytes(model)
    while True:
        found = _kept(model, _largest(growth, added, room))
        over = arpa_bytes(found) - limit  # new weights may take more digits than the old ones
        if over <= 0:
            return found
        if len(found.orders) == 1:
            raise UsageError(f"{limit / 1e6:g} megabytes (--megabytes): the words alone take "
                             f"{arpa_bytes(found) / 1e6:.3g}")
        room -= over


def arpa_bytes(model: NGramModel) -> int:
    """Bytes of a model's ARPA file, not gzipped."""
    longest = len(model.orders) - 1
    lines = (int(line.sum()) + (0 if k == longest else int(weight.sum()))
             for k, (line, weight) in enumerate(_line_bytes(model)))
    return _header_bytes(model) + sum(lines)


def _growth(model: NGramModel) -> list[np.ndarray]:
    """By how much of itself the perplexity grows without an n-gram, for all of each order; infinite for unigrams.

    Or without the one that it begins or ends and that matters most: they go in the order of these numbers.
    """
    if len(model.orders) == 1:
        return [np.full(len(model.words), np.inf)]
    tree = tree_of(model)
    loss = losses(tree, frequencies_of(tree))
    for order in reversed(tree.orders[1:]):
        for part in (tree.prefix[order], tree.suffix[order]):
            np.maximum.at(loss, part, loss[order])
    loss[tree.orders[0]] = np.inf
    return [np.expm1(loss[order]) for order in tree.orders]


def losses(tree: Tree, frequencies: np.ndarray) -> np.ndarray:
    """Relative entropy (nats) between a model and the one without an n-gram.

    Args:
        frequencies: (V,) shares of running words, that of `<s>` as a context, float64.

    Returns:
        (nodes,) float64; 0 for unigrams.
    """
    found, joint = np.zeros(len(tree.word)), tree.logprob.copy()
    joint[tree.orders[0]] = np.log(np.maximum(frequencies, _TINY))
    for contexts, order in pairwise(tree.orders):
        left, left_below = (np.maximum(mass, _TINY) for mass in masses(tree, contexts, order))
        context = tree.prefix[order] - contexts.start
        below, logprob = tree.below(order), tree.logprob[order]
        p = np.exp(logprob)
        weight = np.log(left[context] + p) - np.log(left_below[context] + np.exp(below))
        change = weight - (np.log(left) - np.log(left_below))[context]
        found[order] = -np.exp(joint[tree.prefix[order]]) * (p * (below + weight - logprob) + left[context] * change)
        joint[order] += joint[tree.prefix[order]]
    return found


def frequencies_of(tree: Tree) -> np.ndarray:
    """Shares of running words, `</s>` among them, at which a model's bigrams come to rest; (V,) float64.

    `<s>` follows every `</s>`, so as a context it has the share of `</s>`.
    """
    alone = np.where(np.arange(tree.vocabulary) == BOS, 0.0, np.exp(tree.logprob[tree.orders[0]]))
    weights, bigrams = np.exp(tree.backoff[tree.orders[0]]), tree.orders[1]
    before, word = tree.prefix[bigrams] - 1, tree.word[bigrams]
    more = np.exp(tree.logprob[bigrams]) - weights[before] * alone[word]  # than by backing off
    found = alone
    for _ in range(_STEPS):
        contexts = found.copy()
        contexts[[BOS, EOS]] = found[EOS], 0.0
        following = np.bincount(word, contexts[before] * more, tree.vocabulary) + alone * (contexts @ weights)
        following[BOS] = 0.0
        following = (found + following / following.sum()) / 2  # half of it, so that nothing can swing
        change, found = float(np.abs(following - found).sum()), following
        if change < _REST:
            break
    found = np.maximum(found, 0.0)
    found[BOS] = found[EOS]
    return found


def _largest(growth: list[np.ndarray], sizes: list[np.ndarray], room: float) -> list[np.ndarray]:
    """Which n-grams stay so that the sizes of those of the largest growth fit; of equal ones all or none."""
    values, weights = np.concatenate(growth), np.concatenate(sizes)
    order = np.argsort(-values, kind="stable")
    fits = np.cumsum(weights[order]) <= room
    if fits.all():
        return [np.ones(len(part), bool) for part in growth]
    first_out = values[order[int((~fits).argmax())]]
    return [(part > first_out) | np.isinf(part) for part in growth]


def _kept(model: NGramModel, kept: list[np.ndarray]) -> NGramModel:
    """The n-grams that stay, renumbered, with new back-off weights."""
    orders, rows = [], np.zeros(len(model.words), np.int64)
    for k, (grams, stays) in enumerate(zip(model.orders, kept)):
        prefix = grams.prefix[stays] if k == 0 else rows[grams.prefix[stays]]
        orders.append(Grams(prefix, grams.word[stays], grams.logprob[stays], grams.backoff[stays]))
        rows = np.cumsum(stays) - 1
    return weighted(NGramModel(model.words, tuple(orders), ()))


def _bytes_added(model: NGramModel, growth: list[np.ndarray]) -> list[np.ndarray]:
    """Bytes that a file grows by with each n-gram, where those of larger growth are in it already.

    The first n-gram after a context brings the digits of the context's weight, which was 0.
    """
    found = []
    weights = np.zeros(0)
    for k, ((line, weight), grams, values) in enumerate(zip(_line_bytes(model), model.orders, growth)):
        added = line + (2 if k + 1 < len(model.orders) else 0)  # a tab and 0
        if k:
            order = np.argsort(-values, kind="stable")
            contexts, firsts = np.unique(grams.prefix[order], return_index=True)
            added[order[firsts]] += weights[contexts] - 2
        found.append(added)
        weights = weight
    return found


def _header_bytes(model: NGramModel) -> int:
    sections = "".join(f"ngram {k}={len(grams)}\n\n\\{k}-grams:\n" for k, grams in enumerate(model.orders, 1))
    return len("\\data\\\n" + sections + "\n\\end\\\n")


def _line_bytes(model: NGramModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bytes of each n-gram's line in an ARPA file, and of the back-off weight and its tab, of all orders."""
    words = np.array([len(word.encode()) for word in model.words])
    found, text = [], np.zeros(1, np.int64)
    for k, grams in enumerate(model.orders):
        text = words[grams.word] + (0 if k == 0 else text[grams.prefix] + 1)
        found.append((text + _digits(grams.logprob) + 2, _digits(grams.backoff) + 1))  # a tab and the newline
    return found


def _digits(values: np.ndarray) -> np.ndarray:
    return pc.binary_length(pc.cast(pa.array(values), pa.string())).to_numpy().astype(np.int64)
