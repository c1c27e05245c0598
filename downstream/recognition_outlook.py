"""How long fine-tunings and emissions that are ahead take, by what a run has done or by a trial (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from downstream.finetune_recipe import FinetuneRecipe
from downstream.finetune_task import update_seconds
from downstream.finetune_trial import Shape
from upstream.audio.manifest import Manifest
from upstream.errors import HubertkitError
from upstream.frames import SAMPLE_RATE
from upstream.model import read_description
from upstream.model.config import EncoderConfig
from upstream.outlook import Outlook
from upstream.round_encoders import shape_hash
from upstream.stage import read_stage
from upstream.training.monitor import read_metrics

RECOGNISER = "recogniser"  # the stage that trains one
Known = tuple[str, dict[str, Any]]  # of a recogniser: its encoder's shape and its head


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


@dataclass(frozen=True)
class Paces:
    """How fast recognisers of a run are trained and emit.

    Attributes:
        folders: of the run, each with a recogniser and what it emitted, as far as they are there: `round1`.
        trials: what is asked where nothing there says.
        emitting: the stages that emit.
        heard: what the recordings are called among the inputs of these.
        given: recognisers from elsewhere, by their hash.
        rates: those that were tried.
    """

    folders: Sequence[Path]
    trials: Trials
    emitting: Sequence[str]
    heard: str
    given: Mapping[str, Known] = field(default_factory=dict)
    rates: dict[str, float | None] = field(default_factory=dict)

    def done(self, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The stages of a kind that are done in this run, whatever has changed since, and their records."""
        for folder in self.folders:
            record = read_stage(folder / kind)
            if record is not None and record["state"] == "done":
                yield folder / kind, record

    def training_seconds(self, name: str, stage: Outlook, folder: Path, recipe: FinetuneRecipe, shape: Shape,
                         lengths: np.ndarray) -> float | None:
        """What is left of the updates, at the median speed of such trainings in this run, or that of a trial.

        Args:
            name: for a trial.
            stage: that trains.
            folder: of the stage.
            lengths: (N,) samples of the utterances that are trained on, as far as they are known.
        """
        logs = {other for other, record in self.done(RECOGNISER) if _trains_alike(other, record, recipe, shape)}
        going_on = [] if stage.state != "unfinished" else read_metrics(folder, "train")
        records = [r for log in sorted(logs) for r in read_metrics(log, "train")] + going_on
        speeds = [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
        if not speeds and (rate := self._tried_training(
                name, recipe, shape, float(lengths.sum()) / SAMPLE_RATE / max(1, len(lengths)))):
            speeds = [rate]
        if not speeds:
            return None
        done = going_on[-1]["update"] if going_on and not stage.anew else 0
        audio = (recipe.training.updates - done) * update_seconds(lengths, shape.encoder, recipe)
        return audio / float(np.median(speeds))

    def emission_seconds(self, name: str, shape: Shape, manifest: Manifest,
                         manifests: Sequence[Manifest]) -> float | None:
        """At the rate at which recognisers of this shape have emitted for the most audio in this run, or that of a
        trial.

        Args:
            name: for a trial.
            manifests: of which the run has emissions, perhaps.
        """
        wanted, audio = known_by(shape), {one.hash: one.seconds for one in manifests}
        shapes: dict[str, Known | None] = {record["result"]["hash"]: _shape_there(folder, record)
                                           for folder, record in self.done(RECOGNISER)}
        shapes |= self.given
        measured = [(audio[record["inputs"][self.heard]], record["seconds"])
                    for kind in self.emitting for _, record in self.done(kind)
                    if shapes.get(record["inputs"]["recogniser"]) == wanted and record["inputs"][self.heard] in audio]
        if measured:
            heard, taken = max(measured)
            return manifest.seconds * taken / heard
        key = repr(("emissions", wanted))
        if key not in self.rates:
            self.rates[key] = self.trials.emissions(name, shape, each_seconds(manifest))
        rate = self.rates[key]
        return None if rate is None else manifest.seconds / rate

    def _tried_training(self, name: str, recipe: FinetuneRecipe, shape: Shape, each: float) -> float | None:
        key = repr(("training", recipe.frozen, recipe.training.precision, recipe.training.micro_batch_seconds,
                    known_by(shape)))
        if key not in self.rates:
            self.rates[key] = self.trials.training(name, recipe, shape, each)
        return self.rates[key]


def known_by(shape: Shape) -> Known:
    """What tells how fast a recogniser is, whatever its vocabulary."""
    return shape_hash(shape.encoder), shape.head.settings()


def each_seconds(manifest: Manifest) -> float:
    """Seconds of an utterance."""
    return manifest.seconds / max(1, len(manifest))


def _trains_alike(folder: Path, record: dict[str, Any], recipe: FinetuneRecipe, shape: Shape) -> bool:
    """Whether a stage trained a recogniser of this shape, in this precision and these micro-batches."""
    before = record["settings"]
    return (_shape_there(folder, record) == known_by(shape) and before["frozen"] == recipe.frozen
            and all(before["training"].get(name) == getattr(recipe.training, name)
                    for name in ("precision", "micro_batch_seconds")))


def _shape_there(folder: Path, record: dict[str, Any]) -> Known | None:
    """Of a recogniser in the stage that trained it; None where its description is not whole, as is said when it is
    loaded."""
    try:
        shape = shape_hash(EncoderConfig.from_dict(dict(read_description(folder)["encoder"])))
    except (HubertkitError, KeyError, TypeError, ValueError):
        return None
    return shape, record["settings"].get("head", {})
