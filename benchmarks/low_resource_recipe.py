"""What a low-resource comparison may say: encoders of a pretraining and from elsewhere, several amounts of labels and
seeds, one recogniser and decoder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.score.rates import RATES, Unit, rates_of
from upstream.errors import RecipeError
from upstream.pretrain_recipe import PretrainRecipe, rounds_of
from upstream.recipe import Named, refine
from upstream.training.recipe import TrainingRecipe

SHIPPED = Path(__file__).with_name("recipes")
KENLM_ORDER = 6  # the highest that its Python package is built for
OF_A_PRETRAINING = ("data", "seed")  # what the comparison sets itself
OF_THE_COMPARISON = ("data", "dev", "encoder", "architecture", "seed")  # and of a fine-tuning
_SETS_IT = ("the comparison sets it itself; leave it out (`seed` or `seeds`, `pretrain.encoder` or `encoders`, and the "
            "splits say what it is)")
_FOLDER = re.compile(r"\w[\w.+-]*")  # a word that folders may be named by
_ROUND = re.compile(r"round ?(\d+)")


@dataclass(frozen=True)
class LanguageModelRecipe:
    """The n-gram model that beam search uses."""

    text: str = "lm-text/books.txt.gz"  # below the data folder; one sentence a line
    order: int = 4  # the longest n-gram
    prune: tuple[int, ...] = (0, 0, 1)  # counts up to which n-grams of each order are left out
    discount_fallback: bool = False  # for texts too small for Kneser-Ney's discounts

    def __post_init__(self) -> None:
        if not 2 <= self.order <= KENLM_ORDER:
            raise ValueError(f"lm.order={self.order}, must be 2 to {KENLM_ORDER}, as KenLM reads it")


@dataclass(frozen=True)
class BeamSearchRecipe:
    """Beam search; LM weight (natural logarithm) and word score are searched on dev."""

    # `beam` is pyctcdecode; `batched` our own, of the model's words alone: far fewer errors with weak recognisers.
    decoder: Literal["beam", "batched"] = "beam"
    beam: int = 50  # hypotheses kept after each frame
    tokens_per_frame: int | None = None  # symbols tried in a frame; few make search on weak emissions bearable
    # Words need no separator between them: of scripts without spaces; of `batched`. Errors of the test set are counted
    # in characters, then.
    unspaced: bool = False
    unit: Literal["word", "character"] = "word"  # of the errors that weights are chosen by, and of the rate told first
    tune_seconds: float = 300.0  # audio of dev that the search decodes each time, about
    tune_decodes: int = 10  # pairs of weights that the search decodes with, at most
    resamples: int = 10_000  # of the bootstrap

    def __post_init__(self) -> None:
        if min(self.beam, self.resamples, 1 if self.tokens_per_frame is None else self.tokens_per_frame) < 1:
            raise ValueError(f"decoding: beam={self.beam}, resamples={self.resamples} and tokens_per_frame="
                             f"{self.tokens_per_frame} must be at least 1")
        if self.unspaced and self.decoder != "batched":
            raise ValueError(f"decoding: unspaced is for decoder=batched, not {self.decoder}; leave it out")
        if self.tune_decodes < 3 or not self.tune_seconds > 0:
            raise ValueError(f"decoding: tune_decodes={self.tune_decodes} must be at least 3, one for each start of "
                             f"the search, and tune_seconds={self.tune_seconds} above 0")

    @property
    def counted(self) -> Unit:
        """What errors of the test set are counted in: characters where spaces part no words."""
        return "character" if self.unspaced else "word"

    @property
    def rates(self) -> tuple[str, ...]:
        """Of the test set, that which is to be read first before the other, where there are two."""
        return tuple(reversed(RATES)) if self.unit == "character" and not self.unspaced else rates_of(self.counted)


@dataclass(frozen=True)
class LabelledRecipe:
    """An amount of labels: the split that holds them, and what of the fine-tuning recipe changes with it."""

    split: str = "train"  # that holds them
    finetune: dict[str, Any] = field(default_factory=dict)  # what of the fine-tuning differs with it

    def __post_init__(self) -> None:
        for name in OF_THE_COMPARISON:
            if name in self.finetune:
                raise ValueError(f"labelled: finetune.{name}: {_SETS_IT}")


@dataclass(frozen=True)
class OtherEncoderRecipe:
    """An encoder from elsewhere, under a name that cells may have, and what of the fine-tuning recipe changes with
    it: after what the amount of labels changes."""

    encoder: str = ""  # whatever `finetune encoder=` takes; must be given
    finetune: dict[str, Any] = field(default_factory=dict)  # what of the fine-tuning differs with it


@dataclass(frozen=True)
class Cell:
    """What is fine-tuned: an encoder on an amount of labels.

    Attributes:
        encoder: `scratch`, `round N`, or one of the recipe's `encoders`.
    """

    labelled: str
    encoder: str

    @property
    def round(self) -> int:
        """The round of pretraining that it wants; 0 for others."""
        found = _ROUND.fullmatch(self.encoder)
        return int(found[1]) if found else 0

    def folder(self, seed: int | None = None) -> str:
        """`1h: round 2` as `1h-round2`, with a seed as `1h-round2-seed1`: the name of its folder."""
        return f"{self.labelled}-{self.encoder.replace(' ', '')}" + ("" if seed is None else f"-seed{seed}")


@dataclass(frozen=True)
class LowResourceRecipe:
    """A grid of cells `LABELLED: ENCODER`, run in the order given; ENCODER is `scratch`, `round N` of the pretraining,
    or one of `encoders`. Each is fine-tuned with every one of `seeds`, all cells with the first before the next.

    Scratch has random weights in the shape of what it stands beside (`benchmarks.low_resource_scratch`).

    The data folder holds the audio (`corpus`: a folder in the LibriSpeech layout, or a manifest) and, in `splits`, text
    files of utterance ids. Where no cell is of a round, there is no pretraining: `pretrain` (but for the shape of
    scratch), `unlabelled`, `aligned` and `alignments` play no part.
    """

    SETS_ITSELF: ClassVar[tuple[str, ...]] = (*(f"pretrain.{name}" for name in OF_A_PRETRAINING),
                                              *(f"finetune.{name}" for name in OF_THE_COMPARISON))  # none may be given

    corpus: str = "LibriSpeech"  # in the data folder: a folder in the LibriSpeech layout, or a manifest
    splits: str = "splits"  # in the data folder: text files of utterance ids
    unlabelled: str = "train"  # split that is pretrained on
    dev: str = "dev"  # split for validation and weights
    test: str = "test"  # split that is scored
    aligned: str | None = None  # split that the PNMI probe reads
    alignments: str | None = None  # folder of its TextGrid or CTM files
    seed: int = 0  # of the pretraining, and of what is drawn for intervals
    seeds: tuple[int, ...] = ()  # of the fine-tunings; `seed` alone, if none are given
    pretrain: PretrainRecipe = field(default_factory=PretrainRecipe)
    finetune: FinetuneRecipe = field(default_factory=FinetuneRecipe)
    lm: LanguageModelRecipe = field(default_factory=LanguageModelRecipe)
    decoding: BeamSearchRecipe = field(default_factory=BeamSearchRecipe)
    labelled: dict[str, LabelledRecipe] = field(default_factory=dict)
    encoders: dict[str, OtherEncoderRecipe] = field(default_factory=dict)
    # what is trained, in this order: `1h: scratch`, `1h: round 2`, `all: NAME` of `encoders`; must be given
    cells: tuple[str, ...] = ()
    baseline: str | None = None  # what others are compared with besides scratch: NAME or `round N`

    def __post_init__(self) -> None:
        for part, defaults, names in ((self.pretrain, PretrainRecipe(), OF_A_PRETRAINING),
                                      (self.finetune, FinetuneRecipe(), OF_THE_COMPARISON)):
            for name in names:
                if getattr(part, name) != getattr(defaults, name):
                    key = "pretrain" if part is self.pretrain else "finetune"
                    raise ValueError(f"{key}.{name}: {_SETS_IT}")
        for name in self.labelled:
            if not _FOLDER.fullmatch(name):
                raise ValueError(f"labelled: {name!r} names a folder; use letters, digits, points and hyphens")
        for name, other in self.encoders.items():
            _check_other(name, other)
        self._check_splits()
        self._check_cells([parse_cell(cell, self) for cell in self.cells])

    def _check_splits(self) -> None:
        splits = {"unlabelled": self.unlabelled, "dev": self.dev, "test": self.test, "aligned": self.aligned or ""}
        for key, split in (splits | {f"labelled.{n}.split": a.split for n, a in self.labelled.items()}).items():
            if Path(split).name != split:  # it would be written outside of the run
                raise ValueError(f"{key}={split}: must be the name of a file in `splits`, without folders and `.txt`")

    def _check_cells(self, cells: list[Cell]) -> None:
        if twice := [cell for cell, meant in zip(self.cells, cells) if cells.count(meant) > 1]:
            raise ValueError(f"cells: {twice[0]!r} is there more than once")
        if again := [seed for seed in self.seeds if self.seeds.count(seed) > 1]:
            raise ValueError(f"seeds: {again[0]} is there more than once")
        folders: dict[str, Cell] = {}
        for cell, seed in self.trainings:
            other = folders.setdefault(self.folder(cell, seed), cell)
            if other != cell:
                raise ValueError(f"cells: `{other.labelled}: {other.encoder}` and `{cell.labelled}: {cell.encoder}` "
                                 f"would share the folder {self.folder(cell, seed)}; give one of them another name")
        encoders = list(dict.fromkeys(cell.encoder for cell in cells))
        if self.baseline is not None and cells and self.baseline not in encoders:
            raise ValueError(f"baseline={self.baseline}: no cell has it; give one of {', '.join(encoders)}")

    def check_given(self) -> None:
        """Raise RecipeError where there is nothing to compare: a recipe that has everything else can be shown without
        it."""
        if not self.cells:
            raise RecipeError("cells: give at least one, for instance `1h: scratch`")

    def settled(self, named: Named) -> LowResourceRecipe:
        """What was meant: a word for `finetune` counts also for amounts of labels and encoders that the file gave a
        value of their own, and one for `pretrain` as in a pretraining."""

        def own(part: str, values: dict[str, Any]) -> dict[str, Any]:
            return named.yielding(f"{part}.finetune", "finetune", values)

        labelled = {name: replace(amount, finetune=own(f"labelled.{name}", amount.finetune))
                    for name, amount in self.labelled.items()}
        encoders = {name: replace(other, finetune=own(f"encoders.{name}", other.finetune))
                    for name, other in self.encoders.items()}
        return replace(self, labelled=labelled, encoders=encoders,
                       pretrain=self.pretrain.settled(named.below("pretrain")))

    @property
    def parsed_cells(self) -> list[Cell]:
        """The cells in their order."""
        return [parse_cell(cell, self) for cell in self.cells]

    @property
    def trainings(self) -> list[tuple[Cell, int]]:
        """Every fine-tuning and its seed in the order of work: all cells with one seed, then with the next."""
        return [(cell, seed) for seed in self.seeds or (self.seed,) for cell in self.parsed_cells]

    @property
    def rounds_wanted(self) -> int:
        """The last round that a cell wants; 0: there is no pretraining."""
        return max((cell.round for cell in self.parsed_cells), default=0)

    @property
    def encoders_wanted(self) -> dict[str, OtherEncoderRecipe]:
        """Those from elsewhere that a cell has."""
        return {cell.encoder: self.encoders[cell.encoder] for cell in self.parsed_cells
                if cell.encoder in self.encoders}

    @property
    def device(self) -> str:
        """`cpu` where all trainings are to leave GPUs alone."""
        devices = {self.finetuning(cell.labelled, cell.encoder).device for cell in self.parsed_cells}
        return "cpu" if devices | ({self.pretrain.device} if self.rounds_wanted else set()) == {"cpu"} else "auto"

    def folder(self, cell: Cell, seed: int) -> str:
        """Name of a fine-tuning's folder: with the recipe's own seed that of a run that has no other."""
        return cell.folder(None if seed == self.seed else seed)

    def named(self, cell: Cell, seed: int) -> str:
        """What a fine-tuning is called where it is told: `1h: round 2, seed 5`."""
        return f"{cell.labelled}: {cell.encoder}" + f", seed {seed}" * (len(self.seeds) > 1)

    def finetuning(self, labelled: str, encoder: str = SCRATCH) -> FinetuneRecipe:
        """The fine-tuning of an encoder on an amount of labels. Raises RecipeError naming the key that cannot be
        changed so."""
        found = refine(self.finetune, self.labelled[labelled].finetune, f"labelled.{labelled}.finetune")
        if encoder not in self.encoders:
            return found
        return refine(found, self.encoders[encoder].finetune, f"encoders.{encoder}.finetune")


def micro_batches(recipe: LowResourceRecipe) -> list[int]:
    """How many micro-batches make an update, in every training of the grid: what ranks have to share."""
    return [training.accumulate for training in _trainings(recipe)]


def most_ranks(recipe: LowResourceRecipe) -> int:
    """How many ranks can share an update at most, in every training of the grid."""
    return min(training.most_ranks for training in _trainings(recipe))


def _trainings(recipe: LowResourceRecipe) -> list[TrainingRecipe]:
    pretraining = [r.training for r in rounds_of(recipe.pretrain)] if recipe.rounds_wanted else []
    return pretraining + [recipe.finetuning(cell.labelled, cell.encoder).training for cell in recipe.parsed_cells]


def parse_cell(cell: str, recipe: LowResourceRecipe) -> Cell:
    """`1h: round 2`, taken apart. Raises ValueError with what there is."""
    labelled, _, encoder = (part.strip() for part in cell.partition(":"))
    known = [SCRATCH, *(f"round {n}" for n in range(1, len(recipe.pretrain.rounds) + 1)), *recipe.encoders]
    if labelled not in recipe.labelled or encoder not in known:
        raise ValueError(f"cells: {cell!r} is none; expected LABELLED: ENCODER, LABELLED one of "
                         f"{', '.join(recipe.labelled)}, ENCODER one of {', '.join(known)}")
    return Cell(labelled, encoder)


def _check_other(name: str, other: OtherEncoderRecipe) -> None:
    """Raise ValueError where an encoder from elsewhere has a name that means something else, or is none."""
    if not _FOLDER.fullmatch(name):
        raise ValueError(f"encoders: {name!r} names a folder; use letters, digits, points and hyphens")
    if name == SCRATCH or _ROUND.fullmatch(name):
        raise ValueError(f"encoders: {name!r} means something else in a cell; give it another name")
    if other.encoder in ("", SCRATCH):
        raise ValueError(f"encoders.{name}.encoder={other.encoder}: must be given, a folder, a file or a model of the "
                         f"hub; what starts from random weights is a cell `LABELLED: {SCRATCH}`")
    for key in OF_THE_COMPARISON:
        if key in other.finetune:
            raise ValueError(f"encoders.{name}.finetune.{key}: {_SETS_IT}")
