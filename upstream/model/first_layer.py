"""The first convolution of the standard front end with its norm and GELU, a piece at a time, on CPUs.

Its output is the largest tensor of the model (of BASE 50 MB a second and a half of audio in float32), and a product of
only ten rows makes it: written out, read for GELU, kept for the backward pass and read there twice, it takes memory's
time and no arithmetic. Here a piece of it stays in a core's cache from the product to what leaves it, and the backward
pass makes it again.

`B` utterances, `R` rows of each, `k` samples of a window, `C` channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

ROWS = 1024  # of a piece: 1 MB of 512 channels in bf16


def first_layer(windows: Tensor, matrices: Tensor, shifts: Tensor) -> Tensor:
    """GELU of `windows @ matrices + shifts`, without a gradient for `windows`.

    Args:
        windows: (B, R, k).
        matrices: (B, k, C), of the same dtype.
        shifts: (B, C), likewise.

    Returns:
        (B, R, C).
    """
    ones = windows.new_ones(*windows.shape[:2], 1)  # a window more, by the shift
    return _FirstLayer.apply(torch.cat([windows, ones], -1), torch.cat([matrices, shifts[:, None]], 1))


class _FirstLayer(Function):
    @staticmethod
    def forward(ctx: Any, windows: Tensor, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(windows, matrices)
        out = windows.new_empty(*windows.shape[:2], matrices.shape[2])
        for rows, matrix, found in zip(windows, matrices, out):
            for first in range(0, len(rows), ROWS):
                values = rows[first:first + ROWS] @ matrix
                torch.ops.aten.gelu.out(values, out=found[first:first + ROWS])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        windows, matrices = ctx.saved_tensors
        sums = []
        for rows, matrix, above in zip(windows, matrices, gradient):
            total = matrix.new_zeros(matrix.shape, dtype=torch.promote_types(matrix.dtype, torch.float32))
            for first in range(0, len(rows), ROWS):
                piece = rows[first:first + ROWS]
                below = torch.ops.aten.gelu_backward(above[first:first + ROWS], piece @ matrix)
                total += piece.t() @ below
            sums.append(total.to(matrix.dtype))
        return None, torch.stack(sums)
