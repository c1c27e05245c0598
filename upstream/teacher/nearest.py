"""Which centroid a frame is nearest to, and how far away it is."""

from __future__ import annotations

import torch
from torch import Tensor

_SCORES = 1 << 26  # frames x clusters whose scores exist at a time (256 MB)
_DIFFERENCES = 1 << 18  # frames whose differences to their centroids exist at a time


def assign(frames: Tensor, centroids: Tensor) -> Tensor:
    """Nearest centroid of each frame: argmin of |c|^2 / 2 - x c, by one matrix product.

    Args:
        frames: (n, d) float32.
        centroids: (k, d) float32, on the same device.

    Returns:
        (n,) int64 in [0, k). Ties go to the lower index.
    """
    half_norms = centroids.square().sum(1) / 2
    rows = max(1, _SCORES // len(centroids))
    parts = [torch.addmm(half_norms, part, centroids.T, alpha=-1).argmin(1) for part in frames.split(rows)]
    return torch.cat(parts) if parts else frames.new_zeros(0, dtype=torch.int64)


def inertia(points: Tensor, centroids: Tensor, labels: Tensor) -> float:
    """Mean squared distance of each of `points (n, d)` to the centroid that its label (n,) names."""
    total = 0.0
    for part, own in zip(points.split(_DIFFERENCES), labels.split(_DIFFERENCES)):
        total += float((part - centroids[own]).square().sum(1).double().sum())
    return total / len(points)
