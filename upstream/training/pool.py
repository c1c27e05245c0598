"""Metrics gathered over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from upstream import ranks


class Pool:
    """Metrics as sums and counts, so that a mean over micro-batches weighs every frame alike."""

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None) -> None:
        """`sums`: what another pool held, name -> (sum, count)."""
        self.sums: dict[str, tuple[float, float]] = {k: (v[0], v[1]) for k, v in (sums or {}).items()}

    def add(self, sums: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        for name, (value, count) in sums.items():
            old, old_count = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (old + float(value), old_count + float(count))

    def join(self) -> None:
        """Move the sums of all ranks to the first."""
        for other in ranks.gather(self.sums)[1:]:
            if ranks.first():
                self.add(other)
        if not ranks.first():
            self.sums = {}

    def take(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: value / count for name, (value, count) in self.sums.items() if count}
        self.sums = {}
        return means
