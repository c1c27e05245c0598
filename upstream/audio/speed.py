"""Speed perturbation: a recording played faster or slower, pitch and all (Ko et al. 2015, "Audio augmentation for
speech recognition")."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from upstream.frames import SAMPLE_RATE

SLOWEST, FASTEST = 0.5, 2.0


def played(wave: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """(S,) float32 at 16 kHz as (length_at(S, speed),) float32; at a speed of 1 the very same array."""
    if speed == 1:
        return wave
    length = length_at(len(wave), speed)
    resampled: NDArray[np.float32] = soxr.resample(wave, SAMPLE_RATE * speed, SAMPLE_RATE)[:length]
    return np.pad(resampled, (0, length - len(resampled)))  # the sample or two that rounding may differ


def length_at(samples: int, speed: float) -> int:
    """Samples that so many become when they are played at a speed."""
    return round(samples / speed)
