"""Interpolated modified Kneser-Ney estimation (Chen & Goodman 1999; Heafield et al. 2013), equal to KenLM's lmplz.

Counts are adjusted: of the highest order and of n-grams that start with `<s>` the occurrences, of all others the number
of different words to their left. With a(g) the adjusted count and D the discount of its order and size,

    p(w | c) = (a(c w) - D) / sum_x a(c x)  +  gamma(c) p(w | c without its first word)

where gamma(c) is the mass that discounting and pruning took from c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from downstream.lm.counts import Order, count, last_in_suffix_order
from downstream.lm.reading import BOS, EOS, SPECIALS, UNK, Progress, Text, longest_ngram, read_text
from upstream.errors import InputError, UsageError

Discounts = tuple[float, float, float]  # of adjusted counts 1, 2, and 3 and more

FALLBACK: Discounts = (0.5, 1.0, 1.5)
USUAL_ORDER = 10  # more words than n-grams have elsewhere


@dataclass(frozen=True)
class Statistics:
    """Of one order.

    Attributes:
        kept, total: n-grams in the model, n-grams seen.
        counts_of_counts: n-grams of adjusted count 0 to 4.
        discounts: of adjusted counts 1, 2, and 3 and more.
        fallback: why they are the fallback's; empty where the counts gave them.
    """

    kept: int
    total: int
    counts_of_counts: tuple[int, ...]
    discounts: Discounts
    fallback: str = ""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order in a model, sorted by (prefix, word).

    Attributes:
        prefix: (n,) int64, rows of the first k - 1 words in the order below.
        word: (n,) int64, ids of the last words.
        logprob, backoff: (n,) float32, base 10 as in ARPA files.
    """

    prefix: np.ndarray
    word: np.ndarray
    logprob: np.ndarray
    backoff: np.ndarray

    def __len__(self) -> int:
        return len(self.word)


@dataclass(frozen=True)
class NGramModel:
    """A back-off model.

    Attributes:
        words: of every id; `<unk>`, `<s>`, `</s>` first.
        orders: n-grams of orders 1, 2, ...
        statistics: of each order, as estimated.
    """

    words: list[str]
    orders: tuple[Grams, ...]
    statistics: tuple[Statistics, ...]


@dataclass(frozen=True)
class Options:
    """lmplz's options.

    Attributes:
        prune: n-grams that occur at most so often are left out, for orders 1, 2, ...; the last value goes on.
        fallback: discounts for orders whose counts of counts give none; None stops instead.
        interpolate_unigrams: spread the unigrams' discounted mass over all words, or give it all to `<unk>`.
        vocab: words that the model may hold; None for all.
        vocab_pad: take the vocabulary to be at least so large.
        skip_symbols: see `reading.read_text`.
    """

    prune: tuple[int, ...] = (0,)
    fallback: Discounts | None = None
    interpolate_unigrams: bool = True
    vocab: frozenset[str] | None = None
    vocab_pad: int = 0
    skip_symbols: bool = False


def estimate(texts: Sequence[Path], order: int, options: Options | None = None, progress: Progress | None = None,
             normalise: Callable[[str], str] | None = None) -> NGramModel:
    """Estimate a model from texts, one sentence a line, in memory: some 220 bytes a word of text at order 4.

    Args:
        texts: plain or gzipped, taken as one text.
        order: words of the longest n-grams.
        options: lmplz's; None for its defaults.
        progress: told how much is done, of how much.
        normalise: applied to every line first; None takes the text as it is.

    Raises:
        UsageError: options that fit neither the order nor each other, or a file that is not there.
        InputError: a text that cannot be used, without a word of the vocabulary, or whose counts give no discounts
            (with advice).
    """
    options = options or Options()
    check_options(options, order)
    if isinstance(texts, str | Path):
        raise UsageError(f"texts={str(texts)!r}: a single file; give a list of them")
    report = progress or (lambda done, total: None)
    # reading takes about as long as counting one order, and so does the end
    text = read_text(texts, options.skip_symbols, normalise, lambda done, total: report(done / total, order + 1))
    check_order(order, longest_ngram(text.tokens), options)
    orders = count(text, order, lambda done, _: report(done, order + 1))
    adjusted = _adjusted(orders)
    counts_of_counts = _counts_of_counts(text, orders, adjusted)
    discounts, reasons = all_discounts(counts_of_counts, [len(o) for o in orders], options.fallback)
    kept = kept_ngrams(text, orders, thresholds_of(options, order), options.vocab)
    grams = _packed(orders, kept, *_interpolated(orders, adjusted, discounts, kept, options))
    statistics = [Statistics(len(g), len(o), tuple(n.tolist()), d, reason)
                  for g, o, n, d, reason in zip(grams, orders, counts_of_counts, discounts, reasons)]
    words = [w for w, stays in zip(text.words, kept[0]) if stays]
    report(order + 1, order + 1)
    return NGramModel(words, tuple(grams), tuple(statistics))


def check_options(options: Options, order: int) -> None:
    """Raise UsageError where options fit neither the order nor each other."""
    prune = options.prune or (0,)
    if not isinstance(order, int) or order < 1:
        raise UsageError(f"order {order!r}: must be a whole number, at least 1")
    if not isinstance(prune, tuple | list):
        raise UsageError(f"prune {prune!r}: expected a list of thresholds, one for each order")
    if len(prune) > order:
        raise UsageError(f"prune has {len(prune)} thresholds, the model {order} orders")
    if min(prune) < 0 or any(a > b for a, b in pairwise(prune)):
        raise UsageError(f"prune {','.join(map(str, prune))}: thresholds must not fall from order to order, nor be "
                         "negative")
    if options.vocab_pad and not options.interpolate_unigrams:
        raise UsageError("vocab_pad needs interpolate_unigrams (--vocab-pad, --interpolate-unigrams)")
    if options.fallback is not None and any(not 0 <= d <= j for j, d in enumerate(options.fallback, 1)):
        raise UsageError(f"discount fallback {options.fallback}: the j-th must lie in [0, j]")


def check_order(order: int, longest: int, options: Options) -> None:
    """Raise InputError, before any counting, where a text has no n-grams of an order.

    Fallback discounts stand in for what they would give, so that small texts have usual orders too, as with lmplz.

    Args:
        longest: words of the text's longest n-gram.
    """
    if order > (longest if options.fallback is None else max(longest, USUAL_ORDER)):
        raise InputError(f"order {order}: there are no {order}-grams, as no sentence is that long: the longest has "
                         f"{longest} words with <s> and </s>; take more text or a lower order")


def thresholds_of(options: Options, order: int) -> list[int]:
    """Pruning threshold of every order."""
    prune = options.prune or (0,)
    return [*prune, *[prune[-1]] * (order - len(prune))]


def _adjusted(orders: list[Order]) -> list[np.ndarray]:
    """Adjusted count of every n-gram, int64."""
    found = []
    for below, above in pairwise(orders):
        left = np.bincount(above.suffix, minlength=len(below))
        found.append(np.where(below.initial, below.count, left))
    found.append(orders[-1].count)
    if len(orders) > 1:
        found[0][[UNK, BOS]] = 0
    return found


def _counts_of_counts(text: Text, orders: list[Order], adjusted: list[np.ndarray]) -> list[np.ndarray]:
    """n-grams of adjusted count 0 to 4 of each order, with lmplz's oddity.

    lmplz closes a lower-order n-gram when a later one arrives. Those still open at the end, the suffixes of the last
    n-gram in suffix order, are counted with their occurrences in place of the adjusted count.
    """
    last = last_in_suffix_order(text, len(orders))
    found = []
    for k, (grams, counts) in enumerate(zip(orders, adjusted), 1):
        counted = np.minimum(counts, 5)
        if k < len(orders) and BOS not in last[-k:][1:]:
            row = _row(orders, last[-k:])
            counted = counted.copy()
            counted[row] = min(5, int(grams.count[row]))
        found.append(np.bincount(counted, minlength=6)[:5])
    return found


def _row(orders: list[Order], words: list[int]) -> int:
    """Row of an n-gram that is there."""
    row = words[0]
    for grams, word in zip(orders[1:], words[1:]):
        first, last = np.searchsorted(grams.prefix, [row, row + 1])
        row = int(first + np.searchsorted(grams.word[first:last], word))
    return row


def all_discounts(counts_of_counts: Sequence[np.ndarray], seen: Sequence[int],
                  fallback: Discounts | None) -> tuple[list[Discounts], list[str]]:
    """The three discounts of every order, and why they are the fallback's where they are.

    Args:
        counts_of_counts: of each order, n-grams of adjusted count 0 to 4.
        seen: of each order, n-grams of any count.

    Raises:
        InputError: the counts of an order give no discounts, and there is no fallback.
    """
    found: list[Discounts] = []
    reasons = []
    for order, (n, size) in enumerate(zip(counts_of_counts, seen), 1):
        reason = _fault(order, n, size)
        if reason and fallback is None:
            raise InputError(f"{reason}: the text is too small or repeats itself; take more text or a lower order, or "
                             f"fallback discounts ({', '.join(f'{d:g}' for d in FALLBACK)} are --discount-fallback)")
        found.append(fallback if reason and fallback is not None else _modified(n))
        reasons.append(reason)
    return found, reasons


def _fault(order: int, n: np.ndarray, size: int) -> str:
    """Why the counts of an order give no discounts; empty where they do."""
    if not size:
        return f"there are no {order}-grams, as no sentence is that long"
    missing = np.flatnonzero(n[1:4] == 0) + 1
    if len(missing):
        return f"no {order}-gram has an adjusted count of {missing[0]}"
    found = _modified(n)
    bad = [j for j, d in enumerate(found, 1) if not 0 <= d <= j]
    if bad:
        return f"the discount of {order}-grams of adjusted count {bad[0]} would be {found[bad[0] - 1]:.3g}"
    return ""


def _modified(n: np.ndarray) -> Discounts:
    """Equation 26 of Chen & Goodman, in float32 as lmplz has it, so that the same texts are refused."""
    f = np.float32
    y = f(n[1]) / f(n[1] + 2 * n[2])
    one, two, three = (float(f(j) - f(j + 1) * y * f(n[j + 1]) / f(n[j])) for j in (1, 2, 3))
    return one, two, three


def allowed_words(words: Sequence[str], vocab: frozenset[str] | None) -> np.ndarray:
    """(V,) bool, which words of a text may be in its model: those of a vocabulary, and `<unk>`, `<s>`, `</s>`.

    Raises:
        InputError: none of the text's own words is in the vocabulary.
    """
    first = len(SPECIALS)
    found = np.array([vocab is None or word in vocab for word in words])
    if vocab is not None and len(words) > first and not found[first:].any():
        raise InputError(f"none of the {len(words) - first} words of the text ({words[first]!r}, ...) is among the "
                         f"{len(vocab)} of the vocabulary ({min(vocab, default='')!r}, ...); is one in another case?")
    found[:first] = True
    return found


def kept_ngrams(text: Text, orders: list[Order], thresholds: list[int],
                vocab: frozenset[str] | None) -> list[np.ndarray]:
    """Which n-grams stay, by their occurrences and their words. `<unk>`, `<s>` and `</s>` always do."""
    allowed = allowed_words(text.words, vocab)
    found, spelled = [], allowed
    for k, (grams, least) in enumerate(zip(orders, thresholds), 1):
        spelled = allowed if k == 1 else spelled[grams.prefix] & allowed[grams.word]
        stays = spelled & (grams.count > least) if least else spelled.copy()
        if k == 1:
            stays[[UNK, BOS, EOS]] = True
        found.append(stays)
    return found


def _interpolated(orders: list[Order], adjusted: list[np.ndarray], discounts: list[Discounts], kept: list[np.ndarray],
                  options: Options) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """p(w | c) of all n-grams of each order, and gamma of all n-grams of each order but the highest as contexts."""
    probabilities: list[np.ndarray] = []
    gammas: list[np.ndarray] = []  # gammas[k]: of contexts of k words
    for k, (grams, counts) in enumerate(zip(orders, adjusted)):
        contexts = 1 if k == 0 else len(orders[k - 1])
        alone, gamma = discounted(grams.prefix, contexts, counts, kept[k], discounts[k])
        if k == 0:
            probabilities.append(unigrams(alone, float(gamma[0]), kept[0], options))
        else:
            probabilities.append(alone + gamma[grams.prefix] * probabilities[k - 1][grams.suffix])
        gammas.append(gamma)
    return probabilities, gammas[1:]


def discounted(prefix: np.ndarray, contexts: int, counts: np.ndarray, kept: np.ndarray,
               discounts: Discounts) -> tuple[np.ndarray, np.ndarray]:
    """(a(c w) - D) / sum_x a(c x) of all n-grams of an order, 0 for those pruned, and gamma of its contexts."""
    table = np.array([0.0, *discounts])
    discount = table[np.minimum(counts, 3)]
    total = np.bincount(prefix, counts, contexts)
    lost = np.bincount(prefix, np.where(kept, discount, counts), contexts)
    with np.errstate(invalid="ignore", divide="ignore"):
        gamma = np.where(total > 0, lost / total, 1.0)
        alone = np.where(kept, counts - discount, 0.0) / total[prefix]
    return alone, gamma


def unigrams(alone: np.ndarray, gamma: float, kept: np.ndarray, options: Options) -> np.ndarray:
    """p(w) of all words; `<s>` is never predicted, and ARPA files of lmplz give it a probability of 1."""
    found = alone.copy()
    if options.interpolate_unigrams:
        size = max(int(kept.sum()) - 1, options.vocab_pad)  # <s> is not among those that can come
        found = alone + gamma / size
    else:
        found[UNK] = gamma
    found[BOS] = 1.0
    return found


def _packed(orders: list[Order], kept: list[np.ndarray], probabilities: list[np.ndarray],
            gammas: list[np.ndarray]) -> list[Grams]:
    """The n-grams that stay, renumbered."""
    packed = []
    for k, (grams, p, stays) in enumerate(zip(orders, probabilities, kept)):
        prefix = grams.prefix[stays] if k == 0 else (np.cumsum(kept[k - 1]) - 1)[grams.prefix[stays]]
        word = (np.cumsum(kept[0]) - 1)[grams.word[stays]]
        backoff = log10_or_99(gammas[k][stays]) if k < len(gammas) else np.zeros(int(stays.sum()), np.float32)
        packed.append(Grams(prefix, word, log10_or_99(p[stays]), backoff))
    return packed


def log10_or_99(p: np.ndarray) -> np.ndarray:
    """float32; -99 for 0, the custom of ARPA files. lmplz writes -inf, which KenLM does not read as a back-off."""
    return np.log10(np.maximum(p, 1e-99)).astype(np.float32)
