"""Small front ends on filterbanks, for small machines: one vector every 20 or 40 ms, without a trace of padding.

`B` batch, `S` samples, `T` frames, `C` feature dimensions. Both have the frames of `EncoderConfig.grid`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.device import sent
from upstream.model.config import MEL_BINS, EncoderConfig
from upstream.model.convolution import convolve
from upstream.model.fbank import log_mel
from upstream.model.frontend import NORM_EPSILON, ScaleGradient, frame_counts, valid, working_dtype

LIGHT_KERNEL = 5


class FbankFrontend(nn.Module):
    """80 log-mel bins at 100 Hz, the windows of a frame side by side: two make 160 numbers at 50 Hz (after MelHuBERT,
    section 3.1), four make 320 at 25 Hz.

    `fbank_norm`: "utterance" gives each mel bin zero mean and unit variance over the utterance's own frames; "global"
    uses the buffers `mean` and `std (80,)`, which `measure_global_norm` sets before a training; "none" passes log-mels
    as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm, self.grid = config.fbank_norm, config.grid
        self.windows = config.grid.kernels[1]  # in a frame
        if self.norm == "global":
            self.register_buffer("mean", torch.zeros(MEL_BINS))
            self.register_buffer("std", torch.ones(MEL_BINS))

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Features (B, T, windows * 80) float32; arguments as in `ConvFrontend.forward`. Nothing here learns."""
        with torch.autocast(waveforms.device.type, enabled=False):
            frames = self.grid.frames(waveforms.shape[1])
            mels = log_mel(F.pad(waveforms, (0, self.grid.padding)))[:, : self.windows * frames]  # (B, F, 80)
            mels = self._normalised(mels, lengths)
        return mels.reshape(len(waveforms), frames, self.windows * MEL_BINS)

    def _normalised(self, mels: Tensor, lengths: Tensor | None) -> Tensor:
        if self.norm == "none":
            return mels
        if self.norm == "global":
            return (mels - self.mean) / self.std
        if lengths is None:
            variance, mean = torch.var_mean(mels, dim=1, keepdim=True, correction=0)
            return (mels - mean) * torch.rsqrt(variance + NORM_EPSILON)
        counts = self.windows * frame_counts(self.grid, lengths)
        inside = valid(counts, mels.shape[1], mels.device)[:, :, None]
        n = sent(counts.float(), mels.device)[:, None, None]
        centred = (mels - (mels * inside).sum(1, keepdim=True) / n) * inside
        return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / n + NORM_EPSILON)


class LightFrontend(nn.Module):
    """Two convolutions of 5 frames on the mels of `FbankFrontend`, GELU after each (after Fast-HuBERT).

    The second has a stride of 2, the first one of 1 (a frame every 20 ms) or 2 (40 ms). Around an utterance there are
    zeros. A frame reads four windows of 10 ms before its own and three behind them (20 ms stride), or six and three
    (40 ms), so frames about a masked one would hear what is to be guessed: mels of masked frames are zeros as well.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.mels = FbankFrontend(config)
        strides = (self.mels.windows // 2, 2)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, config.conv_dim, LIGHT_KERNEL, stride, bias=config.conv_bias)
            for channels, stride in zip((MEL_BINS, config.conv_dim), strides))
        self.gradient_scale = config.feature_grad_mult

    def forward(self, waveforms: Tensor, lengths: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Features (B, T, C); arguments as in `ConvFrontend.forward`, and `mask` (B, T) bool, true at frames that no
        other may hear."""
        mels = self.mels(waveforms, lengths)
        if mask is not None:
            mels = mels.masked_fill(mask[..., None], 0)
        counts = None if lengths is None else frame_counts(self.mels.grid, lengths)  # of output frames
        frames = mels.shape[1]
        x = mels.reshape(len(mels), -1, MEL_BINS)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient_scale != 0):
            for convolution in self.convolutions:
                if counts is not None:  # what lies past an utterance is zero to each convolution
                    inside = valid(counts * (x.shape[1] // frames), x.shape[1], x.device)
                    x = x.masked_fill(~inside[..., None], 0)
                x = _convolved(x, convolution)
        return ScaleGradient.apply(x, self.gradient_scale)


def _convolved(x: Tensor, convolution: nn.Module) -> Tensor:
    """(B, R, C) to (B, R / stride, O), zeros around each row, GELU; R is a multiple of the stride."""
    assert isinstance(convolution, nn.Conv1d)
    stride, margin = convolution.stride[0], LIGHT_KERNEL // 2
    outputs = x.shape[1] // stride
    rows = -(-((outputs - 1) * stride + LIGHT_KERNEL) // stride) * stride
    x = F.pad(x.to(working_dtype(x)), (0, 0, margin, rows - margin - x.shape[1]))
    y = convolve(x.flatten(0, 1), convolution.weight, stride).view(len(x), rows // stride, -1)[:, :outputs]
    if convolution.bias is not None:
        y = y + convolution.bias.to(y.dtype)
    return F.gelu(y)
