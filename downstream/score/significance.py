"""Whether two systems differ: paired bootstrap of the difference of their error rates (Bisani & Ney 2004)."""

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


@dataclass(frozen=True)
class Difference:
    """Error rate of the first system minus that of the second.

    Attributes:
        points: of the whole set, in percentage points; negative: the first makes fewer errors.
        interval: of the difference, in points.
        p_value: two-sided: how often chance alone would put the difference this far from zero.
    """

    points: float
    interval: ConfidenceInterval
    p_value: float


def paired_bootstrap(errors: np.ndarray, other_errors: np.ndarray, words: np.ndarray, *, seed: int = 0,
                     resamples: int = RESAMPLES, level: float = 0.95,
                     groups: Sequence[Hashable] | None = None) -> Difference:
    """Compare two systems on the same utterances; both are drawn together, so what is hard for both cancels out.

    The p-value is twice the smaller share of draws on one side of zero, zeros counted on both sides and one draw added
    to each, so it is never 0 and at most 1; it is 1 for two systems with the same errors everywhere. Of n utterances or
    groups it is at least 2 ** (1 - n), as of a sign test: chance alone lets all n agree that often, which draws from
    few of them never show.

    Args:
        errors: (N,) errors of the first system in each utterance.
        other_errors: (N,) errors of the second, in the same order of utterances.
        words: (N,) reference words.
        seed, resamples, level, groups: as in `intervals.bootstrap_interval`.

    Raises:
        InputError: arrays that do not fit each other, no words, or a single group.
    """
    if np.shape(errors) != np.shape(other_errors):
        raise InputError(f"{len(errors)} and {len(other_errors)} utterances; a paired test needs the same for both")
    totals = cluster_totals(np.column_stack([errors, other_errors]), words, groups)
    rates = resampled_rates(totals[:, :2], totals[:, 2], seed, resamples)
    differences = rates[:, 0] - rates[:, 1]
    first, second, whole = totals.sum(axis=0)
    side = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = max(2 * (side + 1) / (len(differences) + 1), 2.0 ** (1 - len(totals)))
    return Difference(points=float(100 * (first - second) / whole), interval=percentile_interval(differences, level),
                      p_value=float(min(1.0, p_value)))
