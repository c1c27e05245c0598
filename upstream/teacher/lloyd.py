"""Lloyd's algorithm in torch, on any device and over any number of ranks, and the starts that it shares with faiss.

Each rank has some of the points, in the order of the ranks, and all do the same with them; centroids have the same bits
everywhere. What is added up over points is added up in float64, so how many ranks share them changes a centroid by less
than float32 can tell, but for a rare last bit. One process, or one inside `ranks.alone`, has all points.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upstream import ranks
from upstream.teacher.nearest import assign

STARTS_SAMPLE = 64  # points for each cluster among which starts are drawn
_MEMBERSHIPS = 1 << 24  # points x clusters of which the membership matrix exists at a time (128 MB)


def draw_starts(points: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """(k, d) starting centroids by k-means++ (Arthur and Vassilvitskii 2007) on a random part of `points (n, d)`.

    Each is drawn with a chance proportional to the squared distance to the nearest one drawn before. The first rank
    draws for all.
    """
    before, total = ranks.place(len(points))
    chosen = np.sort(rng.choice(total, min(total, STARTS_SAMPLE * clusters), replace=False))
    own = chosen[(chosen >= before) & (chosen < before + len(points))] - before
    sample = points[torch.from_numpy(own).to(points.device)]
    draws = rng.random(clusters)
    if ranks.count() == 1:
        return _plus_plus(sample, draws)
    gathered = ranks.rows_on_first(sample.cpu())
    return ranks.alone(lambda: _plus_plus(gathered.to(points.device), draws).cpu()).to(points.device)


def _plus_plus(sample: Tensor, draws: np.ndarray) -> Tensor:
    picked = [int(draws[0] * len(sample))]
    distances = (sample - sample[picked[0]]).square().sum(1)
    for draw in draws[1:]:
        reach = distances.cpu().double().cumsum(0)  # on the host: a GPU adds up in any order
        picked.append(min(int(torch.searchsorted(reach, float(draw) * reach[-1], right=True)), len(sample) - 1))
        distances = torch.minimum(distances, (sample - sample[picked[-1]]).square().sum(1))
    return sample[torch.tensor(picked, device=sample.device)]


def lloyd(points: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Move `centroids (k, d)` to the means of their points, so many times or until no label changes."""
    before = None
    for _ in range(iterations):
        labels = assign(points, centroids)
        changed = torch.tensor([before is None or not torch.equal(labels, before)], device=points.device)
        message = torch.cat([_counts(labels, len(centroids)), changed.long()])
        ranks.add_up(message)
        if not int(message[-1]):
            break
        before = labels
        if not int(message[:-1].min()):
            centroids = repair_empty(points, centroids, labels)
            labels = assign(points, centroids)
        centroids = _means(points, centroids, labels)
    return centroids


def cluster_sizes(labels: Tensor, clusters: int) -> Tensor:
    """(k,) int64: points of each cluster, on all ranks."""
    counts = _counts(labels, clusters)
    ranks.add_up(counts)
    return counts


def repair_empty(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Put each centroid without points on one of the points that are farthest from theirs; the lower index first."""
    empty = (cluster_sizes(labels, len(centroids)) == 0).nonzero()[:, 0]
    distances = (points - centroids[labels]).square().sum(1)
    farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
    offered = ranks.gather((distances[farthest].cpu(), points[farthest].cpu()))  # in the order of the ranks
    distances, candidates = (torch.cat(parts) for parts in zip(*offered))
    candidates = candidates[distances.argsort(descending=True, stable=True)[: len(empty)]]
    centroids = centroids.clone()
    centroids[empty[: len(candidates)]] = candidates.to(centroids.device)
    return centroids


def _counts(labels: Tensor, clusters: int) -> Tensor:
    return torch.bincount(labels, minlength=clusters)


def _means(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """(k, d) mean of the points of each label; the old centroid where there is none.

    On a GPU sums are products with a 0/1 matrix: unlike scattered additions they come out the same every time.
    """
    clusters, dim = centroids.shape
    sums = torch.zeros(clusters, dim + 1, dtype=torch.float64, device=points.device)  # and the counts
    rows = max(1, _MEMBERSHIPS // clusters)
    index = torch.arange(clusters, device=points.device)[:, None]
    for part, own in zip(points.split(rows), labels.split(rows)):
        if points.device.type == "cpu":
            sums[:, :dim].index_add_(0, own, part.double())
        else:
            sums[:, :dim] += (own == index).double() @ part.double()
    sums[:, dim] = _counts(labels, clusters)
    ranks.add_up(sums)
    counts = sums[:, dim:]
    return torch.where(counts > 0, (sums[:, :dim] / counts.clamp(min=1)).to(centroids.dtype), centroids)
