"""Mel-frequency cepstral coefficients: what the first teacher of HuBERT clusters (Hsu et al. 2021, section IV-B)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from upstream.model.windows import check_waveforms, log_filterbank

MEL_BINS = 23
CEPSTRA = 13  # c0 among them; no energy
MFCC_DIM = 3 * CEPSTRA
_LIFTER = 22.0
_DELTA = 2  # frames on each side


@torch.no_grad()
def mfcc(waveform: Tensor) -> Tensor:
    """13 cepstral coefficients with first and second differences every 10 ms.

    Equal to `torchaudio.compliance.kaldi.mfcc(use_energy=False)` and `compute_deltas`, as fairseq's
    `dump_mfcc_feature.py` calls them, on a waveform that is not scaled to 16 bits; without dither.

    Args:
        waveform: (S,) float32 at 16 kHz in [-1, 1].

    Returns:
        (F, 39) float32 at 100 Hz, F = KALDI_GRID.frames(S): static, delta, delta-delta.

    Raises:
        InputError: no such waveform.
    """
    check_waveforms(waveform, 1)
    cepstra = log_filterbank(waveform[None], MEL_BINS)[0] @ _cosines(waveform.device)  # (F, 13)
    first = _deltas(cepstra)
    return torch.cat([cepstra, first, _deltas(first)], dim=1)


def _deltas(features: Tensor) -> Tensor:
    """(F, d): slope of a line through five frames; the first and last frame are repeated beyond the ends."""
    if not len(features):
        return features
    padded = F.pad(features.T[None], (_DELTA, _DELTA), mode="replicate")[0].T
    frames, around = len(features), range(1, _DELTA + 1)
    slope = sum((n * (padded[_DELTA + n:][:frames] - padded[_DELTA - n:][:frames]) for n in around),
                torch.zeros_like(features))
    return slope / (2 * sum(n * n for n in around))


@lru_cache(maxsize=8)
def _cosines(device: torch.device) -> Tensor:
    """(23, 13) float32: orthonormal DCT-II with the lifter 1 + 11 sin(pi i / 22) multiplied in."""
    order = torch.arange(CEPSTRA, dtype=torch.float64)
    place = torch.arange(MEL_BINS, dtype=torch.float64)[:, None] + 0.5
    transform = torch.cos(math.pi / MEL_BINS * place * order) * math.sqrt(2 / MEL_BINS)
    transform[:, 0] /= math.sqrt(2)
    return (transform * (1 + _LIFTER / 2 * torch.sin(math.pi * order / _LIFTER))).float().to(device)
