"""Large float32 matrix products on CPUs, by the faster of the two libraries that torch has for them.

torch gives float32 products to MKL, which on AMD's processors reaches four fifths of what oneDNN does (lower precisions
go to oneDNN anyway). Which one is used depends on the maker of the processor and the sizes alone, never on a
measurement: the same machine computes the same bits. `N` rows, `I` inputs, `O` outputs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

LEAST = 1 << 24  # multiplications: a tenth of a millisecond; below, one library is as good as the other


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., I) by the transpose of weight (O, I), and bias (O,)."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else _pointwise(x, weight, bias)


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """`x @ matrix`: (N, I) by (I, O), without gradients."""
    return _pointwise(x, matrix.t(), None) if _suits(x, matrix) else x @ matrix


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _pointwise(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        to_x = times(rows, weight).view(x.shape) if ctx.needs_input_grad[0] else None
        # MKL is the faster one where rows are summed over.
        to_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, rows.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _suits(x: Tensor, other: Tensor) -> bool:
    return (x.dtype == other.dtype == torch.float32 and x.device.type == "cpu"
            and x.numel() * other.numel() >= LEAST * x.shape[-1] and not torch.is_autocast_enabled("cpu")
            and one_dnn_is_faster())


@lru_cache(maxsize=1)
def one_dnn_is_faster() -> bool:
    """Whether this is a processor of AMD, and torch has oneDNN with the operation that is needed."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    try:
        return there and "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux: stay with what torch does
        return False
