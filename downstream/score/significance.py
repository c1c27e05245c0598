"""Whether two systems differ: the difference of their error rates, how well it is known, and whether chance makes it.

The interval is of the paired bootstrap (Bisani & Ney 2004). The p-value is of the randomisation test (Noreen 1989):
were the systems equal, each utterance's errors might as well have been the other's, and the p-value is how often such
swaps make a difference at least as large. So utterances with the same errors by both make nothing surer, and with few
speakers equal systems are called different no more often than promised, which a bootstrap's tail does not keep to.
Of many comparisons some look sure by chance: `holm` says how sure each is among all (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.score.intervals import (
    RESAMPLES,
    ConfidenceInterval,
    cluster_totals,
    percentile_interval,
    resampled_rates,
)
from upstream.errors import InputError
from upstream.keyed import keyed

_CHUNK = 1 << 20  # signs held at once: 8 MB


@dataclass(frozen=True)
class PairedDifference:
    """Error rate of the first system minus that of the second.

    Attributes:
        points: of the whole set, in percentage points; negative: the first makes fewer errors.
        interval: of the difference, in points.
        p_value: two-sided: how often chance alone would put the difference this far from zero.
    """

    points: float
    interval: ConfidenceInterval
    p_value: float


def paired_difference(errors: np.ndarray, other_errors: np.ndarray, words: np.ndarray, *, seed: int = 0,
                      resamples: int = RESAMPLES, level: float = 0.95,
                      groups: Sequence[Hashable] | None = None) -> PairedDifference:
    """Compare two systems on the same utterances; both are drawn together, so what is hard for both cancels out.

    Args:
        errors: (N,) errors of the first system in each utterance.
        other_errors: (N,) errors of the second, in the same order of utterances.
        words: (N,) reference words.
        seed, resamples, level, groups: as in `intervals.bootstrap_interval`; `resamples` also of the p-value's swaps.

    Raises:
        InputError: arrays that do not fit each other, no words, or a single group.
    """
    if np.shape(errors) != np.shape(other_errors):
        raise InputError(f"{np.size(errors)} and {np.size(other_errors)} utterances; a paired test needs the same for "
                         "both")
    totals = cluster_totals(np.column_stack([errors, other_errors]), words, groups)
    rates = resampled_rates(totals[:, :2], totals[:, 2], seed, resamples)
    first, second, whole = totals.sum(axis=0)
    return PairedDifference(points=float(100 * (first - second) / whole),
                            interval=percentile_interval(rates[:, 0] - rates[:, 1], level, len(totals)),
                            p_value=randomisation_p_value(totals[:, 0] - totals[:, 1], seed, resamples))


def randomisation_p_value(differences: np.ndarray, seed: int = 0, swaps: int = RESAMPLES) -> float:
    """How often random signs put the sum of `differences` as far from 0 as it is: in (0, 1], and 1 if all are 0.

    Exact, over all signs, where they are no more than `swaps`; otherwise over so many draws, with one added to those
    that reach it and to all, so that it is never 0.

    Args:
        differences: (N,) errors of one system minus those of the other, of utterances or groups; whole numbers.
    """
    untied = differences[differences != 0].astype(np.float64)
    reached, exact = abs(untied.sum()), len(untied) < 63 and 2 ** len(untied) <= swaps
    total = 2 ** len(untied) if exact else swaps
    rng, rows, found = keyed(seed, "randomisation", len(untied), swaps), max(1, _CHUNK // max(1, len(untied))), 0
    for start in range(0, total, rows):
        count = min(rows, total - start)
        if exact:
            swapped = np.arange(start, start + count)[:, None] >> np.arange(len(untied)) & 1
        else:
            swapped = rng.integers(2, size=(count, len(untied)), dtype=np.int8)
        found += int((np.abs(untied.sum() - 2 * (swapped @ untied)) >= reached).sum())
    return found / total if exact else (found + 1) / (total + 1)


def p_value_text(p_value: float | None) -> str:
    """As tables and sentences have it: three digits after the point, four where three would be 0; nothing where there
    is none."""
    if p_value is None:
        return ""
    return f"{p_value:.3f}" if p_value >= 5e-4 else f"{p_value:.4f}" if p_value >= 5e-5 else "<0.0001"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of comparisons (Holm 1979, "A simple sequentially rejective multiple test
    procedure"): whoever believes those below a level is wrong about any of them no more often than that level says,
    however the comparisons depend on each other.

    The least p-value is multiplied by their number m, the next by m - 1, and so on; none becomes less than one before
    it, nor more than 1.

    Args:
        p_values: of m comparisons, each in [0, 1], in any order.

    Returns:
        m adjusted p-values in the same order; a single one is as it was.

    Raises:
        InputError: a p-value outside [0, 1].
    """
    odd = [p for p in p_values if not 0 <= p <= 1]
    if odd:
        raise InputError(f"p-value {odd[0]} must lie between 0 and 1")
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted
