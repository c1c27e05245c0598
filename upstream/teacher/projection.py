"""A linear map of frames before clustering: PCA, whitening, or a random one that nothing is fitted for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from upstream import ranks
from upstream.errors import FormatError, InputError, UsageError
from upstream.keyed import keyed

_FLOOR = 1e-6  # of the greatest variance: directions without any are not blown up by whitening


@dataclass(frozen=True)
class Projection:
    """`(frame - mean) @ matrix.T`.

    Attributes:
        mean: (d,) float32.
        matrix: (p, d) float32.
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, frames: Tensor) -> Tensor:
        """(n, d) float32 to (n, p) float32."""
        return (frames - self.mean) @ self.matrix.T

    def to(self, device: torch.device | str) -> Projection:
        """The same on a device."""
        return Projection(self.mean.to(device), self.matrix.to(device))

    def as_array(self) -> np.ndarray:
        """(1 + p, d) float32 for `pca.npy`: the mean, then the rows of the matrix."""
        return torch.cat([self.mean[None], self.matrix]).cpu().numpy().astype(np.float32)

    @staticmethod
    def from_array(array: np.ndarray) -> Projection:
        """What `as_array` gave. Raises FormatError for another shape or type."""
        if array.ndim != 2 or len(array) < 2 or array.dtype != np.float32:
            raise FormatError(f"pca.npy: {array.dtype} of shape {array.shape}; expected float32, a mean and a row for "
                              "each dimension")
        return Projection(torch.from_numpy(array[0].copy()), torch.from_numpy(array[1:].copy()))


def fit_pca(points: Tensor, dimensions: int, whiten: bool = False) -> Projection:
    """Principal components of frames, by the eigenvectors of their covariance in float64 on the host.

    The largest entry of each component is positive, so that the same frames give the same signs. Where several ranks
    call it, each gives its own frames, and all get the components of all of them.

    Args:
        points: (n, d) float32, n >= 2 on all ranks together.
        dimensions: p to keep, 1 to d; 0 keeps all.
        whiten: give each component unit variance.

    Raises:
        UsageError: more dimensions than the frames have.
        InputError: fewer than two frames, or a value that is not finite.
    """
    found = points.shape[1]
    if not 0 <= dimensions <= found:
        raise UsageError(f"pca={dimensions}: the frames have {found} dimensions; give 1 to {found}, or 0 for none")
    total = ranks.place(len(points))[1]
    if total < 2:
        ranks.refuse(InputError(f"{total} frames for a PCA; give more audio"))
    mean = torch.zeros(found, dtype=torch.float64)
    second = torch.zeros(found, found, dtype=torch.float64)
    for part in points.split(1 << 16):
        mean += part.double().sum(0).cpu() / total
    ranks.add_up(mean)
    for part in points.split(1 << 16):
        centred = part.double().cpu() - mean
        second += centred.T @ centred / (total - 1)
    ranks.add_up(second)
    if not bool(torch.isfinite(second).all()):
        ranks.refuse(InputError("a frame of the sample is not finite; the audio or the encoder behind it is broken"))
    variances, vectors = torch.linalg.eigh(second)  # ascending
    kept = torch.arange(found - 1, found - 1 - (dimensions or found), -1)
    matrix, variances = vectors[:, kept].T, variances[kept]
    matrix = matrix * torch.sign(matrix.gather(1, matrix.abs().argmax(1, keepdim=True)))
    if whiten:
        matrix = matrix / variances.clamp(min=float(variances[0]) * _FLOOR or 1.0).sqrt()[:, None]
    return Projection(mean.float(), matrix.float().contiguous())


def random_projection(dim: int, dimensions: int, codebooks: int, seed: int) -> Projection:
    """Rows drawn as Xavier's uniform, `dimensions` for each codebook (BEST-RQ, Chiu et al. 2022, section 3.1)."""
    reach = (6 / (dim + dimensions)) ** 0.5
    rows = [keyed(seed, "random projection", book).uniform(-reach, reach, (dimensions, dim))
            for book in range(codebooks)]
    return Projection(torch.zeros(dim), torch.from_numpy(np.concatenate(rows)).float())


def random_codes(codes: int, dimensions: int, seed: int, codebook: int) -> Tensor:
    """(codes, dimensions) float32 of length one, in directions that are equally likely."""
    drawn = keyed(seed, "random codes", codebook).standard_normal((codes, dimensions))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).float()
