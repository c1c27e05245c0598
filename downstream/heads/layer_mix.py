"""What a head hears of an encoder: one layer, or a learnt weighted sum of several.

    mixed = sum over k of softmax(weights)[k] * layer k

as in SUPERB (Yang et al. 2021; s3prl's `Featurizer`) and, before it, ELMo (Peters et al. 2018). Weights
start at zero: every layer counts the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.heads.recipe import HeadRecipe
from upstream.features.long_recordings import encode_long, output_of_long
from upstream.model.encoder import Encoder


class LayerMix(nn.Module):
    """Reads the layers of a recipe from an encoder; blocks past the deepest of them are not run.

    Attributes:
        layers: that are read, from low to high.
        weights: (layers read,) float32, before the softmax; None where one layer is read alone.

    Raises:
        UsageError: a layer that the encoder does not have.
    """

    def __init__(self, recipe: HeadRecipe, blocks: int) -> None:
        super().__init__()
        self.layers = recipe.layers_read(blocks)
        self.layer_norm = recipe.layer_norm
        self.stop_at = None if self.layers[-1] == blocks else self.layers[-1]  # of `Encoder.forward`
        several = len(self.layers) > 1
        self.weights = nn.Parameter(torch.zeros(len(self.layers))) if several else None

    def read(self, encoder: Encoder, waveforms: Tensor, lengths: Tensor | None, mask: Tensor | None = None,
             channel_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, D), and (B,) int64 frames of each utterance on the host. Arguments as `Encoder.forward`."""
        output = encoder(waveforms, lengths, mask, layers=self.weights is not None, stop_at=self.stop_at,
                         channel_mask=channel_mask)
        states = [output.layers[k] for k in self.layers[:-1]] if output.layers else []
        return self([*states, output.last]), output.lengths

    def read_long(self, encoder: Encoder, waveform: Tensor) -> Tensor:
        """(T, D) of one recording (S,) too long for one pass; the caller has switched gradients off."""
        if self.weights is None and self.stop_at is None:
            return self([output_of_long(encoder, waveform)])
        states = encode_long(encoder, waveform, self.layers)
        if self.stop_at is None and encoder.config.pre_norm:
            states[-1] = encoder.encoder.layer_norm(states[-1])  # the raw output of the last block so far
        return self(states)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """The sum, float32 at least, of as many tensors (..., D) as layers are read; or the one there is, as it is."""
        if self.weights is None:
            return self._ready(states[0])
        shares = self.weights.softmax(dim=0)
        mixed = shares[0] * self._ready(states[0])
        for share, state in zip(shares[1:], states[1:]):  # one after the other: 20 minutes of LARGE have 6 GB of them
            mixed = mixed + share * self._ready(state)
        return mixed

    def _ready(self, state: Tensor) -> Tensor:
        if self.weights is not None:  # a share is a number, which would leave a product with bf16 in bf16
            state = state.to(torch.promote_types(state.dtype, self.weights.dtype))
        return F.layer_norm(state, state.shape[-1:]) if self.layer_norm else state

    def shares(self) -> dict[str, float]:
        """What each layer counts in the sum, adding up to 1, by the layer's number; nothing for one layer alone."""
        if self.weights is None:
            return {}
        return {str(k): round(share, 4) for k, share in zip(self.layers, self.weights.detach().softmax(0).tolist())}
