"""Masked prediction of units: HuBERT's pretraining loss over an encoder (Hsu et al. 2021, section III).

`B` batch, `T` frames, `N` selected frames, `K` classes, `D` encoder width, `E` final_dim. A stream is one set of labels
(one teacher); each has its own projection and its own table of class vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.device import sent
from upstream.errors import InputError, RecipeError, UsageError
from upstream.model.encoder import Encoder, EncoderOutput
from upstream.model.initialisation import initialise
from upstream.model.padding import Padding

COSINE_EPSILON = 1e-8  # on each norm, as torch.cosine_similarity


@dataclass(frozen=True)
class PredictionLoss:
    """The loss of a batch and what it is made of. All tensors are on the model's device; only `total` has a gradient.

    `*_losses` are means over frames, in nats, averaged over the predicting layers; to join micro-batches weigh them by
    their counts. Accuracies and usage are those of the last predicting layer.

    Attributes:
        total: what is differentiated, a mean over the frames that `MaskedPrediction.weight` counts: masked and unmasked
            sums over frames, each times its weight, over that number, plus the weighted feature penalty. fairseq's
            criterion gives this times its sample_size.
        masked_losses: (streams,) float32; `masked_loss` is their sum.
        masked_correct: (streams,) int64 frames whose best class is the label; divide by `masked_count`.
        masked_count: frames in `masked_losses`, known on the host.
        unmasked_losses, unmasked_correct, unmasked_count: the same for frames that were not masked; zeros when neither
            `unmasked_weight` nor `measure` asked for them.
        feature_penalty: mean square of the front end's output; 0 for front ends that do not learn.
        usage: per stream (K,) float32, masked frames of which a class is the likeliest, if `measure` (`perplexity`).
    """

    total: Tensor
    masked_losses: Tensor
    masked_correct: Tensor
    masked_count: int
    unmasked_losses: Tensor
    unmasked_correct: Tensor
    unmasked_count: int
    feature_penalty: Tensor
    usage: tuple[Tensor, ...]

    @property
    def masked_loss(self) -> Tensor:
        """Mean over masked frames, summed over streams."""
        return self.masked_losses.sum()

    @property
    def unmasked_loss(self) -> Tensor:
        """Mean over unmasked frames, summed over streams."""
        return self.unmasked_losses.sum()


class MaskedPrediction(nn.Module):
    """An encoder with prediction heads (fairseq `HubertModel` with its `HubertCriterion`).

    Every row of a class table competes, the four special rows of a table from fairseq among them: K is the number of
    rows. One thing of fairseq's is left out: it drops a wrong class whose vector is bit for bit that of the right one
    from the sum over classes, which never happens to trained tables.

    Args:
        encoder: what is trained.
        classes: number of units of each stream.
        final_dim: width of the space in which frames and classes are compared.
        temperature: divides the cosines.
        predict_at: layers (1 to L) that predict, each with a projection of its own; default the last layer only.
            Several make intermediate-layer supervision (Wang et al. 2022, ILS-SSL); middle layers of pre-norm models
            get a layer norm before their projection.
        unmasked_weight: weight of the loss on unmasked frames (0 in all released models).
        feature_penalty: weight of the mean square of a front end that learns (10 in HuBERT).
        head: "cosine", or "linear": one linear map to the classes and cross entropy (MelHuBERT).
        masked_weight: weight of the loss on masked frames.
        tied_projections: one projection for all streams, instead of one each (fairseq untie_final_proj=false).

    Raises:
        RecipeError: a value out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: tuple[int, ...],
        final_dim: int = 256,
        temperature: float = 0.1,
        predict_at: tuple[int, ...] = (),
        unmasked_weight: float = 0.0,
        feature_penalty: float = 10.0,
        head: Literal["cosine", "linear"] = "cosine",
        masked_weight: float = 1.0,
        tied_projections: bool = False,
    ) -> None:
        super().__init__()
        _check_head(classes, final_dim, temperature, head, tied_projections)
        _check_weights(masked_weight, unmasked_weight, feature_penalty)
        _check_layers(predict_at, encoder.config.layers)
        self.encoder = encoder
        self.classes = tuple(classes)
        self.predict_at = tuple(predict_at) or (encoder.config.layers,)
        self.masked_weight, self.unmasked_weight = masked_weight, unmasked_weight
        self.penalty_weight = feature_penalty if encoder.config.frontend != "fbank" else 0.0
        width = encoder.config.width
        tables: list[nn.Module]
        if head == "cosine":
            projected = final_dim * (1 if tied_projections else len(classes))
            tables = [CosineTable(count, final_dim, temperature) for count in classes]
        else:
            projected = width
            tables = [nn.Linear(width, count) for count in classes]
        self.head = head
        self.shared = head == "linear" or tied_projections  # all streams read the same vector
        self.tables = nn.ModuleList(tables)
        self.projections = nn.ModuleDict({str(layer): self._projection(layer, projected) for layer in self.predict_at})

    def _projection(self, layer: int, projected: int) -> nn.Module:
        config = self.encoder.config
        linear = nn.Linear(config.width, projected) if self.head == "cosine" else nn.Identity()
        middle = config.pre_norm and layer < config.layers  # its output has not passed the final norm
        return nn.Sequential(nn.LayerNorm(config.width), linear) if middle else nn.Sequential(linear)

    def initialise(self, seed: int) -> MaskedPrediction:
        """Draw all weights, the encoder's as `Encoder.initialise` would; returns itself."""
        self.encoder.initialise(seed)
        initialise(self.projections, seed, "projections.")
        initialise(self.tables, seed, "tables.")
        return self

    def weight(self, masked: int, unmasked: int) -> int:
        """Frames that `PredictionLoss.total` is a mean over, of a batch with so many (fairseq's sample_size)."""
        return (masked if self.masked_weight else 0) + (unmasked if self.unmasked_weight else 0)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        mask: Tensor,
        labels: Tensor,
        measure: bool = False,
        padding: Padding = "exact",
    ) -> PredictionLoss:
        """The loss of a batch.

        Args:
            waveforms, lengths, mask, padding: as `Encoder.forward`. Keep `mask` and `labels` on the host: frames are
                selected there, so that a GPU is never waited for.
            labels: (B, T, streams) integers in [0, K) of the stream; values at padded frames are not read.
            measure: also compute the unmasked frames' loss and accuracy and the usage of the classes (validation).

        Raises:
            InputError: a label outside its stream's classes (checked when labels are on the host); nothing masked.
            UsageError: shapes that do not fit each other.
        """
        every = len(self.predict_at) > 1 or self.predict_at[0] < self.encoder.config.layers
        output = self.encoder(waveforms, lengths, mask, layers=every, padding=padding)
        masked, unmasked = split_frames(mask, output.lengths)
        if not len(masked):
            raise InputError("no frame of the batch is masked: there is nothing to predict")
        masked_losses, masked_correct, usage = self._predict(output, masked, labels, self.masked_weight, measure)
        unmasked_losses, unmasked_correct = torch.zeros_like(masked_losses), torch.zeros_like(masked_correct)
        counted = len(unmasked) if measure or self.unmasked_weight else 0
        if counted:
            unmasked_losses, unmasked_correct, _ = self._predict(output, unmasked, labels, self.unmasked_weight, False)

        frames = self.weight(len(masked), counted)
        if not frames:
            raise InputError("every frame of the batch is masked, and masked_weight is 0: there is nothing to predict")
        sums = len(masked) * self.masked_weight * masked_losses + counted * self.unmasked_weight * unmasked_losses
        penalty = mean_square(output, padding) if self.penalty_weight else sums.new_zeros(())
        return PredictionLoss(
            total=sums.sum() / frames + self.penalty_weight * penalty,
            masked_losses=masked_losses.detach(),
            masked_correct=masked_correct,
            masked_count=len(masked),
            unmasked_losses=unmasked_losses.detach(),
            unmasked_correct=unmasked_correct,
            unmasked_count=counted,
            feature_penalty=penalty.detach(),
            usage=usage,
        )

    def _predict(
        self, output: EncoderOutput, selected: Tensor, labels: Tensor, weight: float, measure: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Mean losses and correct frames, each (streams,), and class usage at the flat frame indices `selected (N,)`.

        Without a gradient where it would be multiplied by a `weight` of 0.
        """
        device = output.last.device
        labels = sent(self._labels_at(labels, selected, tuple(output.last.shape[:2])), device)
        selected = sent(selected, device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            losses = torch.zeros(len(self.tables), device=device)
            for layer in self.predict_at:
                logits = self._logits(output, layer, selected)
                parts = [F.cross_entropy(values, labels[:, i]) for i, values in enumerate(logits)]
                losses = losses + torch.stack(parts) / len(self.predict_at)
        with torch.no_grad():
            likeliest = [values.argmax(-1) for values in logits]
            correct = torch.stack([(found == labels[:, i]).sum() for i, found in enumerate(likeliest)])
            # Not of summed probabilities: of a model that hears nothing, and says one class always, they use them all.
            usage = tuple(map(_counts, likeliest, self.classes)) if measure else ()
        return losses, correct, usage

    def _logits(self, output: EncoderOutput, layer: int, selected: Tensor) -> list[Tensor]:
        """Logits (N, K) float32 of each stream. Only selected frames are projected: about half of all."""
        states = output.last if layer == self.encoder.config.layers else output.layers[layer]
        frames = states.flatten(0, 1).index_select(0, selected)
        projected = self.projections[str(layer)](frames)
        parts = [projected] * len(self.tables) if self.shared else projected.chunk(len(self.tables), dim=-1)
        with torch.autocast(projected.device.type, enabled=False):  # cosines / 0.1 need more digits than bfloat16 has
            return [table(part.float()) for table, part in zip(self.tables, parts)]

    def _labels_at(self, labels: Tensor, selected: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(N, streams) int64."""
        expected = (*shape, len(self.classes))
        if tuple(labels.shape) != expected:
            raise UsageError(f"labels of shape {tuple(labels.shape)}: expected {expected} (batch, frames, streams)")
        chosen = labels.flatten(0, 1)[selected.to(labels.device)].long()
        if chosen.device.type == "cpu" and len(chosen):
            for stream, (low, high, count) in enumerate(zip(chosen.amin(0), chosen.amax(0), self.classes)):
                if low < 0 or high >= count:
                    raise InputError(f"stream {stream}: labels {int(low)} to {int(high)}, but it has {count} classes")
        return chosen


class CosineTable(nn.Module):
    """Class vectors and their cosines with frames, over a temperature."""

    def __init__(self, classes: int, dim: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.embeddings = nn.Parameter(torch.empty(classes, dim).uniform_())

    def forward(self, frames: Tensor) -> Tensor:
        """(N, E) to logits (N, K)."""
        frames = F.normalize(frames, dim=-1, eps=COSINE_EPSILON)
        return frames @ F.normalize(self.embeddings, dim=-1, eps=COSINE_EPSILON).t() / self.temperature


def _counts(found: Tensor, classes: int) -> Tensor:
    """How often each class occurs in `found (N,)` integers, (K,) float32; without waiting, as `bincount` would."""
    zeros = torch.zeros(classes, device=found.device)
    return zeros.scatter_add_(0, found, torch.ones_like(found, dtype=torch.float32))


def perplexity(usage: Tensor) -> float:
    """Classes in effective use: the exponential of the entropy of the predictions' counts `usage (K,)`, 1 to K
    (fairseq `code_perplexity`)."""
    shares = usage.double() / usage.double().sum()
    return float(torch.special.entr(shares).sum().exp())


def split_frames(mask: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Flat indices (into B * T) of masked and of unmasked frames, padding in neither."""
    inside = (torch.arange(mask.shape[1]) < counts[:, None]).to(mask.device)
    return (mask & inside).flatten().nonzero()[:, 0], (~mask & inside).flatten().nonzero()[:, 0]


def mean_square(output: EncoderOutput, padding: str) -> Tensor:
    """Mean square of the front end's output over real frames (padded ones are zero); in fairseq over all frames."""
    frames = output.features.shape[:2].numel() if padding == "fairseq" else int(output.lengths.sum())
    return output.features.float().square().sum() / (frames * output.features.shape[-1])


def _check_head(classes: tuple[int, ...], final_dim: int, temperature: float, head: str, tied: bool) -> None:
    if not classes or min(classes) < 2:
        raise RecipeError(f"classes={tuple(classes)}: at least one stream, each with at least 2 classes")
    if final_dim < 1 or temperature <= 0:
        raise RecipeError(f"final_dim={final_dim} must be at least 1, temperature={temperature} above 0")
    if head not in ("cosine", "linear"):
        raise RecipeError(f"head={head!r}, must be cosine or linear")
    if tied and head == "linear":
        raise RecipeError("tied_projections=true needs head=cosine: a linear head has no projections")


def _check_weights(masked: float, unmasked: float, feature_penalty: float) -> None:
    if min(masked, unmasked, feature_penalty) < 0 or masked + unmasked == 0:
        raise RecipeError(
            f"masked_weight={masked}, unmasked_weight={unmasked} and feature_penalty={feature_penalty} must be at "
            "least 0, and one of the first two above it"
        )


def _check_layers(predict_at: tuple[int, ...], layers: int) -> None:
    if list(predict_at) != sorted(set(predict_at)) or any(not 1 <= layer <= layers for layer in predict_at):
        raise RecipeError(f"predict_at={tuple(predict_at)}: increasing layers between 1 and {layers}")
