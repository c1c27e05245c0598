"""Front ends: waveforms at 16 kHz to one feature vector every 20 ms, without a trace of the padding around them.

`B` batch, `S` samples, `T` frames, `C` feature dimensions. Lengths stay on the host (see `Encoder`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from upstream.frames import CONV_GRID, STACKED_GRID, FrameGrid
from upstream.model.config import MEL_BINS, EncoderConfig

NORM_EPSILON = 1e-5


def make_frontend(config: EncoderConfig) -> ConvFrontend | FbankFrontend:
    """The front end that a configuration asks for."""
    return ConvFrontend(config) if config.frontend == "conv" else FbankFrontend(config)


def standardise(waveforms: Tensor) -> Tensor:
    """Zero mean and unit variance over the last dimension: what an encoder with `normalize` wants to be fed.

    Applied to a whole utterance, before it is cropped or padded, as fairseq does (`F.layer_norm` over the waveform).
    """
    return F.layer_norm(waveforms.float(), waveforms.shape[-1:], eps=NORM_EPSILON)


def prepared(wave: NDArray[np.float32], config: EncoderConfig) -> NDArray[np.float32]:
    """A whole utterance (S,) as an encoder of this configuration wants it: standardised if it was trained so."""
    return standardise(torch.from_numpy(wave)).numpy() if config.normalize else wave


def valid(counts: Tensor, total: int, device: torch.device) -> Tensor:
    """(B, total) bool on `device`: true where a position lies inside its row. `counts (B,)` int64 on the host."""
    return (torch.arange(total) < counts[:, None]).to(device, non_blocking=True)


class ConvFrontend(nn.Module):
    """Seven strided convolutions (wav2vec 2.0, section 2; fairseq `ConvFeatureExtractionModel`).

    `conv_norm="group"`: GroupNorm over time, one group per channel, after the first convolution only.
    `conv_norm="layer"`: LayerNorm over channels after each.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(_ConvLayer(config, index) for index in range(len(CONV_GRID.kernels)))
        self.gradient_scale = config.feature_grad_mult

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Features (B, T, C).

        Args:
            waveforms: (B, S) float32.
            lengths: (B,) int64 on the host, samples of each row; None if every row is S long. The statistics of the
                group norm are those of each utterance alone. Frames past an utterance's own are not cleared here.
        """
        frozen = self.gradient_scale == 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features = waveforms[:, None]
            for index, layer in enumerate(self.conv_layers):
                counts = lengths if lengths is None else _conv_frames(lengths, index + 1)
                features = layer(features, counts)
        return _ScaleGradient.apply(features.transpose(1, 2), self.gradient_scale)


class _ConvLayer(nn.Module):
    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        channels = 1 if index == 0 else config.conv_dim
        kernel, stride = CONV_GRID.kernels[index], CONV_GRID.strides[index]
        self.conv = nn.Conv1d(channels, config.conv_dim, kernel, stride, bias=config.conv_bias)
        if config.conv_norm == "layer":
            self.layer_norm: nn.Module | None = _ChannelNorm(config.conv_dim, eps=NORM_EPSILON)
        else:
            self.layer_norm = _TimeNorm(config.conv_dim, config.conv_dim, eps=NORM_EPSILON) if index == 0 else None

    def forward(self, features: Tensor, counts: Tensor | None) -> Tensor:
        features = self.conv(features)  # (B, C, frames of this layer)
        if self.layer_norm is not None:
            features = self.layer_norm(features, counts)
        return F.gelu(features)


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, T), in float32 (fairseq `Fp32LayerNorm` between two transposes)."""

    def forward(self, features: Tensor, counts: Tensor | None = None) -> Tensor:
        normed = super().forward(features.transpose(1, 2).float())
        return normed.to(features.dtype).transpose(1, 2)


class _TimeNorm(nn.GroupNorm):
    """GroupNorm of (B, C, T) with one group per channel, in float32, over the valid frames of each row only."""

    def forward(self, features: Tensor, counts: Tensor | None = None) -> Tensor:
        if counts is None:
            return super().forward(features.float()).to(features.dtype)
        inside = valid(counts, features.shape[-1], features.device)[:, None]  # (B, 1, T)
        n = counts.to(features.device, torch.float32)[:, None, None]
        values = features.float()
        centred = (values - (values * inside).sum(-1, keepdim=True) / n) * inside
        variance = centred.square().sum(-1, keepdim=True) / n
        normed = centred * torch.rsqrt(variance + self.eps)
        return (normed * self.weight[:, None] + self.bias[:, None]).to(features.dtype)


class FbankFrontend(nn.Module):
    """80 log-mel bins at 100 Hz, two frames stacked: 160 numbers at 50 Hz (after MelHuBERT, section 3.1).

    `fbank_norm`: "utterance" gives each mel bin zero mean and unit variance over the utterance's own frames; "global"
    uses the buffers `mean` and `std (80,)` that whoever trains sets beforehand; "none" passes log-mels as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm = config.fbank_norm
        if self.norm == "global":
            self.register_buffer("mean", torch.zeros(MEL_BINS))
            self.register_buffer("std", torch.ones(MEL_BINS))

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Features (B, T, 160) float32; arguments as in `ConvFrontend.forward`. Nothing here learns."""
        from upstream.features.fbank import log_mel

        with torch.autocast(waveforms.device.type, enabled=False):
            mels = log_mel(F.pad(waveforms, (0, STACKED_GRID.padding)))  # (B, F, 80)
            frames = STACKED_GRID.frames(waveforms.shape[1])
            mels = self._normalised(mels[:, : 2 * frames], lengths)
        return mels.reshape(len(waveforms), frames, 2 * MEL_BINS)

    def _normalised(self, mels: Tensor, lengths: Tensor | None) -> Tensor:
        if self.norm == "none":
            return mels
        if self.norm == "global":
            return (mels - self.mean) / self.std
        if lengths is None:
            variance, mean = torch.var_mean(mels, dim=1, keepdim=True, correction=0)
            return (mels - mean) * torch.rsqrt(variance + NORM_EPSILON)
        counts = 2 * frame_counts(STACKED_GRID, lengths)
        inside = valid(counts, mels.shape[1], mels.device)[:, :, None]
        n = counts.to(mels.device, torch.float32)[:, None, None]
        centred = (mels - (mels * inside).sum(1, keepdim=True) / n) * inside
        return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / n + NORM_EPSILON)


def frame_counts(grid: FrameGrid, lengths: Tensor) -> Tensor:
    """(B,) int64 frames of utterances of `lengths (B,)` samples, on the host."""
    return torch.tensor([grid.frames(samples) for samples in lengths.tolist()], dtype=torch.int64)


def _conv_frames(lengths: Tensor, layers: int) -> Tensor:
    """Frames after the first `layers` convolutions."""
    return frame_counts(FrameGrid(CONV_GRID.kernels[:layers], CONV_GRID.strides[:layers]), lengths)


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant (fairseq `GradMultiply`)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: Tensor, scale: float) -> Tensor:
        ctx.scale = scale  # type: ignore[attr-defined]
        return features.view_as(features)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.scale, None  # type: ignore[attr-defined]
