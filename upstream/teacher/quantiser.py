"""From frames to labels: the kinds of teachers there are, and how each is fitted.

    single      one k-means of the frames
    ensemble    several, each of the whole frame, with its own number of clusters (Hsu et al. 2021, section III-C)
    product     one for each of as many equal slices: static, delta, delta-delta of MFCCs, or slices of PCA components
    residual    each of what the ones before leave: labels of the sum of centroids that comes near the frame
    random      fixed random projections and fixed random codes; nothing is fitted (BEST-RQ, Chiu et al. 2022)

Each codebook gives a stream of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from upstream.errors import UsageError
from upstream.teacher.kmeans import MOST_CLUSTERS, Engine, assign, fit
from upstream.teacher.projection import Projection, fit_pca, random_codes, random_projection

Kind = Literal["single", "ensemble", "product", "residual", "random"]
KINDS: tuple[str, ...] = get_args(Kind)
RANDOM_DIMENSIONS = 16
_EPSILON = 1e-5  # as in the front end's normalisation over an utterance


@dataclass(frozen=True)
class Quantiser:
    """Codebooks, and what happens to a frame before it meets them.

    Attributes:
        codebooks: each (k, d') float32, d' the dimensions that it sees.
        kind: how they share the frame.
        projection: applied to the frame first, if there is one.
    """

    codebooks: tuple[Tensor, ...]
    kind: Kind = "single"
    projection: Projection | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """K of each stream."""
        return tuple(len(book) for book in self.codebooks)

    @property
    def dim(self) -> int:
        """Dimensions of the frames that it takes."""
        if self.projection is not None:
            return self.projection.matrix.shape[1]
        return self.codebooks[0].shape[1] * (len(self.codebooks) if self.kind in ("product", "random") else 1)

    def labels(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Labels of the frames of one utterance.

        Args:
            frames: (T, d) float32, on the device of the codebooks. All frames of the utterance: `random` gives each
                dimension zero mean and unit variance over them.

        Returns:
            (T,) int64 for each stream. Ties go to the lower label.
        """
        frames = standardised(frames) if self.kind == "random" else frames
        if self.projection is not None:
            frames = self.projection(frames)
        if self.kind == "residual":
            return _residual_labels(frames, self.codebooks)
        parts = slices(frames, len(self.codebooks)) if self.kind in ("product", "random") \
            else [frames] * len(self.codebooks)
        # random codes have length one, so the nearest to a frame is the nearest to the frame scaled to length one
        return tuple(assign(part, book) for part, book in zip(parts, self.codebooks))

    def to(self, device: torch.device | str) -> Quantiser:
        """The same on a device."""
        return Quantiser(tuple(book.to(device) for book in self.codebooks), self.kind,
                         self.projection and self.projection.to(device))


def fit_quantiser(points: Tensor, clusters: Sequence[int], kind: Kind, seed: int, iterations: int = 30,
                  restarts: int = 1, engine: Engine | None = None, pca: int = 0,
                  whiten: bool = False) -> tuple[Quantiser, tuple[float, ...]]:
    """Fit the codebooks of a teacher of any kind but `random`.

    A member of an ensemble is the single teacher of so many clusters.

    Args:
        points: (n, d) float32, finite.
        clusters: of each codebook.
        pca: principal components to keep; 0 for none, unless `whiten`, which then keeps all.
        whiten: give each of them unit variance.

    Returns:
        The quantiser, on the host, and the inertia of each codebook: mean squared distance to its centroids of what it
        sees.

    Raises:
        UsageError: `single` with several numbers of clusters, slices that are not equal.
        InputError: too few (different) frames, or a value that is not finite.
    """
    check_clusters(clusters, kind)
    projection = fit_pca(points, pca, whiten) if pca or whiten else None
    if projection is not None:
        points = torch.cat([projection.to(points.device)(part) for part in points.split(1 << 16)])
    books, inertias = [], []
    parts = slices(points, len(clusters)) if kind == "product" else None
    for stage, k in enumerate(clusters):
        own = points if parts is None else parts[stage].contiguous()
        book, spread = fit(own, k, seed, iterations, restarts, engine)
        books.append(book)
        inertias.append(spread)
        if kind == "residual" and stage + 1 < len(clusters):
            points = points - book[assign(points, book)]
    return Quantiser(tuple(b.cpu() for b in books), kind, projection), tuple(inertias)


def random_quantiser(dim: int, clusters: Sequence[int], seed: int) -> Quantiser:
    """The teacher of BEST-RQ for frames of `dim` dimensions: a projection and codes for each stream, all keyed."""
    check_clusters(clusters, "random")
    books = tuple(random_codes(k, RANDOM_DIMENSIONS, seed, number) for number, k in enumerate(clusters))
    return Quantiser(books, "random", random_projection(dim, RANDOM_DIMENSIONS, len(clusters), seed))


def total_inertia(kind: Kind, inertias: Sequence[float]) -> float:
    """Mean squared distance of a frame to what its labels stand for: the sum over slices, what the last stage leaves,
    the finest of an ensemble."""
    if kind == "product":
        return sum(inertias)
    return inertias[-1] if kind == "residual" else min(inertias)


def check_clusters(clusters: Sequence[int], kind: Kind) -> None:
    """Raises UsageError for a kind that there is not, or a number of codebooks that it cannot have."""
    kind_of(kind)
    if not clusters or (kind == "single" and len(clusters) != 1):
        raise UsageError(f"clusters={list(clusters)} for a {kind} teacher: expected "
                         f"{'one number' if kind == 'single' else 'a number for each stream'}")
    if not all(1 <= k <= MOST_CLUSTERS for k in clusters):
        raise UsageError(f"clusters={list(clusters)}: each at least 1 and at most {MOST_CLUSTERS}")


def kind_of(name: str | None) -> Kind | None:
    """A kind by its name; None stays None. Raises UsageError for one that there is not."""
    if name is not None and name not in KINDS:
        raise UsageError(f"teacher kind {name!r}: expected one of {', '.join(KINDS)}")
    return cast("Kind | None", name)


def slices(frames: Tensor, count: int) -> list[Tensor]:
    """`count` views (n, d / count) of frames (n, d). Raises UsageError if d is no multiple."""
    if frames.shape[1] % count:
        raise UsageError(f"{frames.shape[1]} dimensions do not divide into {count} equal slices; choose pca as a "
                         f"multiple of {count}, or another number of codebooks")
    return list(frames.split(frames.shape[1] // count, dim=1))


def standardised(frames: Tensor) -> Tensor:
    """(T, d): each dimension with zero mean and unit variance over the utterance."""
    if not len(frames):
        return frames
    variance, mean = torch.var_mean(frames, dim=0, keepdim=True, correction=0)
    return (frames - mean) * torch.rsqrt(variance + _EPSILON)


def _residual_labels(frames: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found = []
    for book in codebooks:
        found.append(assign(frames, book))
        frames = frames - book[found[-1]]
    return tuple(found)
