"""Contrastive prediction of quantised frames: wav2vec 2.0's pretraining loss over an encoder (Baevski et al. 2020).

`B` batch, `T` frames, `N` masked frames of the batch in row-major order, `K` negatives of each. For every masked frame
the encoder's output must tell the quantised front end output of that frame from those of other masked frames of the
same utterance. Nothing is labelled: it needs no teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from upstream.device import sent
from upstream.errors import InputError, RecipeError, UsageError
from upstream.model.encoder import Encoder
from upstream.model.initialisation import initialise
from upstream.model.masked_prediction import COSINE_EPSILON, mean_square, split_frames
from upstream.model.padding import Padding
from upstream.model.quantiser import GumbelQuantiser

CELLS = 1 << 24  # cosines of frames and codes that exist at a time: 64 MB


@dataclass(frozen=True)
class ContrastiveLoss:
    """The loss of a batch and what it is made of. All tensors are scalars on the model's device; means over frames.

    Attributes:
        total: contrastive + diversity_weight * diversity + feature penalty weight * feature_penalty; only this has a
            gradient. `transformers` gives this times `count`, without the penalty.
        contrastive: cross entropy of the right frame among the negatives, in nats.
        correct: int64 frames whose own vector is nearer than all negatives that differ from it; a frame that no
            negative differs from is never correct, so that one code for everything does not look like success.
        count: masked frames, known on the host.
        diversity: share of all code entries not in use, by the perplexity of the quantiser's probabilities.
        code_perplexity: entries in use, G to G * V, by the likeliest codes.
        feature_penalty: mean square of the conv front end's output; 0 for front ends that do not learn.
    """

    total: Tensor
    contrastive: Tensor
    correct: Tensor
    count: int
    diversity: Tensor
    code_perplexity: Tensor
    feature_penalty: Tensor


class ContrastivePrediction(nn.Module):
    """An encoder with a quantiser (fairseq `Wav2Vec2Model` with its criterion, `transformers` Wav2Vec2ForPreTraining).

    The quantiser reads the front end's output after its layer norm: convolutions, or stacked filterbanks. Parameters
    beside the encoder have the names that `transformers` gives them.

    Args:
        encoder: what is trained.
        groups, entries, code_dim: of the quantiser; defaults are BASE's and LARGE's 2 x 320, width 256 (LARGE 768).
        final_dim: width of the space in which frames and codes are compared.
        temperature: divides the cosines.
        diversity_weight: weight of the share of unused code entries.
        feature_penalty: weight of the conv front end's mean square (10 in BASE, 0 in LARGE).
        feature_dropout: on what the quantiser reads (fairseq dropout_features).

    Raises:
        RecipeError: a value out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        groups: int = 2,
        entries: int = 320,
        code_dim: int = 256,
        final_dim: int = 256,
        temperature: float = 0.1,
        diversity_weight: float = 0.1,
        feature_penalty: float = 10.0,
        feature_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if final_dim < 1 or temperature <= 0 or min(diversity_weight, feature_penalty) < 0:
            raise RecipeError(
                f"final_dim={final_dim} must be at least 1, temperature={temperature} above 0, "
                f"diversity_weight={diversity_weight} and feature_penalty={feature_penalty} at least 0"
            )
        if not 0 <= feature_dropout < 1:
            raise RecipeError(f"feature_dropout={feature_dropout}, must lie in [0, 1)")
        config = encoder.config
        self.encoder = encoder
        self.temperature, self.diversity_weight, self.feature_dropout = temperature, diversity_weight, feature_dropout
        self.penalty_weight = feature_penalty if config.frontend != "fbank" else 0.0
        self.quantizer = GumbelQuantiser(config.feature_dim, groups, entries, code_dim)
        self.project_q = nn.Linear(code_dim, final_dim)
        self.project_hid = nn.Linear(config.width, final_dim)

    def initialise(self, seed: int) -> ContrastivePrediction:
        """Draw all weights, the encoder's as `Encoder.initialise` would; returns itself."""
        self.encoder.initialise(seed)
        self.quantizer.initialise(seed, "quantizer.")
        initialise(self.project_q, seed, "project_q.")
        initialise(self.project_hid, seed, "project_hid.")
        return self

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        mask: Tensor,
        negatives: Tensor,
        gumbel_temperature: float = 2.0,
        padding: Padding = "exact",
    ) -> ContrastiveLoss:
        """The loss of a batch.

        Args:
            waveforms, lengths, mask, padding: as `Encoder.forward`. Keep `mask` and `negatives` on the host: frames are
                selected there, so that a GPU is never waited for.
            negatives: (N, K) int64 in [0, N), of each masked frame the places of its negatives among the batch's masked
                frames in row-major order, padded frames not counted (`draw_negatives`).
            gumbel_temperature: of the quantiser's noise (`GumbelSchedule.at`); plays no part in evaluation.

        Raises:
            InputError: nothing masked.
            UsageError: shapes that do not fit each other.
        """
        output = self.encoder(waveforms, lengths, mask, padding=padding, whole_features=True)
        masked, _ = split_frames(mask, output.lengths)
        self._check(masked, negatives)
        device = output.last.device
        masked, negatives = sent(masked, device), sent(negatives, device)
        with torch.autocast(device.type, enabled=False):  # cosines / 0.1 need more digits than bfloat16 has
            kind = self.project_hid.weight.dtype
            features = output.features.flatten(0, 1).index_select(0, masked).to(kind)
            features = F.dropout(
                self.encoder.feature_projection.layer_norm(features), self.feature_dropout, self.training
            )
            quantised = self.quantizer(features, gumbel_temperature)
            states = self.project_hid(output.last.flatten(0, 1).index_select(0, masked).to(kind))
            logits = self._logits(states, self.project_q(quantised.vectors), quantised.codes, negatives)  # (N, 1 + K)
            contrastive = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
        entries = self.quantizer.groups * self.quantizer.entries
        diversity = (entries - quantised.perplexity) / entries
        penalty = mean_square(output, padding) if self.penalty_weight else torch.zeros((), device=device)
        comparable = logits[:, 1:].isfinite().any(-1)
        return ContrastiveLoss(
            total=contrastive + self.diversity_weight * diversity + self.penalty_weight * penalty,
            contrastive=contrastive.detach(),
            correct=((logits.argmax(-1) == 0) & comparable).sum(),
            count=len(masked),
            diversity=diversity.detach(),
            code_perplexity=quantised.code_perplexity.detach(),
            feature_penalty=penalty.detach(),
        )

    def _logits(self, states: Tensor, vectors: Tensor, codes: Tensor, negatives: Tensor) -> Tensor:
        """(N, 1 + K) float32: the right frame, then its negatives, -inf where one has the very same codes.

        All N x N cosines are computed, some at a time (`_Chosen`), which is less than gathering K vectors for each
        frame.
        """
        own = torch.arange(len(states), device=states.device)[:, None]
        same = (codes[negatives] == codes[:, None]).all(-1)
        cosines: Tensor = _Chosen.apply(F.normalize(states, dim=-1, eps=COSINE_EPSILON),
                                        F.normalize(vectors, dim=-1, eps=COSINE_EPSILON),
                                        torch.cat([own, negatives], dim=1))
        return cosines.masked_fill(F.pad(same, (1, 0)), -torch.inf) / self.temperature

    def _check(self, masked: Tensor, negatives: Tensor) -> None:
        if not len(masked):
            raise InputError("no frame of the batch is masked: there is nothing to predict")
        if negatives.dim() != 2 or len(negatives) != len(masked) or not negatives.shape[1]:
            raise UsageError(
                f"negatives of shape {tuple(negatives.shape)}: expected ({len(masked)}, K), a row for each masked frame"
            )
        if negatives.device.type == "cpu" and not 0 <= int(negatives.min()) <= int(negatives.max()) < len(masked):
            raise UsageError(f"negatives {int(negatives.min())} to {int(negatives.max())} among {len(masked)} frames")


class _Chosen(torch.autograd.Function):
    """Of the products of the rows of two matrices those that are wanted: (N, J) from (N, D), (M, D) and (N, J) places
    in [0, M).

    At most `CELLS` products exist at a time, in the backward pass as well: memory is N x J, whatever N x M.
    """

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(one, other, places)
        return torch.cat([(one[rows] @ other.t()).gather(1, places[rows]) for rows in _blocks(one, other)])

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        one, other, places = ctx.saved_tensors
        of_one, of_other = [], torch.zeros_like(other)
        for rows in _blocks(one, other):
            block = gradient.new_zeros(len(one[rows]), len(other)).scatter_add_(1, places[rows], gradient[rows])
            of_one.append(block @ other)
            of_other += block.t() @ one[rows]
        return torch.cat(of_one), of_other, None


def _blocks(one: Tensor, other: Tensor) -> list[slice]:
    """Rows of the first that go together."""
    step = max(1, CELLS // len(other))
    return [slice(first, first + step) for first in range(0, len(one), step)]


def draw_negatives(rngs: Sequence[np.random.Generator], counts: Sequence[int], number: int) -> NDArray[np.int64]:
    """Negatives (N, number) int64 for `ContrastivePrediction`: uniform, with repetition, over the other masked frames
    of the same row, never the frame itself (fairseq `sample_negatives`).

    Args:
        rngs: a generator for each row, so that rows do not depend on each other.
        counts: masked frames of each row; N is their sum.
        number: negatives of each frame.

    Raises:
        InputError: a row with fewer than two masked frames.
    """
    if min(counts) < 2:
        raise InputError(f"an utterance with {min(counts)} masked frames has no negatives: raise mask.min_spans")
    rows, first = [], 0
    for rng, count in zip(rngs, counts):
        others = rng.integers(0, count - 1, (count, number))
        others += others >= np.arange(count)[:, None]
        rows.append(first + others)
        first += count
    return np.concatenate(rows)
