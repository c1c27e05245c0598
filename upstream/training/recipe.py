"""What a recipe may say about training, pretraining and fine-tuning alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from upstream.training.optimiser import OptimiserRecipe
from upstream.training.precision import Precision

AUTO = "auto"


@dataclass(frozen=True)
class TrainingRecipe:
    """How long, in what batches, with what optimiser. Defaults are HuBERT BASE's on one machine."""

    updates: int = 400_000  # steps of the optimiser
    batch_seconds: Any = 2800.0  # audio in one update, all micro-batches and ranks together
    micro_batch_seconds: Any = 87.5  # audio that goes through the encoder at once; auto: what fits (pretraining only)
    crop_seconds: float = 15.625  # pretraining: the longest crop (fairseq's 250,000 samples)
    least_seconds: float = 2.0  # pretraining: shorter utterances are left out
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    precision: Precision = "bf16"  # of matmuls; losses and norms stay in float32. fp16: for GPUs without bf16
    shard: bool = False  # spread weights, gradients and optimiser over ranks (FSDP2), for models too large for one
    checkpoint_activations: bool = False  # compute blocks again in the backward pass: less memory, a third more work
    compile: Any = AUTO  # true, false or auto: compile the Transformer's blocks; auto: on a GPU, without the two above
    log_every: int = 50  # updates
    validate_every: int = 1000  # updates
    save_every: int = 1000  # updates; a killed training goes on from there
    keep_checkpoints: int = 2  # the newest so many, and
    keep_every: int = 0  # those after every so many updates, for ever; 0: none
    keep_best: bool = False  # and the one with the best validation, saved when it is found: fine-tuning's recogniser
    wandb: str = ""  # a project of Weights & Biases to log to as well; needs the package `wandb`

    def __post_init__(self) -> None:
        for name in ("updates", "log_every", "validate_every", "save_every", "keep_checkpoints"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"training.{name}={value}, must be at least 1")
        if self.compile not in (True, False, AUTO):
            raise ValueError(f"training.compile={self.compile}, must be true, false or auto")
        if self.compile is True and (self.shard or self.checkpoint_activations):
            raise ValueError("training.compile=true goes with neither training.shard nor "
                             "training.checkpoint_activations; leave one of them out")
        for name in ("keep_every", "least_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name}={getattr(self, name)}, must be at least 0")
        if self.batch_seconds == AUTO:
            raise ValueError("training.batch_seconds=auto: the audio of an update is what a recipe is about, and the "
                             "same on every machine; what goes through the encoder at once may be chosen by what fits: "
                             "training.micro_batch_seconds=auto")
        auto = self.micro_batch_seconds == AUTO
        for name in ("batch_seconds", "micro_batch_seconds")[:1 if auto else 2]:
            if type(getattr(self, name)) not in (int, float):
                raise ValueError(f"training.{name}={getattr(self, name)}, must be a number of seconds"
                                 f"{', or auto' * (name == 'micro_batch_seconds')}")
            object.__setattr__(self, name, float(getattr(self, name)))
        if auto and self.shard:
            raise ValueError("training.micro_batch_seconds=auto measures a whole model; with training.shard=true give "
                             "a number of seconds")
        if min(self.batch_seconds, self.batch_seconds if auto else self.micro_batch_seconds, self.crop_seconds) <= 0:
            raise ValueError("training.batch_seconds, micro_batch_seconds and crop_seconds must be above 0")
        if not auto and not 0.95 <= self.accumulate * self.micro_batch_seconds / self.batch_seconds <= 1.05:
            raise ValueError(f"training.batch_seconds={self.batch_seconds:g} is no multiple of micro_batch_seconds="
                             f"{self.micro_batch_seconds:g}; an update is a whole number of micro-batches")

    @property
    def accumulate(self) -> int:
        """Micro-batches in an update; 0 as long as `auto` is not chosen, which any number of ranks divides."""
        if self.micro_batch_seconds == AUTO:
            return 0
        return max(1, round(self.batch_seconds / self.micro_batch_seconds))

    @property
    def most_ranks(self) -> int:
        """Ranks that can share an update at most: with `auto` each of them needs a crop."""
        return self.accumulate or int(self.batch_seconds / self.crop_seconds)


def weights_settings(recipe: TrainingRecipe) -> dict[str, Any]:
    """What of a recipe the weights depend on, for a stage's key: not how often one looks or saves, nor where numbers
    lie in memory."""
    return {k: v for k, v in asdict(recipe).items() if k not in _NO_MATTER}


def without_pretraining(recipe: TrainingRecipe) -> TrainingRecipe:
    """The same with the values that pretraining alone reads as they are by default: in fine-tuning they say nothing."""
    return replace(recipe, crop_seconds=TrainingRecipe.crop_seconds, least_seconds=TrainingRecipe.least_seconds)


_NO_MATTER = {"log_every", "validate_every", "save_every", "keep_checkpoints", "keep_every", "keep_best", "wandb",
              "shard", "checkpoint_activations", "compile"}
