"""What a self-training would do now, how long that takes and how much disk it needs, as far as that can be known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_trial import Shape
from downstream.recogniser import load_recogniser
from downstream.selftrain import decoding_settings, selftrain
from downstream.selftrain_bytes import data_bytes, emissions_bytes, recogniser_bytes, texts_bytes
from downstream.selftrain_recipe import SelftrainRecipe
from downstream.selftrain_stages import stage_names, stages_before, stages_needed, stages_read
from downstream.selftrain_start import Sets, check_selftrain
from downstream.text.vocabulary import Vocabulary
from upstream.audio.manifest import Manifest
from upstream.course import Course, following
from upstream.errors import HubertkitError
from upstream.model import read_description
from upstream.model.config import EncoderConfig
from upstream.model.loading import load_encoder
from upstream.outlook import Outlook, stages_seen
from upstream.recipe import as_settings
from upstream.round_encoders import shape_hash
from upstream.stage import read_stage
from upstream.stage_bytes import JSON
from upstream.training.monitor import read_metrics


@dataclass(frozen=True)
class Trials:
    """What is asked where nothing in the run says how fast something is done, once for the same shape: audio seconds a
    second, or None where that cannot be tried.

    Attributes:
        training: told `round1`, its fine-tuning, its recogniser's shape, and the seconds of an utterance.
        emissions: told `round1`, the recogniser's shape, and the seconds of an utterance.
    """

    training: Callable[[str, FinetuneRecipe, Shape, float], float | None] = lambda *given: None
    emissions: Callable[[str, Shape, float], float | None] = lambda *given: None


def outlook(recipe: SelftrainRecipe, out: Path, trials: Trials | None = None, first: str | None = None,
            last: str | None = None, sets: Sets | None = None) -> list[Outlook]:
    """Every stage of a run, in order; nothing is done and nothing is written.

    Args:
        first: the stage that is to be done anew, with those after it.
        last: the stage after which the run is to end. Those after it are looked at as well.
        sets: as `check_selftrain` gave them, where it was asked before.

    Raises what `selftrain` raises about a recipe or sets that cannot be used, and UsageError where a stage before
    `first` is not done.
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
    """Times and sizes of stages; `rates` are those that were tried."""

    recipe: SelftrainRecipe
    sets: Sets
    out: Path
    trials: Trials
    rates: dict[str, float | None] = field(default_factory=dict)

    def seconds(self, stage: Outlook) -> float | None:
        """What a stage took, or will take."""
        record, (number, kind) = read_stage(self.out / stage.stage), _parted(stage.stage)
        if stage.state == "done" and record is not None:
            return record.get("seconds")
        if kind == "recogniser":
            return self._training_seconds(number, stage)
        if kind == "dev-emissions":
            return self._emission_seconds(number, self.sets.dev)
        if kind == "emissions":
            return self._emission_seconds(number - 1, self.sets.unlabelled)
        if kind in _HEARD:
            return self._decoding_seconds(kind)
        return next((found.get("seconds") for _, found in self._done(kind)), None)

    def bytes(self, stage: Outlook) -> int | None:
        """What a stage has, or will have at most at any time."""
        record, (number, kind) = read_stage(self.out / stage.stage), _parted(stage.stage)
        if stage.state == "done" and record is not None:
            return record.get("bytes")
        if kind == "recogniser":
            return recogniser_bytes(self._finetuning(number), self._shape(number))
        if kind == "dev-emissions":
            return emissions_bytes(self.sets.dev, self._shape(number))
        if kind == "tuned":
            return texts_bytes(self.recipe, self.sets.dev, self._shape(number))
        teacher = self._shape(number - 1)
        if kind == "emissions":
            return emissions_bytes(self.sets.unlabelled, teacher)
        if kind == "hypotheses":
            return texts_bytes(self.recipe, self.sets.unlabelled, teacher)
        return data_bytes(self.recipe, self.sets, teacher) if kind == "data" else JSON

    def _finetuning(self, number: int) -> FinetuneRecipe:
        return self.recipe.studying("", "") if number else self.recipe.teaching()

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

    def _done(self, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The stages of a kind that are done in this run, whatever has changed since, and their records."""
        for folder in sorted(self.out.glob(f"round*/{kind}")):
            record = read_stage(folder)
            if record is not None and record["state"] == "done":
                yield folder, record

    def _training_seconds(self, number: int, stage: Outlook) -> float | None:
        """What is left of the updates, at the median speed of such trainings in this run, or that of a trial."""
        folder, recipe = self.out / stage.stage, self._finetuning(number).training
        logs = {other for other, record in self._done("recogniser") if self._trains_alike(number, other, record)}
        going_on = [] if stage.state != "unfinished" else read_metrics(folder, "train")
        records = [r for log in sorted(logs) for r in read_metrics(log, "train")] + going_on
        speeds = [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
        if not speeds and (rate := self._tried_training(number)):
            speeds = [rate]
        if not speeds:
            return None
        done = going_on[-1]["update"] if going_on and not stage.anew else 0
        return (recipe.updates - done) * recipe.batch_seconds / float(np.median(speeds))

    def _trains_alike(self, number: int, folder: Path, record: dict[str, Any]) -> bool:
        """Whether a stage trained a recogniser of a round's shape, in its precision and micro-batches."""
        before, now = record["settings"], self._finetuning(number)
        return (_shape_there(folder, record) == _known_by(self._shape(number)) and before["frozen"] == now.frozen
                and all(before["training"].get(name) == getattr(now.training, name)
                        for name in ("precision", "micro_batch_seconds")))

    def _tried_training(self, number: int) -> float | None:
        now, shape = self._finetuning(number), self._shape(number)
        key = repr(("training", now.frozen, now.training.precision, now.training.micro_batch_seconds,
                    _known_by(shape)))
        if key not in self.rates:
            self.rates[key] = self.trials.training(f"round{number}", now, shape, _each(self.sets.labelled))
        return self.rates[key]

    def _emission_seconds(self, number: int, manifest: Manifest) -> float | None:
        """At the rate at which recognisers of this shape have emitted for the most audio in this run, or that of a
        trial.

        Args:
            number: of the round of the recogniser.
        """
        wanted, audio = _known_by(self._shape(number)), {m.hash: m.seconds for m in (self.sets.dev,
                                                                                    self.sets.unlabelled)}
        shapes = {record["result"]["hash"]: _shape_there(folder, record) for folder, record in self._done("recogniser")}
        if self._given is not None and self.sets.teacher_hash is not None:
            shapes[self.sets.teacher_hash] = _known_by(self._given)
        measured = [(audio[record["inputs"]["recordings"]], record["seconds"])
                    for kind in _HEARD.values() for _, record in self._done(kind)
                    if shapes.get(record["inputs"]["recogniser"]) == wanted
                    and record["inputs"]["recordings"] in audio]
        if measured:
            heard, taken = max(measured)
            return manifest.seconds * taken / heard
        key = repr(("emissions", wanted))
        if key not in self.rates:
            self.rates[key] = self.trials.emissions(f"round{number}", self._shape(number), _each(manifest))
        rate = self.rates[key]
        return None if rate is None else manifest.seconds / rate

    def _decoding_seconds(self, kind: str) -> float | None:
        """What a stage took in this run that decoded the same recordings by the same decoder, whatever its weights."""
        recordings = (self.sets.dev if kind == "tuned" else self.sets.unlabelled).hash
        decoder, tuning = _unweighted(decoding_settings(self.recipe)), as_settings(self.recipe.tuning)
        for folder, record in self._done(kind):
            heard, before = read_stage(folder.parent / _HEARD[kind]), record["settings"]
            if (heard is not None and heard["inputs"]["recordings"] == recordings
                    and _unweighted(before["decoding"]) == decoder
                    and record["inputs"].get("lm") == self.sets.lm_hash
                    and before.get("tuning", {}) in ({}, tuning)):
                return record.get("seconds")
        return None


_HEARD = {"tuned": "dev-emissions", "hypotheses": "emissions"}  # what stages that decode are made of
_Known = tuple[str, dict[str, Any]]  # of a recogniser: its encoder's shape and its head


def _parted(name: str) -> tuple[int, str]:
    """(1, "data") of `round1/data`."""
    folder, _, kind = name.partition("/")
    return int(folder.removeprefix("round")), kind


def _known_by(shape: Shape) -> _Known:
    return shape_hash(shape.encoder), shape.head.settings()


def _shape_there(folder: Path, record: dict[str, Any]) -> _Known | None:
    """Of a recogniser in the stage that trained it; None where its description is not whole, as is said when it is
    loaded."""
    try:
        shape = shape_hash(EncoderConfig.from_dict(dict(read_description(folder)["encoder"])))
    except (HubertkitError, KeyError, TypeError, ValueError):
        return None
    return shape, record["settings"].get("head", {})


def _unweighted(decoding: dict[str, Any]) -> dict[str, Any]:
    """Settings of a decoder, as JSON has them, without the weights of its language model."""
    found = json.loads(json.dumps(decoding, default=str))
    return {name: value for name, value in found.items() if name not in ("lm_weight", "word_score")}


def _each(manifest: Manifest) -> float:
    """Seconds of an utterance."""
    return manifest.seconds / max(1, len(manifest))
