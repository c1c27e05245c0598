"""Frames to discrete codes: wav2vec 2.0's product quantiser with Gumbel noise (Baevski et al. 2020, section 2).

`N` frames, `C` features, `G` groups, `V` entries of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.errors import RecipeError
from upstream.keyed import keyed_torch
from upstream.model.initialisation import initialise


@dataclass(frozen=True)
class GumbelSchedule:
    """The temperature of the noise: from soft to hard choices, by a factor every update (fairseq latent_temp).

    Raises:
        RecipeError: a value out of range.
    """

    start: float = 2.0  # temperature of the first update
    end: float = 0.5  # temperature at last
    decay: float = 0.999995  # of the temperature, every update

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start or not 0 < self.decay <= 1:
            raise RecipeError(
                f"gumbel: end={self.end} must lie above 0 and not above start={self.start}, "
                f"decay={self.decay} must lie in (0, 1]"
            )

    def at(self, update: int) -> float:
        """The temperature of an update, counted from 1."""
        return max(self.start * self.decay ** (update - 1), self.end)


@dataclass(frozen=True)
class Quantised:
    """What `GumbelQuantiser.forward` gives.

    Attributes:
        vectors: (N, code_dim) float32, the chosen entries of all groups side by side.
        codes: (N, G) int64, which they are.
        perplexity: scalar, entries in use summed over groups, G to G * V, by the probabilities before the noise; it
            has a gradient. In evaluation by the codes themselves, as in `transformers`.
        code_perplexity: the same by the likeliest entries, without gradient.
    """

    vectors: Tensor
    codes: Tensor
    perplexity: Tensor
    code_perplexity: Tensor


class GumbelQuantiser(nn.Module):
    """G codebooks of V entries (`transformers` Wav2Vec2GumbelVectorQuantizer, whose parameter names these are).

    In training an entry is drawn with Gumbel noise, from torch's default generator, and the gradient is that of the
    soft choice (straight through); in evaluation it is the likeliest one.
    """

    def __init__(self, features: int, groups: int, entries: int, code_dim: int) -> None:
        super().__init__()
        if groups < 1 or entries < 2 or code_dim < 1 or code_dim % groups:
            raise RecipeError(
                f"quantiser: groups={groups} must be at least 1, entries={entries} at least 2, and code_dim={code_dim} "
                "a multiple of groups"
            )
        self.groups, self.entries = groups, entries
        self.weight_proj = nn.Linear(features, groups * entries)
        self.codevectors = nn.Parameter(torch.empty(1, groups * entries, code_dim // groups).uniform_())

    @torch.no_grad()
    def initialise(self, seed: int, prefix: str) -> None:
        """Draw all weights as fairseq: entries uniform on [0, 1), the map to logits normal with std 1, its bias 0."""
        initialise(self, seed, prefix)
        weight = self.weight_proj.weight
        weight.copy_(torch.randn(weight.shape, generator=keyed_torch(seed, "init", f"{prefix}weight_proj.weight")))
        self.weight_proj.bias.zero_()

    def forward(self, frames: Tensor, temperature: float) -> Quantised:
        """Quantise frames (N, C) float32; `temperature` of the noise plays no part in evaluation."""
        logits = self.weight_proj(frames).unflatten(-1, (self.groups, self.entries))  # (N, G, V)
        likeliest = F.one_hot(logits.argmax(-1), self.entries).to(logits.dtype)
        if self.training:
            chosen = F.gumbel_softmax(logits, tau=temperature, hard=True)
            perplexity = _perplexity(logits.softmax(-1))
        else:
            chosen, perplexity = likeliest, _perplexity(likeliest)
        codebooks = self.codevectors.view(self.groups, self.entries, -1)
        vectors = torch.einsum("ngv,gvd->ngd", chosen, codebooks).flatten(1)
        return Quantised(vectors, chosen.argmax(-1), perplexity, _perplexity(likeliest))


def _perplexity(choices: Tensor) -> Tensor:
    """Exponential of the entropy of the mean choice (N, G, V), summed over groups."""
    mean = choices.mean(0).clamp(min=torch.finfo(choices.dtype).tiny)  # at 0 the gradient of entr is infinite
    return torch.special.entr(mean).sum(-1).exp().sum()
