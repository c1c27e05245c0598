"""Layers of LSTMs in both directions, that padding does not reach (s3prl's `downstream/asr/model.py`, `RNNs`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from downstream.heads.recipe import HeadRecipe
from upstream.device import sent


class BiLstm(nn.Module):
    """Equals `torch.nn.LSTM(bidirectional=True)` on every utterance alone, behind a linear map if there is a
    projection, with dropout behind each layer, the last one included.

    Each direction is an LSTM of its own. That from the end to the start hears utterances turned round within their own
    lengths, so that padding lies behind the frames for both; packed sequences would do the same at a third of the speed
    on CPUs (a batch of 3 by 180 frames, width 256, forward and backward: 0.26 s against 0.08 s on one core).

    Computed in float32 whatever the precision of the training: errors add up over hundreds of frames.

    Args:
        dim: of what it hears.
    """

    def __init__(self, dim: int, recipe: HeadRecipe) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, recipe.projection) if recipe.projection else None
        heard = [recipe.projection or dim, *[2 * recipe.width] * (recipe.depth - 1)]
        self.forwards = nn.ModuleList(nn.LSTM(d, recipe.width, batch_first=True) for d in heard)
        self.backwards = nn.ModuleList(nn.LSTM(d, recipe.width, batch_first=True) for d in heard)
        self.dropout = nn.Dropout(recipe.dropout)

    def initialise(self, generator: torch.Generator) -> None:
        """Uniform in +-1 / sqrt(width) for LSTMs and +-1 / sqrt(dim) for the map, as torch and so s3prl does."""
        with torch.no_grad():
            if self.projection is not None:
                _draw(self.projection, self.projection.in_features, generator)
            for lstm in [*self.forwards, *self.backwards]:
                _draw(lstm, lstm.hidden_size, generator)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) and (B,) int64 frames of each utterance to (B, T, 2 * width) float32; what lies past an utterance's
        frames neither counts nor means anything."""
        with torch.autocast(x.device.type, enabled=False):
            x, turned = x.to(next(self.parameters()).dtype), _turned(lengths, x)
            if self.projection is not None:
                x = self.projection(x)
            for onward, backward in zip(self.forwards, self.backwards):
                behind = _take(backward(_take(x, turned))[0], turned)
                x = self.dropout(torch.cat([onward(x)[0], behind], dim=-1))
            return x


def _turned(lengths: Tensor, x: Tensor) -> Tensor:
    """(B, T, 1) int64 on the device: which frame stands where once utterances are turned round within their lengths."""
    place, ends = torch.arange(x.shape[1]), lengths[:, None]
    return sent(torch.where(place < ends, ends - 1 - place, place)[..., None], x.device)


def _take(x: Tensor, frames: Tensor) -> Tensor:
    return x.gather(1, frames.expand(-1, -1, x.shape[2]))


def _draw(module: nn.Module, fan: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(fan)
    for parameter in module.parameters():
        parameter.uniform_(-bound, bound, generator=generator)
