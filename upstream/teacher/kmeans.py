"""k-means: the clustering that makes units of frames.

`n` frames, `d` dimensions, `k` clusters. Starts are drawn by k-means++; the iterations are faiss's on a CPU and our
own (`lloyd`) on an accelerator, where faiss is missing, or where several ranks have a part of the frames each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from upstream import ranks
from upstream.errors import InputError, UsageError
from upstream.keyed import keyed, keyed_int
from upstream.teacher.lloyd import cluster_sizes, draw_starts, lloyd, repair_empty
from upstream.teacher.nearest import assign, common_offset, inertia, squared_distance

__all__ = ["assign", "default_engine", "fit", "inertia"]

Engine = Literal["faiss", "torch"]
MOST_CLUSTERS = 1 << 16  # labels are stored as uint16
_REPAIRS = 10
_ENOUGH = 120  # points a cluster that a part must have
STARTS = 6  # on the coarsest part
_LOOKED_AT = 4096  # points, to see whether all are far from 0


def fit(points: Tensor, clusters: int, seed: int, iterations: int = 30, restarts: int = 1,
        engine: Engine | None = None) -> tuple[Tensor, float]:
    """Cluster frames; every cluster keeps at least one of them.

    The same points and seed give the same centroids on the same machine with the same number of threads (that of torch,
    to which faiss is pinned): another number adds up in another order, and a frame between two clusters may move.

    Where several ranks call it, each gives its own points, and all get the result for all of them: that of one process
    with the engine `torch` and the points of the ranks one after the other, up to the rounding of float64.

    Args:
        points: (n, d) float32, finite; of this rank.
        clusters: k, at most the points of all ranks.
        seed: of the starts.
        iterations: of Lloyd's algorithm; where points are many, most are done on parts of them (`levels`).
        restarts: from so many starts; the result with the lowest inertia is kept.
        engine: None chooses: `default_engine`.

    Returns:
        (k, d) float32 centroids on the device of the points, the same on every rank, and the inertia: the mean squared
        distance of a frame to its centroid.

    Raises:
        InputError: too few (different) frames, or a value that is not finite.
        UsageError: another engine.
    """
    if engine not in (None, *get_args(Engine)):
        raise UsageError(f"engine={engine!r}: expected {' or '.join(get_args(Engine))}")
    _check(points, clusters)
    offset = common_offset(_spaced(points))
    if bool(offset.any()):
        centroids, spread = fit(points - offset, clusters, seed, iterations, restarts, engine)
        return centroids + offset, spread
    points = points.contiguous()
    chosen = engine or default_engine(points.device)
    (coarse, times), *finer = levels(points, clusters, iterations)
    starts = STARTS if finer else 1
    results = []
    for restart in range(max(1, restarts)):
        faiss_seed = keyed_int(seed, "faiss", restart) % (1 << 31)
        found = []
        for start in range(restart * starts, (restart + 1) * starts):
            drawn = draw_starts(coarse, clusters, keyed(seed, "k-means starts", start))
            centroids = _iterate(coarse, drawn, times, chosen, faiss_seed)
            found.append((_spread(coarse, centroids) if finer else 0.0, start, centroids))
        centroids = min(found, key=lambda result: result[:2])[2]
        for part, times_here in finer:
            centroids = _iterate(part, centroids, times_here, chosen, faiss_seed)
        results.append(_without_empty(points, centroids))
    return min(results, key=lambda result: result[1])


def _spaced(points: Tensor) -> Tensor:
    """Some points of the first rank that has any, the same on every rank."""
    some = points[::max(1, len(points) // _LOOKED_AT)][:_LOOKED_AT]
    found = [part for part in ranks.gather(some.cpu()) if len(part)]
    return found[0].to(points.device)


def levels(points: Tensor, clusters: int, iterations: int) -> list[tuple[Tensor, int]]:
    """Parts of the points, and how often Lloyd's algorithm goes over each: from coarse to fine.

    Each is a quarter of the next, the first as small as leaves 120 points a cluster, which is enough to find out where
    clusters are; it gets two fifths of the iterations, from each of several starts. Then come a half, an eighth, a
    thirty-second: the finer the part, the less is left to move. Points are taken evenly, so that a part is like the
    whole, whoever has them. Where not even a quarter is enough, all points get all iterations.
    """
    before, total = ranks.place(len(points))
    depth = 0
    while total // 4 ** (depth + 1) >= _ENOUGH * clusters:
        depth += 1
    if not depth:
        return [(points, iterations)]
    times = [-(-2 * iterations // 5), *(-(-iterations // (2 * 4 ** level)) for level in range(depth))]
    strides = [4 ** (depth - level) for level in range(depth + 1)]
    return [(points[-before % stride::stride].contiguous(), n) for stride, n in zip(strides, times)]


def default_engine(device: torch.device) -> Engine:
    """faiss for points of one process on a CPU where it is installed, torch otherwise."""
    return "faiss" if ranks.count() == 1 and device.type == "cpu" and _has_faiss() else "torch"


def _check(points: Tensor, clusters: int) -> None:
    if not 1 <= clusters <= MOST_CLUSTERS:
        raise InputError(f"{clusters} clusters: at least 1 and at most {MOST_CLUSTERS} are possible")
    before, total = ranks.place(len(points))
    if points.dim() != 2 or total < clusters:
        ranks.refuse(InputError(f"{total} frames for {clusters} clusters; give more audio, or ask for fewer clusters"))
    finite = torch.isfinite(points.sum(1))
    broken = ranks.gather(None if bool(finite.all()) else before + int((~finite).nonzero()[0]))
    first = next((number for number in broken if number is not None), None)
    if first is not None:
        ranks.refuse(InputError(f"frame {first} of the sample is not finite; the audio or the encoder behind it is "
                                "broken"))


def _iterate(points: Tensor, centroids: Tensor, iterations: int, engine: Engine, faiss_seed: int) -> Tensor:
    if engine == "faiss":
        return _faiss(points, centroids, iterations, faiss_seed)
    return lloyd(points, centroids, iterations)


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
        if int(cluster_sizes(labels, len(centroids)).min()):
            return centroids, _spread(points, centroids, labels)
        centroids = lloyd(points, repair_empty(points, centroids, labels), iterations=2)
    different = torch.unique(torch.cat(ranks.gather(torch.unique(points, dim=0).cpu())), dim=0)
    return ranks.refuse(InputError(f"{len(different)} different frames for {len(centroids)} clusters; give more audio, "
                                   "or ask for fewer clusters"))


def _spread(points: Tensor, centroids: Tensor, labels: Tensor | None = None) -> float:
    """The inertia of the points of all ranks."""
    labels = assign(points, centroids) if labels is None else labels
    return ranks.total(squared_distance(points, centroids, labels)) / ranks.place(len(points))[1]


@lru_cache(maxsize=1)
def _has_faiss() -> bool:
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True
