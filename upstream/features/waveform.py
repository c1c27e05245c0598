"""The frames of one waveform, for programs that hold audio in memory: no manifest, no files."""

from __future__ import annotations

from typing import Any

import numpy as np

from upstream.errors import InputError, UsageError
from upstream.features.source import Source
from upstream.frames import SAMPLE_RATE


class _Alone:
    """What a source asks of a manifest, of one waveform."""

    def __init__(self, samples: int) -> None:
        self.lengths = np.array([samples])


def frames_of(source: Source, wave: np.ndarray) -> Any:
    """The frames of a waveform, as a source gives them of the same recording in a corpus: with the standardisation that
    the encoder was trained with, in any length (`long_recordings`), at 50 Hz.

    Args:
        source: `LayerSource(encoder, layer, device)`, `MfccSource()` or another one.
        wave: (S,) float32 at 16 kHz, of one channel.

    Returns:
        (T, dim) float32 on the source's device; {layer: (T, dim)} of a source of several layers.

    Raises:
        UsageError: no source, but an encoder for instance.
        InputError: no single channel of floating-point samples, or samples that are not finite.
    """
    if isinstance(source, type) or not hasattr(source, "stream"):
        raise UsageError(f"source of type {type(source).__name__}: expected a source of frames, "
                         "LayerSource(encoder, layer, device) for instance")
    checked = checked_wave(wave)
    _, frames = next(source.stream(_Alone(len(checked)), [0], lambda _: checked))
    return frames


def checked_wave(wave: np.ndarray) -> np.ndarray:
    """(S,) float32. Raises InputError for an array that is no waveform of one channel."""
    try:
        found = np.asarray(wave)
    except (TypeError, ValueError, RuntimeError) as error:  # tensors that numpy cannot see, channels of other lengths
        raise InputError(f"a waveform of type {type(wave).__name__}: {' '.join(str(error).split())}") from error
    if found.ndim != 1 or found.dtype.kind != "f":
        raise InputError(f"a waveform of shape {found.shape} and {found.dtype}: expected (samples,) of float32 within "
                         f"-1 and 1 at {SAMPLE_RATE} Hz, one channel; read_audio gives that of any file")
    if not np.isfinite(found).all():
        raise InputError("a waveform with samples that are not finite")
    return found.astype(np.float32, copy=False)
