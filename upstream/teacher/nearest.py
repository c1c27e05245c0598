"""Which centroid a frame is nearest to, and how far away it is."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers that exist at a time. On a CPU they stay in its cache: a million frames of 39 and 100 clusters take .16 s
# instead of .28, and their inertia .04 instead of .11. A GPU wants large products.
_AT_A_TIME = {"cpu": 1 << 18, "cuda": 1 << 26}
# numpy's argmin is vectorised, torch's is not: four times as fast in one thread, but one thread is all it has.
_NUMPY_UP_TO = 4

_FAR_OFF = 100.0  # squared length of the mean, over the mean squared distance from it


def assign(frames: Tensor, centroids: Tensor) -> Tensor:
    """Nearest centroid of each frame: argmin of |c|^2 / 2 - x c, by one matrix product.

    Args:
        frames: (n, d) float32.
        centroids: (k, d) float32, on the same device.

    Returns:
        (n,) int64 in [0, k). Ties go to the lower index.
    """
    offset = common_offset(centroids)
    centroids = centroids - offset
    half_norms = centroids.square().sum(1) / 2 + centroids @ offset
    rows = _rows(frames, len(centroids))
    parts = [_lowest(torch.addmm(half_norms, part, centroids.T, alpha=-1)) for part in frames.split(rows)]
    return torch.cat(parts) if parts else frames.new_zeros(0, dtype=torch.int64)


def common_offset(vectors: Tensor) -> Tensor:
    """(d,) the mean of vectors (n, d) where it is so far from 0 that products of float32 would lose what tells the
    vectors apart, as where a dimension is nearly constant; zeros otherwise, which change no bit of a result."""
    mean = vectors.mean(0)
    spread = (vectors - mean).square().sum(1).mean()
    return mean * (mean.square().sum() > _FAR_OFF * spread)


def inertia(points: Tensor, centroids: Tensor, labels: Tensor) -> float:
    """Mean squared distance of each of `points (n, d)` to the centroid that its label (n,) names."""
    return squared_distance(points, centroids, labels) / len(points)


def squared_distance(points: Tensor, centroids: Tensor, labels: Tensor) -> float:
    """The sum of them; 0 without points."""
    total = 0.0
    rows = _rows(points, points.shape[1])
    for part, own in zip(points.split(rows), labels.split(rows)):
        total += float((part - centroids[own]).square().sum(1).double().sum())
    return total


def _lowest(scores: Tensor) -> Tensor:
    """(n,) int64 column of the lowest of each row (n, k); the first of equal ones."""
    if scores.device.type == "cpu" and torch.get_num_threads() <= _NUMPY_UP_TO:
        return torch.from_numpy(scores.detach().numpy().argmin(1))
    return scores.argmin(1)


def _rows(frames: Tensor, numbers: int) -> int:
    """Frames to work on at a time, where each needs so many numbers."""
    return max(1, _AT_A_TIME.get(frames.device.type, 1 << 26) // max(1, numbers))
