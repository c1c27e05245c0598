"""A recogniser: an encoder with a CTC head over characters. By default that is linear (HuBERT paper, section III-C)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.heads.bilstm import BiLstm
from downstream.heads.layer_mix import LayerMix
from downstream.heads.recipe import HeadRecipe
from upstream.device import sent
from upstream.model.encoder import Encoder
from upstream.model.frontend import working_dtype
from upstream.model.padding import roomy_frames


class Recogniser(nn.Module):
    """Log-probabilities of symbols for every frame.

    Args:
        encoder: any encoder.
        symbols: size of the vocabulary, the CTC blank included.
        dropout: on what the head hears of the encoder, in training.
        recipe: of the head.

    Attributes:
        mix: what the head hears of the encoder.
        bilstm: what stands between that and the linear map; None if nothing does.
        head: the linear map.

    Raises:
        UsageError: the head is to hear a layer that the encoder does not have.
    """

    def __init__(self, encoder: Encoder, symbols: int, dropout: float = 0.0, recipe: HeadRecipe | None = None) -> None:
        super().__init__()
        self.recipe = recipe or HeadRecipe()
        config = encoder.config
        self.encoder = encoder
        self.mix = LayerMix(self.recipe, config.layers)
        self.dropout = nn.Dropout(dropout)
        self.bilstm = BiLstm(config.width, self.recipe) if self.recipe.kind == "bilstm" else None
        self.head = nn.Linear(self.recipe.width_over(config.width), symbols)

    def initialise_head(self, generator: torch.Generator) -> Recogniser:
        """Xavier-uniform weight and zero bias for the linear map, as fairseq's `HubertEncoder.proj`; returns itself."""
        with torch.no_grad():
            nn.init.xavier_uniform_(self.head.weight, generator=generator)
            nn.init.zeros_(self.head.bias)
        if self.bilstm is not None:
            self.bilstm.initialise(generator)
        return self

    def over_encoder(self) -> dict[str, nn.Parameter]:
        """All that is not the encoder's, by name: the linear map first."""
        found = dict(self.named_parameters())
        names = sorted((name for name in found if not name.startswith("encoder.")), key=lambda n: n[:5] != "head.")
        return {name: found[name] for name in names}

    def forward(self, waveforms: Tensor, lengths: Tensor | None, mask: Tensor | None = None,
                channel_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Recognise a batch.

        Args:
            waveforms (B, S), lengths (B,), mask (B, T), channel_mask (B, D): as `Encoder.forward`.

        Returns:
            (B, T, V) float32 natural-log probabilities, and (B,) int64 frames of each utterance, on the host.
        """
        heard, frames = self.mix.read(self.encoder, waveforms, lengths, mask, channel_mask)
        return self.logprobs(heard, frames), frames

    def of_long(self, waveform: Tensor) -> Tensor:
        """(1, T, V) of one recording (S,) too long for one pass; the caller has switched gradients off."""
        heard = self.mix.read_long(self.encoder, waveform)[None]
        return self.logprobs(heard, torch.tensor([heard.shape[1]]))

    def logprobs(self, heard: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, V) of what the head hears of an encoder, (B, T, D), and (B,) frames of each utterance, on the host."""
        x = self.dropout(heard)
        if self.bilstm is not None:
            x = self.bilstm(x, lengths)
        frames = x.shape[1]
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
