"""How fairseq lays labels on frames: for labels that were made for it and are brought here.

fairseq's crops start at any sample and its labels may be too few or come twice as often as frames; these are its rules
for both (`HubertDataset.collater_label`, `HubertModel.forward_targets`). Our own crops start on the hop, and our units
have one label for each frame, so nothing else here needs them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from upstream.errors import UsageError
from upstream.frames import CONV_GRID, SAMPLE_RATE


def crop_spans(
    starts: Sequence[int], samples: int, counts: Sequence[int], label_rate: float, padded: bool
) -> list[tuple[int, int]]:
    """First label and number of labels of each crop of a batch.

    Both ends are rounded on their own, halves to even, so labels may lie half a label beside their audio.

    Args:
        starts: first sample of each crop.
        samples: of every crop (with `padded`, what is not there is silence).
        counts: labels of each utterance.
        label_rate: Hz.
        padded: rows keep lengths of their own (fairseq pad_audio); otherwise the row with the fewest labels left
            shortens all of them.
    """
    per_sample = label_rate / SAMPLE_RATE
    firsts = [round(start * per_sample) for start in starts]
    left = [count - first for first, count in zip(firsts, counts)]
    size = round(samples * per_sample)
    if not padded:
        size = min(size, *left)
    return [(first, min(size, rest)) for first, rest in zip(firsts, left)]


def labels_of_frames(frames: int, counts: Sequence[int], label_rate: float) -> NDArray[np.int64]:
    """Which label each frame gets (kept,) int64; frames from `kept` on are to be cut off.

    Frame t gets label floor(t * label_rate / frame rate): every second one at 100 Hz. Where a stream has fewer labels
    than that needs, frames are dropped at the end: one for one at 50 Hz, one for two labels or one at 100 Hz.

    Args:
        frames: of the encoder, at 50 Hz.
        counts: labels of each stream.
        label_rate: Hz, the same for all streams.

    Raises:
        UsageError: no labels.
    """
    if not counts or min(counts) < 1:
        raise UsageError(f"streams of {list(counts)} labels: each must have at least one")
    ratio = label_rate / CONV_GRID.rate
    kept = int(min(counts) / ratio) if ratio * frames > min(counts) else frames
    return (np.arange(kept, dtype=np.float32) * np.float32(ratio)).astype(np.int64)
