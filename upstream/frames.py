"""Samples, frames, labels and seconds into each other: the only place that knows how they relate.

A frame grid is what a stack of unpadded strided windows does to a waveform. The standard front end of HuBERT (seven
convolutions) and the filterbank front end (windows of 25 ms every 10 ms, taken in pairs) give the same number of
frames for every length: `(samples - 80) // 320` from 400 samples up, and none below.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

SAMPLE_RATE = 16_000  # Hz; the rate of every waveform inside hubertkit


@dataclass(frozen=True)
class FrameGrid:
    """How strided windows cut a waveform into frames.

    Attributes:
        kernels: window lengths, first layer first, each in units of the layer's own input.
        strides: hop of each layer, likewise.
        padding: zero samples appended to the waveform before the first layer, once it holds one frame by itself.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    padding: int = 0

    def __post_init__(self) -> None:
        if len(self.kernels) != len(self.strides) or not self.kernels:
            raise ValueError(f"kernels {self.kernels} and strides {self.strides} must have the same length, at least 1")
        if min(self.kernels) < 1 or min(self.strides) < 1 or self.padding < 0:
            raise ValueError(f"kernels {self.kernels}, strides {self.strides}: at least 1; padding: at least 0")

    @property
    def hop(self) -> int:
        """Samples between the starts of two neighbouring frames."""
        return prod(self.strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees (appended zeros included)."""
        field, step = 1, 1
        for kernel, stride in zip(self.kernels, self.strides):
            field += (kernel - 1) * step
            step *= stride
        return field

    @property
    def rate(self) -> float:
        """Frames a second (Hz)."""
        return SAMPLE_RATE / self.hop

    @property
    def least_samples(self) -> int:
        """The shortest waveform that gives a frame."""
        return max(1, self.receptive_field - self.padding)

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform of `samples` samples; 0 if it is too short for one."""
        if samples < self.least_samples:
            return 0
        length = samples + self.padding
        for kernel, stride in zip(self.kernels, self.strides):
            length = (length - kernel) // stride + 1
        return length

    def samples(self, frames: int) -> int:
        """Samples that `frames` frames see: the shortest waveform with so many frames and no zeros in them."""
        return 0 if frames <= 0 else self.receptive_field + (frames - 1) * self.hop

    def centre_seconds(self, frame: int) -> float:
        """Time of the middle of a frame's window."""
        return (frame * self.hop + self.receptive_field / 2) / SAMPLE_RATE

    def crop_start(self, frame: int) -> int:
        """First sample of a crop whose frame 0 is frame `frame` of the whole: crops start on multiples of the hop."""
        return frame * self.hop


# wav2vec 2.0 and HuBERT, every size (reference implementation: fairseq wav2vec2.py, conv_feature_layers).
CONV_GRID = FrameGrid(kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2))

# Kaldi's windows: 25 ms every 10 ms, whole windows only. MFCC and filterbank features live on this grid.
KALDI_GRID = FrameGrid(kernels=(400,), strides=(160,))

# Two Kaldi windows stacked. One hop of zeros at the end, so that an odd last window has a partner and the number of
# frames is that of CONV_GRID for every length.
STACKED_GRID = FrameGrid(kernels=(400, 2), strides=(160, 2), padding=160)

# Four Kaldi windows: 40 ms. Three hops of zeros at the end, so that n frames of CONV_GRID are (n + 1) // 2 of these;
# frame t lies where frames 2t and 2t + 1 of CONV_GRID do.
WIDE_GRID = FrameGrid(kernels=(400, 4), strides=(160, 4), padding=480)


def frame_counts(lengths: np.ndarray, grid: FrameGrid) -> np.ndarray:
    """(N,) int64, `grid.frames` of each of `lengths (N,)` samples; in place, for there may be millions."""
    counts = np.asarray(lengths, np.int64) + grid.padding
    for kernel, stride in zip(grid.kernels, grid.strides):
        counts -= kernel
        counts //= stride
        counts += 1
    counts[np.asarray(lengths) < grid.least_samples] = 0
    return counts


def seconds(samples: int, rate: int = SAMPLE_RATE) -> float:
    """Duration in seconds of `samples` samples at `rate` Hz."""
    return samples / rate
