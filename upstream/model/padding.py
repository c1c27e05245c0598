"""How padded batches are treated: our own way, or as fairseq and transformers do.

    exact         an utterance gets what it gets alone, whatever it is batched with
    fairseq       statistics of the group norm over the padded row; frames of HuBERT and WavLM cut out of samples by
                  equal chunks, those of wav2vec 2.0 and data2vec as the convolutions give them
    transformers  statistics of the group norm over the padded row; frames as the convolutions give them

The other two are there to reproduce numbers made elsewhere. Models with layer norms in their front end differ only by
fairseq's frames, for there is no statistic over time; and in data2vec by its convolutions over positions, the second
and later of which read what the one before has put into padded frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Padding = Literal["exact", "fairseq", "transformers"]
PADDINGS: tuple[str, ...] = ("exact", "fairseq", "transformers")
FINENESS = 8  # lengths that padded rows may have between a power of two and the next
NARROW = 512  # width up to which rows are so rounded (measured at 256); larger products take longer than compiling them
CUTS_CHUNKS = ("hubert", "wavlm")  # families that fairseq's `forward_padding_mask` cuts; WavLM's own code is a copy


def fairseq_counts(lengths: Tensor, samples: int, frames: int) -> Tensor:
    """Frames that fairseq takes for real in a padded batch (`HubertModel.forward_padding_mask`).

    The last `samples mod frames` samples are dropped, the others cut into `frames` chunks, and a frame is padding only
    if its whole chunk is. A chunk is longer than the hop, so a row often has one frame more than its own convolutions
    give.

    Args:
        lengths: (B,) int64 samples of each utterance, on the host.
        samples: of the padded rows.
        frames: of the padded rows.

    Returns:
        (B,) int64. Of 16,000 samples and 49 frames a chunk has 326 samples; 9,876 of them fill 30.3 chunks: 31 frames.
    """
    chunk = samples // frames
    kept = lengths.clamp(max=chunk * frames)
    return torch.div(kept + chunk - 1, chunk, rounding_mode="floor")


def roomy_frames(frames: int, width: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many frames to give a padded batch whose longest row has `frames`, for the sake of speed alone.

    On CPUs products of 16 bits are oneDNN's, which writes machine code for every new shape (with AMX 2 to 3 ms a
    product) and keeps that of the last thousand. Batches of a hundred different lengths spend a third of a small
    model's training on that; rounded up, by an eighth at most, they share a few shapes.

    Args:
        frames: at least 1.
        width, dtype: of the encoder, and what it computes products in.

    Returns:
        `frames`, or the next of the eight lengths that lie between two powers of two: 257 to 288 are 288.
    """
    if device.type != "cpu" or dtype.itemsize > 2 or width > NARROW:
        return frames
    step = max(1, (1 << (frames - 1).bit_length()) // (2 * FINENESS))
    return -(-frames // step) * step
