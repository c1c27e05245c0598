"""What a low-resource comparison would find wrong hours later, looked for before its first cell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.evaluation import references
from benchmarks.low_resource_recipe import Cell, LowResourceRecipe
from benchmarks.low_resource_scratch import scratch_encoder
from benchmarks.low_resource_splits import Splits
from downstream.decode.alphabet import alphabet
from downstream.decode.word_model import MODEL, check_coverage, check_language_model
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_start import check_layers, check_start, chosen_vocabulary, encoded
from downstream.lm.reading import read_words
from downstream.text.vocabulary import Vocabulary, spelled_as
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.model.config import EncoderConfig
from upstream.pretrain import check_sources, hold_out
from upstream.pretrain_recipe import PretrainRecipe, Round, outside_encoders, rounds_of
from upstream.recipe import refine
from upstream.round_data import check_data
from upstream.round_encoders import EncoderFile, read_outside, refuse_own
from upstream.round_teacher import blamed_on
from upstream.training.monitor import check_wandb

# In the comparison's folder: those of the pretraining and of the fine-tunings, and stages before them.
PRETRAINING, CELLS, SPLITS, LM = "pretrain", "cells", "splits", "lm"
RECOGNISER = "recogniser"  # stage of a cell that trains


@dataclass(frozen=True)
class Planned:
    """The encoders of a comparison: the rounds of its pretraining, none where no cell has one, and by name those from
    elsewhere, as files and as what they are."""

    rounds: list[Round] = field(default_factory=list)
    files: dict[str, EncoderFile] = field(default_factory=dict)
    outside: dict[str, EncoderConfig] = field(default_factory=dict)


def check_trainings(recipe: LowResourceRecipe, data: Path, splits: Splits, out: Path) -> Planned:
    """What a later cell would find wrong with its trainings is said before the first: scratch may take hours.

    Raises:
        HubertkitError: naming the cell, or the key of the recipe.
    """
    pretraining, rounds = pretrain_recipe(recipe, data, splits), list[Round]()
    if recipe.rounds_wanted:
        refuse_own(pretraining, out / PRETRAINING)
        _, outside = read_outside(outside_encoders(pretraining))
        rounds = rounds_of(pretraining, outside)
        check_sources(pretraining, rounds, outside)
    planned = Planned(rounds, *_read_encoders(recipe, out))
    check_finetunings(recipe, rounds, planned.outside)
    for cell in recipe.parsed_cells:
        with blamed_on(f"cell '{cell.labelled}: {cell.encoder}'"):
            source = cell.encoder if cell.encoder not in recipe.encoders else recipe.encoders[cell.encoder].encoder
            _check_texts(finetuning(recipe, splits, cell, recipe.seed, source, planned), splits.manifests[recipe.test],
                         out / CELLS / cell.folder() / RECOGNISER)
    if recipe.rounds_wanted:
        recordings = splits.manifests[recipe.unlabelled]
        train, _ = hold_out(recordings, pretraining.valid_share, pretraining.seed)
        check_data(rounds[:recipe.rounds_wanted], pretraining.probe, recordings, train)
    return planned


def check_finetunings(recipe: LowResourceRecipe, rounds: Sequence[Round],
                      outside: Mapping[str, EncoderConfig] | None = None) -> None:
    """Raise RecipeError or UsageError naming the first cell whose fine-tuning asks for what its encoder cannot have.

    Args:
        rounds: of the pretraining; none are needed where no cell has one.
        outside: what the encoders from elsewhere are, by name.
    """
    for cell in recipe.parsed_cells:
        asked = recipe.finetuning(cell.labelled, cell.encoder)
        check_wandb(asked.training.wandb)
        with blamed_on(f"cell '{cell.labelled}: {cell.encoder}'"):
            if cell.encoder == SCRATCH:
                shape = scratch_encoder(recipe, cell.labelled, rounds, outside)
            else:
                shape = rounds[cell.round - 1].encoder if cell.round else (outside or {})[cell.encoder]
            refine(shape, asked.changes, "finetune.changes")
            check_layers(replace(asked, encoder=cell.encoder), shape.layers)


def check_lm_text(recipe: LowResourceRecipe, splits: Splits, text: Path) -> None:
    """Raise what `check_lm` would of the model of a text, and as `read_words`: by its beginning, where there is enough
    in that."""
    def enough(words: set[str]) -> bool:
        try:
            check_lm(recipe, splits, words)
        except InputError:
            return False
        return True

    check_lm(recipe, splits, read_words(text, enough))


def check_lm(recipe: LowResourceRecipe, splits: Splits, words: Collection[str]) -> None:
    """Raise InputError naming the first cell whose recogniser could not spell the words of the language model, or that
    could not be tuned on dev for the words that the model lacks."""
    spelt = set[Vocabulary]()
    texts = references(splits.manifests[recipe.dev]).values()
    for cell in recipe.parsed_cells:
        found = chosen_vocabulary(recipe.finetuning(cell.labelled, cell.encoder),
                                  splits.manifests[recipe.labelled[cell.labelled].split])
        if found not in spelt:
            with blamed_on(f"lm.text, cell '{cell.labelled}: {cell.encoder}'"):
                letters = alphabet(found.symbols, found.blank)
                check_language_model(words, letters)
                check_coverage(MODEL, words, [spelled_as(text, letters.letters) for text in texts],
                               unit=recipe.decoding.unit)
            spelt.add(found)


def finetuning(recipe: LowResourceRecipe, splits: Splits, cell: Cell, seed: int, source: str,
               planned: Planned) -> FinetuneRecipe:
    """What a cell trains.

    Args:
        source: `scratch`, or whatever an encoder is read from.
    """
    shape = recipe.pretrain.encoder
    if source == SCRATCH:
        shape = scratch_encoder(recipe, cell.labelled, planned.rounds, planned.outside)
    return replace(recipe.finetuning(cell.labelled, cell.encoder),
                   data=str(splits.file(recipe.labelled[cell.labelled].split)), dev=str(splits.file(recipe.dev)),
                   encoder=source, architecture=shape, seed=seed)


def pretrain_recipe(recipe: LowResourceRecipe, data: Path, splits: Splits) -> PretrainRecipe:
    """The comparison's pretraining, as `hubertkit pretrain` takes it. Raises UsageError: the recipe's alignments are
    not there."""
    probe = recipe.pretrain.probe
    if recipe.alignments is not None:
        alignments = data / recipe.alignments
        if not alignments.is_dir():
            raise UsageError(f"{alignments}: no such folder; the recipe's alignments lie below the folder of data "
                             "(--data)")
        manifest = str(splits.file(recipe.aligned)) if recipe.aligned else None
        probe = replace(probe, manifest=manifest, alignments=str(alignments))
    elif probe.alignments is None:
        probe = replace(probe, layers=())  # those that the file names are for its alignments
    return replace(recipe.pretrain, data=str(splits.file(recipe.unlabelled)), probe=probe, seed=recipe.seed)


def _read_encoders(recipe: LowResourceRecipe, out: Path) -> tuple[dict[str, EncoderFile], dict[str, EncoderConfig]]:
    """The encoders from elsewhere, each read once."""
    files: dict[str, EncoderFile] = {}
    configs: dict[str, EncoderConfig] = {}
    first: dict[str, str] = {}  # source: the first name that it has
    for name, other in recipe.encoders_wanted.items():
        known = first.setdefault(other.encoder, name)
        with blamed_on(f"encoders.{name}"):
            _refuse_own_encoder(other.encoder, out)
            if known == name:
                found, shapes = read_outside([other.encoder])
                files[name], configs[name] = found[other.encoder], shapes[other.encoder]
        files[name], configs[name] = files[known], configs[known]
    return files, configs


def _refuse_own_encoder(source: str, out: Path) -> None:
    for own in (PRETRAINING, CELLS):
        if Path(source).resolve().is_relative_to((out / own).resolve()):
            raise UsageError(f"{source}: this very comparison makes it, and may make it anew; let the cell have `round "
                             f"N`, or copy it out of {out} and name the copy")


def _check_texts(recipe: FinetuneRecipe, test: Manifest, out: Path) -> None:
    """Whether what is to be learnt and what is scored can be written."""
    manifest, _, vocabulary = check_start(recipe, out)
    encoded(manifest, vocabulary, recipe)
    odd = []
    for utterance, text in references(test).items():
        try:
            vocabulary.encode(text)
        except InputError as error:
            odd.append(f"{utterance}: {error}")
    if 2 * len(odd) > len(test):  # as of dev: its error rate would stay at 100
        raise InputError(f"test, {odd[0]}")
