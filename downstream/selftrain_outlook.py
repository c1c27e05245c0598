"""What a self-training would do now, how long that takes and how much disk it needs, as far as that can be known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_trial import Shape
from downstream.recogniser import load_recogniser
from downstream.recognition_bytes import data_bytes, emissions_bytes, recogniser_bytes, texts_bytes
from downstream.recognition_outlook import RECOGNISER, Paces, Trials, known_by
from downstream.selftrain import decoding_settings, selftrain
from downstream.selftrain_recipe import SelftrainRecipe
from downstream.selftrain_stages import stage_names, stages_before, stages_needed, stages_read
from downstream.selftrain_start import Sets, check_selftrain
from downstream.text.vocabulary import Vocabulary
from upstream.audio.manifest import Manifest
from upstream.course import Course, following
from upstream.model.config import EncoderConfig
from upstream.model.loading import load_encoder
from upstream.outlook import Outlook, stages_seen
from upstream.recipe import as_settings
from upstream.stage import as_recorded, read_stage
from upstream.stage_bytes import JSON


def outlook(recipe: SelftrainRecipe, out: Path, trials: Trials | None = None, first: str | None = None,
            last: str | None = None, sets: Sets | None = None) -> list[Outlook]:
    """Every stage of a run, in order; nothing is done and nothing is written.

    Args:
        first: the stage that is to be done anew, with those after it.
        last: the stage after which the run is to end. Those after it are looked at as well.
        sets: as `check_selftrain` gave them, where it was asked before.

    Raises what `selftrain` raises about a recipe or sets that cannot be used, UsageError where a stage before `first`
    is not done, and BusyError where a process works in `out`: what would be tried beside it is slower than it is alone.
    """
    sets = sets or check_selftrain(recipe, out, lambda line: None)
    names = stage_names(recipe, sets)
    reads = stages_read(recipe, names)
    course = Course(out, first, last, look=True, needed=stages_needed(names))
    course.check(names)
    with following(course):
        selftrain(recipe, out, lambda line: None, sets)
    ahead = _Ahead(recipe, sets, out, trials or Trials())
    return [replace(seen, seconds=ahead.seconds(seen), bytes=ahead.bytes(seen))
            for seen in stages_seen(course, names, lambda name: stages_before(name, reads))]


@dataclass(frozen=True)
class _Ahead:
    """Times and sizes of stages."""

    recipe: SelftrainRecipe
    sets: Sets
    out: Path
    trials: Trials

    def seconds(self, stage: Outlook) -> float | None:
        """What a stage took, or will take."""
        if stage.state == "done":
            return stage.seconds
        number, kind = _parted(stage.stage)
        if kind == RECOGNISER:
            return self._paces.training_seconds(f"round{number}", stage, self.out / stage.stage,
                                                self._finetuning(number), self._shape(number), self._lengths(number))
        if kind == "dev-emissions":
            return self._emission_seconds(number, self.sets.dev)
        if kind == "emissions":
            return self._emission_seconds(number - 1, self.sets.unlabelled)
        if kind in _HEARD:
            return self._decoding_seconds(kind)
        return next((found.get("seconds") for _, found in self._paces.done(kind)), None)

    def bytes(self, stage: Outlook) -> int | None:
        """What a stage has, or will have at most at any time."""
        if stage.state == "done":
            return stage.bytes
        number, kind = _parted(stage.stage)
        if kind == RECOGNISER:
            return recogniser_bytes(self._finetuning(number), self._shape(number))
        if kind == "dev-emissions":
            return emissions_bytes(self.sets.dev, self._shape(number))
        if kind == "tuned":
            return texts_bytes(self.sets.dev, self._shape(number), self.recipe.decoding.nbest)
        teacher = self._shape(number - 1)
        if kind == "emissions":
            return emissions_bytes(self.sets.unlabelled, teacher)
        if kind == "hypotheses":
            return texts_bytes(self.sets.unlabelled, teacher, self.recipe.decoding.nbest)
        return JSON if kind != "data" else data_bytes(self.sets.labelled, self.recipe.labelled_repeats,
                                                      self.sets.unlabelled, teacher)

    def _finetuning(self, number: int) -> FinetuneRecipe:
        return self.recipe.studying("", "") if number else self.recipe.teaching()

    def _lengths(self, number: int) -> np.ndarray:
        """(N,) samples of what a round's recogniser learns from, for a student as if every pseudo label were kept."""
        labelled = self.sets.labelled.lengths
        return np.concatenate([*[labelled] * self.recipe.labelled_repeats, self.sets.unlabelled.lengths]) \
            if number else labelled

    def _shape(self, number: int) -> Shape:
        """Of a round's recogniser; a student has at most the symbols of the first teacher."""
        if number == 0 and self._given is not None:
            return self._given
        found = self._finetuning(number)
        vocabulary = Vocabulary.characters() if found.symbols == "english" else self.sets.vocabulary
        if number and self.recipe.start == "recogniser":
            encoder = self._shape(number - 1).encoder
        else:
            encoder = found.architecture if self.recipe.encoder == SCRATCH else self._encoder
        return Shape(encoder, found.head, len(vocabulary.symbols))

    @cached_property
    def _encoder(self) -> EncoderConfig:
        return load_encoder(self.recipe.encoder).config

    @cached_property
    def _given(self) -> Shape | None:
        """Of the first teacher, where it is given."""
        if self.recipe.recogniser is None:
            return None
        model, vocabulary = load_recogniser(Path(self.recipe.recogniser))
        return Shape(model.encoder.config, model.recipe, len(vocabulary.symbols))

    @cached_property
    def _paces(self) -> Paces:
        given = {} if self._given is None or self.sets.teacher_hash is None else {
            self.sets.teacher_hash: known_by(self._given)}
        return Paces(sorted(self.out.glob("round*")), self.trials, list(_HEARD.values()), "recordings", given)

    def _emission_seconds(self, number: int, manifest: Manifest) -> float | None:
        """Of the recogniser of a round."""
        return self._paces.emission_seconds(f"round{number}", self._shape(number), manifest,
                                            [self.sets.dev, self.sets.unlabelled])

    def _decoding_seconds(self, kind: str) -> float | None:
        """What a stage took in this run that decoded the same recordings by the same decoder, whatever its weights."""
        recordings = (self.sets.dev if kind == "tuned" else self.sets.unlabelled).hash
        decoder, tuning = _unweighted(decoding_settings(self.recipe)), as_settings(self.recipe.tuning)
        for folder, record in self._paces.done(kind):
            heard, before = read_stage(folder.parent / _HEARD[kind]), record["settings"]
            if (heard is not None and heard["inputs"]["recordings"] == recordings
                    and _unweighted(before["decoding"]) == decoder
                    and record["inputs"].get("lm") == self.sets.lm_hash
                    and before.get("tuning", {}) in ({}, tuning)):
                return record.get("seconds")
        return None


_HEARD = {"tuned": "dev-emissions", "hypotheses": "emissions"}  # what stages that decode are made of


def _parted(name: str) -> tuple[int, str]:
    """(1, "data") of `round1/data`."""
    folder, _, kind = name.partition("/")
    return int(folder.removeprefix("round")), kind


def _unweighted(decoding: dict[str, Any]) -> dict[str, Any]:
    """Settings of a decoder, as a record has them, without the weights of its language model."""
    return {name: value for name, value in as_recorded(decoding).items() if name not in ("lm_weight", "word_score")}
