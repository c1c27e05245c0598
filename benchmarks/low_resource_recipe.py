"""What a low-resource comparison may say: one pretraining, several amounts of labels, one recogniser and decoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from upstream.errors import RecipeError
from upstream.model.config import EncoderConfig
from upstream.pretrain_recipe import SWITCHES, PretrainRecipe, Round, rounds_of
from upstream.recipe import Named, refine
from upstream.training.recipe import TrainingRecipe

SHIPPED = Path(__file__).with_name("recipes")
KENLM_ORDER = 6  # the highest that its Python package is built for
OF_THE_COMPARISON = ("data", "dev", "encoder", "architecture", "seed")  # of a fine-tuning
_SETS_IT = "the comparison sets it itself; leave it out (`seed`, `pretrain.encoder` and the splits say what it is)"


@dataclass(frozen=True)
class LanguageModelRecipe:
    """The n-gram model that beam search uses."""

    text: str = "lm-text/books.txt.gz"  # below the data folder; one sentence a line
    order: int = 4
    prune: tuple[int, ...] = (0, 0, 1)
    discount_fallback: bool = False  # for texts too small for Kneser-Ney's discounts

    def __post_init__(self) -> None:
        if not 2 <= self.order <= KENLM_ORDER:
            raise ValueError(f"lm.order={self.order}, must be 2 to {KENLM_ORDER}, as KenLM reads it")


@dataclass(frozen=True)
class DecodingRecipe:
    """Beam search; LM weight (natural logarithm) and word score are searched on dev."""

    beam: int = 50
    tokens_per_frame: int | None = None  # symbols tried in a frame; few make search on weak emissions bearable
    tune_seconds: float = 300.0  # audio of dev that the search decodes each time, about
    tune_decodes: int = 10  # pairs of weights that the search decodes with, at most
    resamples: int = 10_000  # of the bootstrap

    def __post_init__(self) -> None:
        if min(self.beam, self.resamples, 1 if self.tokens_per_frame is None else self.tokens_per_frame) < 1:
            raise ValueError(f"decoding: beam={self.beam}, resamples={self.resamples} and tokens_per_frame="
                             f"{self.tokens_per_frame} must be at least 1")
        if self.tune_decodes < 3 or not self.tune_seconds > 0:
            raise ValueError(f"decoding: tune_decodes={self.tune_decodes} must be at least 3, one for each start of "
                             f"the search, and tune_seconds={self.tune_seconds} above 0")


@dataclass(frozen=True)
class LabelledRecipe:
    """An amount of labels: the split that holds them, and what of the fine-tuning recipe changes with it."""

    split: str = "train"
    finetune: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in OF_THE_COMPARISON:
            if name in self.finetune:
                raise ValueError(f"labelled: finetune.{name}: {_SETS_IT}")


@dataclass(frozen=True)
class LowResourceRecipe:
    """A grid of cells `LABELLED: ENCODER`, run in the order given; ENCODER is `scratch` or `round N`.

    Scratch has random weights in the shape of the rounds that it stands beside: that of `init`, where there is one.

    The data folder holds the audio (`corpus`: a folder in the LibriSpeech layout, or a manifest) and, in `splits`, text
    files of utterance ids.
    """

    corpus: str = "LibriSpeech"
    splits: str = "splits"
    unlabelled: str = "train"
    dev: str = "dev"
    test: str = "test"
    aligned: str | None = None  # split that the PNMI probe reads
    alignments: str | None = None  # folder of its TextGrid or CTM files
    seed: int = 0
    pretrain: PretrainRecipe = field(default_factory=PretrainRecipe)
    finetune: FinetuneRecipe = field(default_factory=FinetuneRecipe)
    lm: LanguageModelRecipe = field(default_factory=LanguageModelRecipe)
    decoding: DecodingRecipe = field(default_factory=DecodingRecipe)
    labelled: dict[str, LabelledRecipe] = field(default_factory=dict)
    cells: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, defaults, names in ((self.pretrain, PretrainRecipe(), ("data", "seed")),
                                      (self.finetune, FinetuneRecipe(), OF_THE_COMPARISON)):
            for name in names:
                if getattr(part, name) != getattr(defaults, name):
                    key = "pretrain" if part is self.pretrain else "finetune"
                    raise ValueError(f"{key}.{name}: {_SETS_IT}")
        for name in self.labelled:
            if not re.fullmatch(r"[\w][\w.+-]*", name):  # of folders
                raise ValueError(f"labelled: {name!r} names a folder; use letters, digits, points and hyphens")
        splits = {"unlabelled": self.unlabelled, "dev": self.dev, "test": self.test, "aligned": self.aligned or ""}
        for key, split in (splits | {f"labelled.{n}.split": a.split for n, a in self.labelled.items()}).items():
            if Path(split).name != split:  # it would be written outside of the run
                raise ValueError(f"{key}={split}: must be the name of a file in `splits`, without folders and `.txt`")
        if not self.cells:
            raise ValueError("cells: give at least one, for instance `1h: scratch`")
        cells = [parse_cell(cell, self) for cell in self.cells]
        if twice := [cell for cell, meant in zip(self.cells, cells) if cells.count(meant) > 1]:
            raise ValueError(f"cells: {twice[0]!r} is there more than once")

    def settled(self, named: Named) -> LowResourceRecipe:
        """What was meant: a word for `finetune` counts also for amounts of labels that the file gave a value of their
        own, and one for `pretrain` as in a pretraining."""
        labelled = {name: replace(amount, finetune=named.yielding(f"labelled.{name}.finetune", "finetune",
                                                                  amount.finetune))
                    for name, amount in self.labelled.items()}
        return replace(self, labelled=labelled, pretrain=self.pretrain.settled(named.below("pretrain")))

    @property
    def device(self) -> str:
        """`cpu` where both trainings are to leave GPUs alone."""
        return "cpu" if self.pretrain.device == self.finetune.device == "cpu" else "auto"

    def finetuning(self, labelled: str) -> FinetuneRecipe:
        """The fine-tuning of one amount of labels. Raises RecipeError naming the key that cannot be changed so."""
        return refine(self.finetune, self.labelled[labelled].finetune, f"labelled.{labelled}.finetune")


def micro_batches(recipe: LowResourceRecipe) -> list[int]:
    """How many micro-batches make an update, in every training of the grid: what ranks have to share."""
    return [training.accumulate for training in _trainings(recipe)]


def most_ranks(recipe: LowResourceRecipe) -> int:
    """How many ranks can share an update at most, in every training of the grid."""
    return min(training.most_ranks for training in _trainings(recipe))


def _trainings(recipe: LowResourceRecipe) -> list[TrainingRecipe]:
    return [r.training for r in rounds_of(recipe.pretrain)] + [
        recipe.finetuning(name).training for name in recipe.labelled]


def parse_cell(cell: str, recipe: LowResourceRecipe) -> tuple[str, int]:
    """`1h: round 2` as ("1h", 2); `scratch` is round 0. Raises ValueError with what there is."""
    labelled, _, encoder = (part.strip() for part in cell.partition(":"))
    rounds = len(recipe.pretrain.rounds)
    known = {SCRATCH: 0} | {f"round {n}": n for n in range(1, rounds + 1)}
    if labelled not in recipe.labelled or encoder not in known:
        raise ValueError(f"cells: {cell!r} is none; expected LABELLED: ENCODER, LABELLED one of "
                         f"{', '.join(recipe.labelled)}, ENCODER one of {', '.join(known)}")
    return labelled, known[encoder]


def scratch_encoder(recipe: LowResourceRecipe, labelled: str, rounds: Sequence[Round]) -> EncoderConfig:
    """What scratch trains: an encoder of the shape of those that it stands beside, pretrained and with the same labels,
    so that pretraining is all that they differ in. With `init` that is not the recipe's own.

    Args:
        rounds: of the pretraining; none where no cell has one.

    Raises:
        RecipeError: they have several shapes; the first value that differs is named.
    """
    if not rounds:
        return recipe.pretrain.encoder
    numbers = {number for name, number in (parse_cell(cell, recipe) for cell in recipe.cells) if name == labelled}
    beside = [rounds[number - 1] for number in sorted(numbers - {0})] or list(rounds[:1])
    shape = _shape(beside[0])
    for other in beside[1:]:
        for name, value in _shape(other).items():
            if value != shape[name]:
                raise RecipeError(f"rounds {beside[0].number} and {other.number} have encoders with {name}="
                                  f"{shape[name]} and {name}={value}, and scratch beside both can have one shape only; "
                                  "leave out one of their cells, and compare it in a run of its own")
    found = beside[0].encoder
    if found.feature_grad_mult == 0:  # of an init whose front end has learnt; a random one would stay as it is
        return replace(found, feature_grad_mult=recipe.pretrain.encoder.feature_grad_mult)
    return found


def _shape(round_: Round) -> dict[str, Any]:
    """What of the configuration of a round's encoder its weights' sizes and meaning depend on."""
    return {name: value for name, value in round_.encoder.effective().items() if name not in SWITCHES}
