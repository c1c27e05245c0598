"""Log-mel filterbank features: the input of the filterbank front end and a feature that a teacher can read."""

from __future__ import annotations

from torch import Tensor

from upstream.model.config import MEL_BINS
from upstream.model.windows import log_filterbank


def log_mel(waveforms: Tensor) -> Tensor:
    """80 log-mel energies every 10 ms (Kaldi's `fbank` without dither and without scaling to 16 bits).

    Args:
        waveforms: (B, S) float32 at 16 kHz in [-1, 1].

    Returns:
        (B, F, 80) float32 at 100 Hz, F = KALDI_GRID.frames(S). On the device of the waveforms, without gradient.

    Raises:
        InputError: no such waveforms.
    """
    return log_filterbank(waveforms, MEL_BINS)
