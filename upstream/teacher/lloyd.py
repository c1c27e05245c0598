"""Lloyd's algorithm in torch, on any device, and the starts that it shares with faiss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upstream.teacher.nearest import assign

STARTS_SAMPLE = 64  # points for each cluster among which starts are drawn
_MEMBERSHIPS = 1 << 25  # points x clusters of which the membership matrix exists at a time (128 MB)


def draw_starts(points: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """(k, d) starting centroids by k-means++ (Arthur and Vassilvitskii 2007) on a random part of `points (n, d)`.

    Each is drawn with a chance proportional to the squared distance to the nearest one drawn before.
    """
    chosen = rng.choice(len(points), min(len(points), STARTS_SAMPLE * clusters), replace=False)
    sample = points[torch.from_numpy(np.sort(chosen)).to(points.device)]
    draws = rng.random(clusters)
    picked = [int(draws[0] * len(sample))]
    distances = (sample - sample[picked[0]]).square().sum(1)
    for draw in draws[1:]:
        reach = distances.cpu().double().cumsum(0)  # on the host: a GPU adds up in any order
        picked.append(min(int(torch.searchsorted(reach, float(draw) * reach[-1], right=True)), len(sample) - 1))
        distances = torch.minimum(distances, (sample - sample[picked[-1]]).square().sum(1))
    return sample[torch.tensor(picked, device=points.device)]


def lloyd(points: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Move `centroids (k, d)` to the means of their points, so many times or until no label changes."""
    before = None
    for _ in range(iterations):
        labels = assign(points, centroids)
        if before is not None and torch.equal(labels, before):
            break
        before = labels
        if not int(torch.bincount(labels, minlength=len(centroids)).min()):
            centroids = repair_empty(points, centroids, labels)
            labels = assign(points, centroids)
        centroids = _means(points, centroids, labels)
    return centroids


def repair_empty(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Put each centroid without points on one of the points that are farthest from theirs; the lower index first."""
    empty = (torch.bincount(labels, minlength=len(centroids)) == 0).nonzero()[:, 0]
    distances = (points - centroids[labels]).square().sum(1)
    farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
    centroids = centroids.clone()
    centroids[empty] = points[farthest]
    return centroids


def _means(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """(k, d) mean of the points of each label; the old centroid where there is none.

    Sums are products with a 0/1 matrix: unlike scattered additions they come out the same every time on a GPU.
    """
    clusters = len(centroids)
    rows = max(1, _MEMBERSHIPS // clusters)
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    index = torch.arange(clusters, device=points.device)[:, None]
    for part, own in zip(points.split(rows), labels.split(rows)):
        sums += (own == index).to(points.dtype) @ part
    counts = torch.bincount(labels, minlength=clusters)[:, None]
    return torch.where(counts > 0, (sums / counts.clamp(min=1)).to(centroids.dtype), centroids)
