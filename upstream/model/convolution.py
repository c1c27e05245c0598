"""Strided convolutions over time as matrix products on rows, without copying the overlapping windows apart.

A signal is a matrix with one row of channels for each moment, all utterances of a batch one below the other. With a
stride of s, `s` rows side by side are one row of a view, and the taps of a kernel are a few such views, each shifted
against the one before by a whole row of it: for kernel 3 and stride 2 the first two taps are one product and the third
is another. So CPUs and GPUs run at the speed of their large matrix products, where `conv1d` reaches a half of it.

`N` output rows, `C` channels in, `O` channels out, `k` kernel, `s` stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from upstream.model.products import times


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolution without bias: output row n reads rows n * s to n * s + k - 1.

    Args:
        x: (N * s, C). What is past its last row counts as zero. Between two utterances, output rows whose window
            reaches into the next one mean nothing: leave room for them and drop them.
        weight: (O, C, k), as `torch.nn.Conv1d` has it; taken in the dtype of `x`.
        stride: s.

    Returns:
        (N, O) in the dtype of `x`.
    """
    taps = weight.to(x.dtype).permute(2, 1, 0).contiguous()  # (k, C, O)
    return _Convolution.apply(x.contiguous(), taps, stride)


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.stride = stride
        y: Tensor | None = None
        for shift, rows, matrix in _parts(x, taps, stride):
            if y is None:
                y = times(rows, matrix)
            else:
                y[:-shift].addmm_(rows, matrix)
        assert y is not None
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, taps = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_x = _input_gradient(gradient, x, taps, ctx.stride) if ctx.needs_input_grad[0] else None
        to_taps = None
        if ctx.needs_input_grad[1]:
            # (gradient' rows)' and not rows' gradient: the products' results are narrow rows either way, and oneDNN is
            # faster at this one.
            parts = [gradient[: len(rows)].t() @ rows for _, rows, _ in _parts(x, taps, ctx.stride)]
            to_taps = torch.cat(parts, dim=1).t().reshape(taps.shape)
        return to_x, to_taps, None


def _input_gradient(gradient: Tensor, x: Tensor, taps: Tensor, stride: int) -> Tensor:
    out = taps.shape[2]
    if len(taps) >= stride:  # the first product has a value for every input: no need to clear them, nor of a view
        found = times(gradient, taps[:stride].reshape(-1, out).t()).view_as(x)
    else:
        found = torch.zeros_like(x)
    for shift, rows, matrix in _parts(found, taps, stride):
        if shift:
            rows.addmm_(gradient[:-shift], matrix.t())
        elif len(taps) < stride:
            torch.mm(gradient, matrix.t(), out=rows)
    return found


def _parts(x: Tensor, taps: Tensor, stride: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The products that make a convolution: shift in output rows, view (N - shift, taps * C) of `x`, matrix."""
    kernel, channels, out = taps.shape
    wide = x.view(-1, stride * channels)
    for shift, first in enumerate(range(0, kernel, stride)):
        some = taps[first:first + stride].reshape(-1, out)
        yield shift, wide[shift:, : len(some)], some
