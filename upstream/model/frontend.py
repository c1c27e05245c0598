"""The standard front end: waveforms at 16 kHz to one vector every 20 ms, without a trace of the padding around them.

`B` batch, `S` samples, `T` frames, `C` feature dimensions. Lengths stay on the host (see `Encoder`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from upstream.device import sent
from upstream.errors import InputError
from upstream.frames import CONV_GRID, FrameGrid
from upstream.model.config import EncoderConfig, check_config
from upstream.model.convolution import convolve

NORM_EPSILON = 1e-5


def standardise(waveforms: Tensor) -> Tensor:
    """Zero mean and unit variance over the last dimension: what an encoder with `normalize` wants to be fed.

    Applied to a whole utterance, before it is cropped or padded, as fairseq does (`F.layer_norm` over the waveform).
    """
    return F.layer_norm(waveforms.float(), waveforms.shape[-1:], eps=NORM_EPSILON)


def prepared(wave: NDArray[np.float32], config: EncoderConfig) -> NDArray[np.float32]:
    """A whole utterance (S,) as an encoder of this configuration wants it: standardised if it was trained so.

    Raises:
        UsageError: no configuration, but an encoder for instance.
        InputError: no single channel of floating-point samples in an array of numpy.
    """
    check_config(config)
    if not isinstance(wave, np.ndarray) or wave.ndim != 1 or wave.dtype.kind != "f":
        shape = f"shape {wave.shape} and {wave.dtype}" if isinstance(wave, np.ndarray) else type(wave).__name__
        raise InputError(f"a waveform of {shape}: expected an array (samples,) of float32, a whole utterance")
    return standardise(torch.from_numpy(wave)).numpy() if config.normalize else wave


def valid(counts: Tensor, total: int, device: torch.device) -> Tensor:
    """(B, total) bool on `device`: true where a position lies inside its row. `counts (B,)` int64 on the host."""
    return torch.arange(total, device=device) < sent(counts, device)[:, None]


class ConvFrontend(nn.Module):
    """Seven strided convolutions (wav2vec 2.0, section 2; fairseq `ConvFeatureExtractionModel`).

    `conv_norm="group"`: GroupNorm over time, one group per channel, after the first convolution only.
    `conv_norm="layer"`: LayerNorm over channels after each.

    Everything is computed on rows of channels (`upstream.model.convolution`). The group norm is folded into the first
    convolution: the mean and variance of its output follow from those of the ten samples that it reads.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(_ConvLayer(config, index) for index in range(len(CONV_GRID.kernels)))
        self.gradient_scale = config.feature_grad_mult

    @property
    def normalises_time(self) -> bool:
        """Whether there is a group norm, and so statistics over an utterance."""
        return isinstance(self.conv_layers[0].layer_norm, nn.GroupNorm)

    def forward(self, waveforms: Tensor, lengths: Tensor | None, moments: WindowMoments | None = None) -> Tensor:
        """Features (B, T, C).

        Args:
            waveforms: (B, S) float32.
            lengths: (B,) int64 on the host, samples of each row; None if every row is S long. The statistics of the
                group norm are those of each utterance alone. Frames past an utterance's own are not cleared here.
            moments: statistics for the group norm of rows that are pieces of something longer.
        """
        frozen = self.gradient_scale == 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            if self.normalises_time and moments is None:
                moments = window_moments(waveforms, None if lengths is None else _first_frames(lengths))
            rows = self._first(waveforms, moments)
            for layer in list(self.conv_layers)[1:]:
                rows = layer(rows)
        features = rows.view(len(waveforms), -1, rows.shape[-1])[:, : CONV_GRID.frames(waveforms.shape[1])]
        return ScaleGradient.apply(features, self.gradient_scale)

    def _first(self, waveforms: Tensor, moments: WindowMoments | None) -> Tensor:
        """The first layer's output (B * R, C): for each utterance as many rows as the later strides divide, and enough
        that no window of a frame reaches into the next utterance."""
        batch, samples = waveforms.shape
        kernel, stride = CONV_GRID.kernels[0], CONV_GRID.strides[0]
        later = FrameGrid(CONV_GRID.kernels[1:], CONV_GRID.strides[1:])
        rows = -(-later.samples(CONV_GRID.frames(samples)) // later.hop) * later.hop
        padded = F.pad(waveforms, (0, (rows - 1) * stride + kernel - samples))  # or cut: the last samples may be unused
        windows = padded.unfold(1, kernel, stride).to(working_dtype(waveforms))  # (B, R, k)
        layer = self.conv_layers[0]
        assert isinstance(layer, _ConvLayer)
        if moments is None:
            matrix = layer.conv.weight[:, 0].t().to(windows.dtype)
            return layer.activated(windows.reshape(batch * rows, kernel) @ matrix)
        matrices, shifts = layer.folded(moments)
        values = torch.baddbmm(shifts[:, None].to(windows.dtype), windows, matrices.to(windows.dtype))
        return F.gelu(values).flatten(0, 1)


class _ConvLayer(nn.Module):
    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        channels = 1 if index == 0 else config.conv_dim
        kernel, stride = CONV_GRID.kernels[index], CONV_GRID.strides[index]
        self.conv = nn.Conv1d(channels, config.conv_dim, kernel, stride, bias=config.conv_bias)
        self.layer_norm: nn.Module | None = None
        if config.conv_norm == "layer":
            self.layer_norm = nn.LayerNorm(config.conv_dim, eps=NORM_EPSILON)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(config.conv_dim, config.conv_dim, eps=NORM_EPSILON)

    def forward(self, rows: Tensor) -> Tensor:
        """(N * stride, C) to (N, C)."""
        return self.activated(convolve(rows.to(working_dtype(rows)), self.conv.weight, self.conv.stride[0]))

    def activated(self, values: Tensor) -> Tensor:
        """Bias, the norm over channels in float32 (fairseq `Fp32LayerNorm`), and GELU."""
        if self.conv.bias is not None:
            values = values + self.conv.bias.to(values.dtype)
        if self.layer_norm is not None:
            values = self.layer_norm(values.to(self.conv.weight.dtype)).to(values.dtype)
        return F.gelu(values)

    def folded(self, moments: WindowMoments) -> tuple[Tensor, Tensor]:
        """The group norm and the convolution before it as one linear map for each utterance: (B, k, C) and (B, C).

        Of windows x with mean m and covariance S a channel w'x + b has mean w'm + b and variance w'Sw, so normalised it
        is (w'x - w'm) / sqrt(w'Sw + epsilon), whatever b is. In float64, as neighbouring samples are nearly the same
        and most channels look at their differences.
        """
        norm = self.layer_norm
        assert isinstance(norm, nn.GroupNorm)
        w = self.conv.weight[:, 0].double()  # (C, k)
        variance = ((w @ moments.covariance) * w).sum(-1)  # (B, C)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        shift = norm.bias - scale * (moments.mean @ w.t())
        if self.conv.bias is not None:
            shift = shift + 0 * self.conv.bias  # which so has its gradient: zero
        kind = self.conv.weight.dtype
        return (w.t() * scale[:, None]).to(kind), shift.to(kind)


@dataclass(frozen=True)
class WindowMoments:
    """Statistics of the windows that the first convolution reads.

    Attributes:
        mean: (B, k) float64.
        covariance: (B, k, k) float64, over the number of windows.
    """

    mean: Tensor
    covariance: Tensor


def window_moments(waveforms: Tensor, counts: Tensor | None = None) -> WindowMoments:
    """Of the first `counts (B,)` int64 windows of each row of `waveforms (B, S)`; None for all."""
    windows = waveforms.unfold(1, CONV_GRID.kernels[0], CONV_GRID.strides[0]).double()
    if counts is None:
        return moments_of(*window_sums(windows), windows.shape[1])
    inside = valid(counts, windows.shape[1], windows.device)[..., None]
    return moments_of(*window_sums(windows * inside), sent(counts, windows.device)[:, None, None])


def window_sums(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over time of windows (B, n, k) and of their outer products: (B, 1, k) and (B, k, k)."""
    return windows.sum(1, keepdim=True), windows.transpose(1, 2) @ windows


def moments_of(sums: Tensor, products: Tensor, count: Tensor | int) -> WindowMoments:
    """From what `window_sums` gives, added up over pieces."""
    mean = sums / count
    return WindowMoments(mean[:, 0], products / count - mean.transpose(1, 2) * mean)


def working_dtype(x: Tensor) -> torch.dtype:
    """What matrix products are computed in: autocast's choice, or the tensor's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def frame_counts(grid: FrameGrid, lengths: Tensor) -> Tensor:
    """(B,) int64 frames of utterances of `lengths (B,)` samples, on the host."""
    return torch.tensor([grid.frames(samples) for samples in lengths.tolist()], dtype=torch.int64)


def _first_frames(lengths: Tensor) -> Tensor:
    """Frames after the first convolution."""
    return frame_counts(FrameGrid(CONV_GRID.kernels[:1], CONV_GRID.strides[:1]), lengths)


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant (fairseq `GradMultiply`)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: Tensor, scale: float) -> Tensor:
        ctx.scale = scale  # type: ignore[attr-defined]
        return features.view_as(features)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.scale, None  # type: ignore[attr-defined]
