"""k-means: the clustering that makes units of frames.

`n` frames, `d` dimensions, `k` clusters. Starts are drawn by k-means++; the iterations are faiss's on a CPU and our
own (`lloyd`) on an accelerator or where faiss is missing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from upstream.errors import InputError
from upstream.keyed import keyed, keyed_int
from upstream.teacher.lloyd import draw_starts, lloyd, repair_empty
from upstream.teacher.nearest import assign, inertia

__all__ = ["assign", "default_engine", "fit", "inertia"]

Engine = Literal["faiss", "torch"]
MOST_CLUSTERS = 1 << 16  # labels are stored as uint16
_REPAIRS = 10
_ENOUGH = 256  # points a cluster, as faiss thinks too
_LAST = 3  # iterations over all points where parts of them came first


def fit(points: Tensor, clusters: int, seed: int, iterations: int = 30, restarts: int = 1,
        engine: Engine | None = None) -> tuple[Tensor, float]:
    """Cluster frames; every cluster keeps at least one of them.

    The same points and seed give the same centroids on the same machine with the same number of threads (that of torch,
    to which faiss is pinned): another number adds up in another order, and a frame between two clusters may move.

    Args:
        points: (n, d) float32, finite.
        clusters: k, at most n.
        seed: of the starts.
        iterations: of Lloyd's algorithm; where points are many, of which most are done on a part of them (`levels`).
        restarts: from so many starts; the result with the lowest inertia is kept.
        engine: None chooses: `default_engine`.

    Returns:
        (k, d) float32 centroids on the device of the points, and the inertia: the mean squared distance of a frame to
        its centroid.

    Raises:
        InputError: too few (different) frames, or a value that is not finite.
    """
    _check(points, clusters)
    points = points.contiguous()
    chosen = engine or default_engine(points.device)
    results = []
    for restart in range(max(1, restarts)):
        centroids = draw_starts(points, clusters, keyed(seed, "k-means starts", restart))
        for part, times in levels(points, clusters, iterations):
            if chosen == "faiss":
                centroids = _faiss(part, centroids, times, keyed_int(seed, "faiss", restart) % (1 << 31))
            else:
                centroids = lloyd(part, centroids, times)
        results.append(_without_empty(points, centroids))
    return min(results, key=lambda result: result[1])


def levels(points: Tensor, clusters: int, iterations: int) -> list[tuple[Tensor, int]]:
    """Parts of the points, and how often Lloyd's algorithm goes over each: from coarse to fine.

    A sixteenth, then a quarter, then all, as far as a part has 256 points a cluster, which is enough to find out where
    clusters are; the whole then moves them by little. Points are taken evenly, so that a part is like the whole.
    """
    strides = [stride for stride in (16, 4) if len(points) // stride >= _ENOUGH * clusters]
    if not strides:
        return [(points, iterations)]
    times = [iterations, *[_later(iterations)] * (len(strides) - 1)]
    return [*((points[::stride].contiguous(), n) for stride, n in zip(strides, times)), (points, _LAST)]


def _later(iterations: int) -> int:
    return -(-iterations // 4)


def default_engine(device: torch.device) -> Engine:
    """faiss for points on a CPU where it is installed, torch otherwise."""
    return "faiss" if device.type == "cpu" and _has_faiss() else "torch"


def _check(points: Tensor, clusters: int) -> None:
    if not 1 <= clusters <= MOST_CLUSTERS:
        raise InputError(f"{clusters} clusters: at least 1 and at most {MOST_CLUSTERS} are possible")
    if points.dim() != 2 or len(points) < clusters:
        raise InputError(f"{len(points)} frames for {clusters} clusters; give more audio, or ask for fewer clusters")
    finite = torch.isfinite(points.sum(1))
    if not bool(finite.all()):
        raise InputError(f"frame {int((~finite).nonzero()[0])} of the sample is not finite; the audio or the encoder "
                         "behind it is broken")


def _faiss(points: Tensor, starts: Tensor, iterations: int, seed: int) -> Tensor:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        # faiss trains on 256 points for each centroid unless told otherwise, and warns below 39
        kmeans = faiss.Kmeans(points.shape[1], len(starts), niter=iterations, seed=seed, spherical=False,
                              max_points_per_centroid=len(points), min_points_per_centroid=1)
        kmeans.train(points.numpy(), init_centroids=starts.numpy())
    finally:
        faiss.omp_set_num_threads(before)
    return torch.from_numpy(np.array(kmeans.centroids, dtype=np.float32))


def _without_empty(points: Tensor, centroids: Tensor) -> tuple[Tensor, float]:
    """Centroids that each have a point, and their inertia."""
    for _ in range(_REPAIRS):
        labels = assign(points, centroids)
        if int(torch.bincount(labels, minlength=len(centroids)).min()):
            return centroids, inertia(points, centroids, labels)
        centroids = lloyd(points, repair_empty(points, centroids, labels), iterations=2)
    raise InputError(f"{len(torch.unique(points, dim=0))} different frames for {len(centroids)} clusters; give more "
                     "audio, or ask for fewer clusters")


@lru_cache(maxsize=1)
def _has_faiss() -> bool:
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True
