"""p-values of several comparisons made at once, so that one of many is not called certain by chance."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm's step-down procedure (Holm 1979, Scandinavian Journal of Statistics 6).

    What stays below a level so does with the chance of a single false one among all below that level, however the
    comparisons hang together.

    Args:
        p_values: (N,) in [0, 1].

    Returns:
        (N,) in their order: the k-th smallest (from 1) times `N - k + 1`, at least as large as those of smaller ones,
        at most 1.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
