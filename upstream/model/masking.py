"""Which frames to hide: spans from random starts, and the same number in every row of a batch.

The rule is fairseq's `compute_mask_indices` with static spans, overlap allowed and `require_same_masks`: HuBERT's share
of 0.8 in spans of 10 opens 8 % of the frames as starts and hides 57 % of a long utterance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from upstream.errors import InputError, RecipeError

# What stages call an encoder whose light front end is masked: once, the frames beside a mask let it be heard.
LIGHT_MASK = "light, masked before its convolutions"


@dataclass(frozen=True)
class SpanMask:
    """How much to hide (fairseq: mask_prob, mask_length, min_masks).

    Raises:
        RecipeError: a value out of range.
    """

    share: float = 0.8  # span starts per frame times the span: what would be hidden if spans never overlapped
    span: int = 10  # frames: 200 ms at 50 Hz
    min_spans: int = 2  # so that short utterances still teach

    def __post_init__(self) -> None:
        if not 0 < self.share < self.span or self.min_spans < 0:
            raise RecipeError(
                f"mask: share={self.share} must lie above 0 and below span={self.span}, "
                f"min_spans={self.min_spans} must be at least 0"
            )

    @property
    def least_frames(self) -> int:
        """From this length on no draw hides an utterance entirely: there are more places than spans ever drawn."""
        frames = self.span + 1
        while frames - self.span <= max(self.min_spans, int(self.share * frames / self.span) + 1):
            frames += 1
        return frames


def span_mask(rng: np.random.Generator, frames: int, settings: SpanMask) -> NDArray[np.bool_]:
    """The mask (frames,) bool of one utterance, true where a frame is hidden.

    `floor(share * frames / span + u)` spans, u uniform on [0, 1), at least `min_spans`, start at distinct frames drawn
    uniformly from [0, frames - span); so the last frame of an utterance of ordinary length is never hidden.

    Raises:
        InputError: the mask would hide the whole utterance, which happens only to those of a few spans' length at most.
    """
    count = max(settings.min_spans, int(settings.share * frames / settings.span + rng.random()))
    places = frames - settings.span
    if places <= count:  # shorter than the spans want: fairseq lets starts run to `count`, past the end if need be
        places = count + 1
    starts = rng.choice(places, count, replace=False)
    mask = np.zeros(frames, dtype=bool)
    covered = (starts[:, None] + np.arange(settings.span)).ravel()
    mask[covered[covered < frames]] = True
    if mask.all():
        raise InputError(
            f"an utterance of {frames} frames is hidden entirely by {count} spans of {settings.span}; "
            f"drop utterances under {settings.least_frames} frames or shorten the spans (mask.span)"
        )
    return mask


def batch_masks(rngs: Sequence[np.random.Generator], frames: Sequence[int], settings: SpanMask) -> NDArray[np.bool_]:
    """Masks (B, max(frames)) bool with the same number of hidden frames in every row; false at padding.

    Each row draws from its own generator. Rows with more hidden frames than the poorest give single frames back at
    random, which leaves holes in spans, as in fairseq. Equal counts keep shapes static and weigh utterances alike.

    Raises:
        InputError: as `span_mask`.
    """
    masks = np.zeros((len(frames), max(frames)), dtype=bool)
    for row, rng, count in zip(masks, rngs, frames):
        row[:count] = span_mask(rng, count, settings)
    least = int(masks.sum(axis=1).min())
    for row, rng in zip(masks, rngs):
        hidden = np.flatnonzero(row)
        row[rng.choice(hidden, len(hidden) - least, replace=False)] = False
    return masks
