"""A recogniser: an encoder with a linear CTC head over characters (HuBERT paper, section III-C)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.device import sent
from upstream.model.encoder import Encoder
from upstream.model.frontend import working_dtype
from upstream.model.padding import roomy_frames


class Recogniser(nn.Module):
    """Log-probabilities of symbols for every frame.

    Args:
        encoder: any encoder.
        symbols: size of the vocabulary, the CTC blank included.
        dropout: on the encoder's output, in training.
    """

    def __init__(self, encoder: Encoder, symbols: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.width, symbols)

    def initialise_head(self, generator: torch.Generator) -> Recogniser:
        """Xavier-uniform weight and zero bias, as fairseq's `HubertEncoder.proj`; returns itself."""
        with torch.no_grad():
            nn.init.xavier_uniform_(self.head.weight, generator=generator)
            nn.init.zeros_(self.head.bias)
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor | None, mask: Tensor | None = None,
                channel_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Recognise a batch.

        Args:
            waveforms (B, S), lengths (B,), mask (B, T), channel_mask (B, D): as `Encoder.forward`.

        Returns:
            (B, T, V) float32 natural-log probabilities, and (B,) int64 frames of each utterance, on the host.
        """
        output = self.encoder(waveforms, lengths, mask, channel_mask=channel_mask)
        return self.logprobs(output.last), output.lengths

    def logprobs(self, last: Tensor) -> Tensor:
        """(B, T, V) of what an encoder gives, (B, T, D)."""
        x, frames = self.dropout(last), last.shape[1]
        room = roomy_frames(frames, x.shape[2], x.device, working_dtype(x)) - frames
        if room:  # or the head's products would have every shape
            x = F.pad(x, (0, 0, 0, room))
        return F.log_softmax(self.head(x)[:, :frames].float(), dim=-1)


def ctc_loss(logprobs: Tensor, frames: Tensor, targets: list[Tensor], blank: int) -> Tensor:
    """Mean CTC loss of a batch: each utterance's negative log-likelihood over its number of symbols, averaged.

    Args:
        logprobs: (B, T, V) float32 natural-log probabilities.
        frames: (B,) int64.
        targets: one (U,) int64 tensor an utterance; an utterance that cannot be aligned contributes nothing.
    """
    sizes = torch.tensor([len(t) for t in targets])
    joined = sent(torch.cat(targets), logprobs.device)
    each = F.ctc_loss(logprobs.transpose(0, 1), joined, frames, sizes, blank=blank, reduction="none",
                      zero_infinity=True)
    return (each / sent(sizes.clamp(min=1), each.device)).mean()


def least_frames(target: Sequence[int]) -> int:
    """Frames that CTC needs for a target: one a symbol, and a blank between two equal ones."""
    return len(target) + sum(a == b for a, b in pairwise(target))
