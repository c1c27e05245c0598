"""Percentile bootstrap intervals of a pooled error rate (Efron & Tibshirani 1993; for WER: Bisani & Ney 2004).

Utterances are drawn with replacement, as many as there are; or whole speakers (`groups`), because the errors of one
speaker are alike and utterances drawn singly then make the interval too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from upstream.errors import InputError
from upstream.keyed import keyed

RESAMPLES = 10_000
_CHUNK = 1 << 20  # drawn indices held at once: 8 MB


@dataclass(frozen=True)
class ConfidenceInterval:
    """An interval in percent (points).

    Attributes:
        level: the share of intervals so made that hold the true value.
        clusters: utterances or groups that were drawn from. Of few the interval is too narrow (of ten utterances some
            88 % hold the true value instead of 95), and of a single one both ends are its rate.
    """

    low: float
    high: float
    level: float
    clusters: int

    @property
    def ends(self) -> tuple[float, float] | None:
        """Low and high; None of a single cluster, which says nothing of how others would vary."""
        return (self.low, self.high) if self.clusters > 1 else None

    @property
    def rounded(self) -> list[float]:
        """Low and high as files of results have them, with three digits after the point; of a single cluster too."""
        return [round(float(self.low), 3), round(float(self.high), 3)]


def range_of(ends: Sequence[float] | None, sign: str = "", between: str = " to ") -> str:
    """`12.34 to 15.00`, or `-` where there is none; `sign` as in format specifications."""
    return "-" if ends is None else between.join(f"{end:{sign}.2f}" for end in ends)


def bootstrap_interval(errors: np.ndarray, words: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES,
                       level: float = 0.95, groups: Sequence[Hashable] | None = None) -> ConfidenceInterval:
    """Interval of `100 * errors.sum() / words.sum()`.

    Args:
        errors: (N,) errors of each utterance.
        words: (N,) reference words (or characters) of each.
        seed: the draw is a function of the seed, the number of utterances or groups, and the resamples.
        resamples: times that the set is drawn anew. Draws without any word have no rate and are left out.
        level: in (0, 1).
        groups: (N,) labels, such as speakers, or numbers of them; utterances of one label are drawn together.

    Raises:
        InputError: no utterances, arrays of different lengths, of no counts, no words at all, or a single group; no
            number of resamples, or one so low that no draw holds a word.
    """
    totals = cluster_totals(errors, words, groups)
    rates = resampled_rates(totals[:, :1], totals[:, 1], seed, resamples)[:, 0]
    return percentile_interval(rates, level, len(totals))


def percentile_interval(values: np.ndarray, level: float, clusters: int) -> ConfidenceInterval:
    """The interval that leaves out an equal share of `values`, drawn from so many clusters, at both ends."""
    if not 0 < level < 1:
        raise InputError(f"level {level} of an interval must lie between 0 and 1, for instance 0.95")
    if not len(values):
        raise InputError("no draw held a word; give more resamples")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(float(low), float(high), level, clusters)


def resampled_rates(errors: np.ndarray, words: np.ndarray, seed: int, resamples: int,
                    chunk: int = _CHUNK) -> np.ndarray:
    """Pooled rates in percent of systems on the same resampled sets.

    Args:
        errors: (N, systems).
        words: (N,).
        chunk: indices drawn at once; bounds memory and changes no result.

    Returns:
        (draws, systems) float64; fewer draws than `resamples` if some held no word.
    """
    if not isinstance(resamples, int | np.integer) or resamples < 1:
        raise InputError(f"resamples={resamples!r}: must be a whole number, 1 or more")
    n = len(words)
    rng = keyed(seed, "bootstrap", n, resamples)
    sums = np.empty((resamples, errors.shape[1] + 1))
    columns = [np.ascontiguousarray(column, dtype=np.float64) for column in (*errors.T, words)]
    rows = max(1, chunk // n)
    for start in range(0, resamples, rows):
        drawn = rng.integers(n, size=(min(rows, resamples - start), n))
        for column, values in enumerate(columns):
            sums[start:start + len(drawn), column] = values[drawn].sum(axis=1)
    kept = sums[sums[:, -1] > 0]
    return 100 * kept[:, :-1] / kept[:, -1:]


def cluster_totals(errors: np.ndarray, words: np.ndarray, groups: Sequence[Hashable] | None) -> np.ndarray:
    """Sums of errors and words of each cluster, in order of first appearance; without groups each utterance is one.

    Args:
        errors: (N,) or (N, systems).
        words: (N,).

    Returns:
        (clusters, systems + 1) float64; the last column is the words.

    Raises:
        InputError: as `bootstrap_interval`.
    """
    errors, words = np.asarray(errors), np.asarray(words)
    for name, counts in (("errors", errors), ("words", words)):
        if counts.dtype.kind not in "biuf" or not np.isfinite(counts).all() or (counts < 0).any():
            raise InputError(f"{name} of utterances must be counts, 0 or more; found {str(counts.tolist())[:60]}")
    if errors.shape[:1] != words.shape or not words.size or words.sum() <= 0:
        raise InputError(f"an interval needs errors and words of the same utterances, and a word at least; found "
                         f"{errors.shape[:1]} errors, {words.shape} words, {words.sum()} words in all")
    columns = np.column_stack([errors, words]).astype(np.float64)
    if groups is None:
        return columns
    if len(groups) != len(words):
        raise InputError(f"{len(groups)} groups for {len(words)} utterances; each utterance needs one")
    numbers: dict[Hashable, int] = {}
    labels = [group.item() if hasattr(group, "item") else group for group in groups]  # tensors hash by identity
    index = np.asarray([numbers.setdefault(label, len(numbers)) for label in labels])
    if len(numbers) == 1:  # each draw would be the whole set, and any rate look sure
        raise InputError(f"all {len(words)} utterances are of one group, {groups[0]}; intervals by groups need two at "
                         "least: draw utterances (leave out groups, --by speaker)")
    totals = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(totals, index, columns)
    return totals
