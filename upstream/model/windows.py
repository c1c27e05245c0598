"""Kaldi's analysis windows and mel filters: what MFCC and filterbank features share.

`B` batch, `S` samples, `F` windows (25 ms every 10 ms, whole windows only: `KALDI_GRID`).

Follows Kaldi's `feature-window.cc` and `mel-computations.cc` as `torchaudio.compliance.kaldi` has them, without dither:
subtract the mean of each window, pre-emphasis .97, Povey window, power spectrum of 512 points, triangular filters that
are linear in mel from 20 Hz to 8 kHz, natural logarithm with a floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from upstream.errors import InputError
from upstream.frames import KALDI_GRID, SAMPLE_RATE

LOG_FLOOR = 1.1920929e-07  # Kaldi's: the float32 epsilon
LOWEST_HZ = 20.0
HIGHEST_HZ = SAMPLE_RATE / 2

_WINDOW, _HOP = KALDI_GRID.receptive_field, KALDI_GRID.hop
_FFT = 512  # the next power of two
_PREEMPHASIS = 0.97
_BLOCK = 80  # window and hop are multiples of it, so sums over blocks give the means of windows cheaply
_CPU_WINDOWS = 256  # windows computed at a time on a CPU: their spectra stay in the second-level cache


@torch.no_grad()
def log_filterbank(waveforms: Tensor, bins: int) -> Tensor:
    """Log energies of mel filters.

    Args:
        waveforms: (B, S) float32 at 16 kHz in [-1, 1].
        bins: mel filters.

    Returns:
        (B, F, bins) float32 on the same device, F = KALDI_GRID.frames(S), natural log, at least log(LOG_FLOOR).
        No gradient. Computed in float32 whatever autocast says.

    Raises:
        InputError: no such waveforms.
    """
    check_waveforms(waveforms, 2)
    batch, samples = waveforms.shape
    windows = KALDI_GRID.frames(samples)
    if not batch * windows:
        return waveforms.new_zeros((batch, windows, bins), dtype=torch.float32)
    with torch.autocast(waveforms.device.type, enabled=False):
        waveforms = waveforms.float()
        filters = _filters_on(bins, waveforms.device)
        parts = [_power(*part) @ filters for part in _parts(_emphasised(waveforms), _means(waveforms, windows))]
        energies = torch.cat(parts) if len(parts) > 1 else parts[0]
        return energies.clamp_(min=LOG_FLOOR).log_().view(batch, windows, bins)


def check_waveforms(given: object, dimensions: int) -> None:
    """Raise InputError for anything but a tensor of floating-point samples: (S,) of one dimension, (B, S) of two."""
    wanted = "(samples,)" if dimensions == 1 else "(batch, samples)"
    if not isinstance(given, Tensor):
        raise InputError(f"waveforms of type {type(given).__name__}: expected a tensor {wanted}; torch.from_numpy "
                         "makes one of an array")
    if given.dim() != dimensions or not given.is_floating_point():
        raise InputError(f"waveforms of shape {tuple(given.shape)} and {given.dtype}: expected {wanted} of float32 "
                         "within -1 and 1")


def mel_filters(bins: int) -> Tensor:
    """(bins, 256) float64 weights of triangular filters on the power spectrum; the Nyquist bin takes no part."""
    lowest, highest = _mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64))
    step = (highest - lowest) / (bins + 1)
    left = lowest + step * torch.arange(bins, dtype=torch.float64)[:, None]
    mel = _mel(torch.arange(_FFT // 2, dtype=torch.float64) * SAMPLE_RATE / _FFT)
    rising, falling = (mel - left) / step, (left + 2 * step - mel) / step
    return torch.minimum(rising, falling).clamp(min=0)


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)


def _emphasised(waveforms: Tensor) -> Tensor:
    """(B, F, window) view of the pre-emphasised waveform.

    Kaldi emphasises each window by itself, repeating its first sample. Only that first sample differs from emphasising
    the waveform as a whole, and the Povey window is zero there.
    """
    emphasised = torch.empty_like(waveforms)
    emphasised[:, 0] = 0
    torch.sub(waveforms[:, 1:], waveforms[:, :-1], alpha=_PREEMPHASIS, out=emphasised[:, 1:])
    return emphasised.unfold(1, _WINDOW, _HOP)


def _means(waveforms: Tensor, windows: int) -> Tensor:
    """(B, F, 1): what the subtracted mean of each window is worth after pre-emphasis."""
    blocks = (windows - 1) * (_HOP // _BLOCK) + _WINDOW // _BLOCK
    sums = waveforms[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)).sum(-1)
    return F.avg_pool1d(sums, _WINDOW // _BLOCK, _HOP // _BLOCK)[..., None] * ((1 - _PREEMPHASIS) / _BLOCK)


def _parts(frames: Tensor, means: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of (n, window) and (n, 1), in order: everything at once on an accelerator, few windows on a CPU."""
    if frames.device.type != "cpu":
        yield frames.flatten(0, 1), means.flatten(0, 1)
        return
    for row, row_means in zip(frames, means):
        yield from zip(row.split(_CPU_WINDOWS), row_means.split(_CPU_WINDOWS))


def _power(frames: Tensor, means: Tensor) -> Tensor:
    """(n, 512): squares of real and imaginary parts of bins 0 to 255, in turns."""
    padded = frames.new_zeros(len(frames), _FFT)
    torch.sub(frames, means, out=padded[:, :_WINDOW]).mul_(_povey(frames.device))
    spectrum = torch.view_as_real(torch.fft.rfft(padded))[:, : _FFT // 2]
    return spectrum.flatten(1).square_()


@lru_cache(maxsize=8)
def _povey(device: torch.device) -> Tensor:
    """(window,) float32: a Hann window to the power of .85, zero at both ends."""
    place = torch.arange(_WINDOW, dtype=torch.float64) * (2 * math.pi / (_WINDOW - 1))
    return (0.5 - 0.5 * torch.cos(place)).pow(0.85).float().to(device)


@lru_cache(maxsize=8)
def _filters_on(bins: int, device: torch.device) -> Tensor:
    """(512, bins) float32: each filter weight twice, for the squares of real and imaginary part."""
    return mel_filters(bins).repeat_interleave(2, dim=1).T.contiguous().float().to(device)
