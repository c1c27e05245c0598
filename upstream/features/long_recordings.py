"""Layers of recordings too long for one pass: the front end window by window, attention over everything.

What takes memory in a long recording is the first convolution: for a second of BASE some 20 MB with what is made of it,
against 4 MB for the whole Transformer. So the convolutions run over windows that overlap by their receptive field, and
the statistics of the group norm, which are those of the whole recording, are added up beforehand. Neither leaves a
seam: convolutions without padding give every frame the samples that it would have seen anyway. Measured with untrained
weights of BASE on a minute of read speech, no value is off by more than 6e-6 from one pass, edges and seams included.

Attention sees the whole recording; the fused kernel needs memory for its frames only. Time grows with the square of the
length: an hour of BASE takes about 1.2e15 operations (seconds on a GPU, hours on a CPU), of which attention has all but
3%.

Where that is too much, `window_seconds` cuts the Transformer into overlapping windows as well. Attention has no
receptive field, so this does change frames: on two minutes of read speech, windows of 60 s with 20 s on each side moved
the frames of small pretrained encoders by 2% to 8% of their norm (20 s with 10 s: 4% to 15%).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from upstream.frames import CONV_GRID, SAMPLE_RATE
from upstream.model.encoder import Encoder
from upstream.model.frontend import ConvFrontend, WindowMoments, moments_of, window_sums

LONG_SECONDS = 120.0  # up to here a recording goes through in one piece
_PIECE_FRAMES = 1000  # 20 s: 400 MB for the first convolution of BASE


def encode_long(encoder: Encoder, waveform: Tensor, layers: Sequence[int], window_seconds: float = 0.0,
                context_seconds: float = 20.0) -> list[Tensor]:
    """Layers of one recording.

    Args:
        encoder: in evaluation mode; the caller has switched gradients off.
        waveform: (S,) float32 at 16 kHz on the encoder's device, standardised if the encoder wants that; S gives at
            least one frame.
        layers: 0 is the input of the first block, k the raw output of block k.
        window_seconds: of the windows that the Transformer sees at a time, 0 for everything at once: then frames equal
            those of one pass to the rounding of float32.
        context_seconds: that a window sees on each side and gives nothing of.

    Returns:
        For each layer (T, D), T = encoder.config.grid.frames(S).
    """
    x = _projected(encoder, waveform)
    if not window_seconds:
        _, states = encoder.encoder(x, None, max(layers))
        return [states[k][0] for k in layers]
    window, context = (round(s * encoder.config.grid.rate) for s in (window_seconds, context_seconds))
    found: list[list[Tensor]] = [[] for _ in layers]
    for start in range(0, x.shape[1], window):
        first = max(0, start - context)
        _, states = encoder.encoder(x[:, first:start + window + context], None, max(layers))
        for parts, k in zip(found, layers):
            parts.append(states[k][0, start - first:start - first + window].clone())
    return [torch.cat(parts) for parts in found]


def output_of_long(encoder: Encoder, waveform: Tensor) -> Tensor:
    """(T, D) what the encoder gives of one recording at its end, in one piece for the Transformer; as `encode_long`."""
    last, _ = encoder.encoder(_projected(encoder, waveform), None)
    return last[0]


def _projected(encoder: Encoder, waveform: Tensor) -> Tensor:
    """(1, T, D) what the first block hears of a recording."""
    return torch.cat([encoder.feature_projection(piece) for piece in _frontend(encoder, waveform)], dim=1)


def _frontend(encoder: Encoder, waveform: Tensor) -> Iterator[Tensor]:
    """Features (1, frames, C) of windows, in order."""
    frontend = encoder.feature_extractor
    if not isinstance(frontend, ConvFrontend):  # filterbanks: 32 kB a second
        yield frontend(waveform[None], None)
        return
    moments = _moments(waveform) if frontend.normalises_time else None
    total = CONV_GRID.frames(len(waveform))
    for start in range(0, total, _PIECE_FRAMES):
        frames = min(_PIECE_FRAMES, total - start)
        first = CONV_GRID.crop_start(start)
        yield frontend(waveform[None, first:first + CONV_GRID.samples(frames)], None, moments)


def _moments(waveform: Tensor) -> WindowMoments:
    """Statistics of the first convolution's windows over the whole recording."""
    kernel, hop = CONV_GRID.kernels[0], CONV_GRID.strides[0]
    frames = (len(waveform) - kernel) // hop + 1
    step = _PIECE_FRAMES * CONV_GRID.hop // hop
    sums = products = torch.zeros((), dtype=torch.float64, device=waveform.device)
    for start in range(0, frames, step):
        last = min(frames, start + step)
        piece = waveform[None, start * hop:(last - 1) * hop + kernel]
        more, outer = window_sums(piece.unfold(1, kernel, hop).double())
        sums, products = sums + more, products + outer
    return moments_of(sums, products, frames)


def is_long(samples: int) -> bool:
    """Whether a recording of so many samples goes through in pieces."""
    return samples > LONG_SECONDS * SAMPLE_RATE
