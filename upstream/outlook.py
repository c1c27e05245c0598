"""What a pretraining would do now, how long that takes and how much disk it needs, as far as that can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from upstream.audio.manifest import Manifest
from upstream.course import Course, State, following
from upstream.disk import read_json
from upstream.model.config import EncoderConfig
from upstream.pretrain import check_sources, pretrain
from upstream.pretrain_crops import update_seconds
from upstream.pretrain_recipe import (
    SWITCHES,
    PretrainRecipe,
    Round,
    dimensions_read,
    encoders_read_by,
    outside_encoders,
    rounds_of,
    weights_of,
)
from upstream.round_encoders import read_outside, refuse_own, shape_hash
from upstream.run_stages import encoder_inputs, stage_names, stages_before, stages_read
from upstream.stage import read_stage
from upstream.stage_bytes import most_bytes
from upstream.training.monitor import read_metrics

TEACHER_KINDS = ("teacher", "units")  # stages, in the order of a teacher trial's answer


@dataclass(frozen=True)
class Outlook:
    """A stage, and what is ahead of it.

    Attributes:
        state: `depends` where a stage that it is made of is to be done first: what that gives decides.
        why: it is stale, or depends.
        seconds: it took, or will take at the rates measured in this run so far, or in a trial; None if nobody knows.
        bytes: it has, or will have at most at any time; None if nobody knows.
        anew: it is done or unfinished, and will be begun anew, as was asked.
    """

    stage: str
    state: State | str
    why: str
    seconds: float | None
    bytes: int | None
    anew: bool = False


Trial = Callable[[Round], float | None]  # audio seconds a second that a round trains at, as far as that can be tried
# Seconds of a round's teacher and of its units: of the round, the encoders that it reads, and (N,) samples.
TeacherTrial = Callable[[Round, list[EncoderConfig], np.ndarray], tuple[float, float] | None]


def outlook(recipe: PretrainRecipe, out: Path, trial: Trial = lambda round_: None,
            teacher_trial: TeacherTrial = lambda round_, shapes, lengths: None,
            first: str | None = None, last: str | None = None) -> list[Outlook]:
    """Every stage of a run, in order; nothing is done and nothing is written.

    Args:
        trial: asked where nothing in the run says how fast a round trains, once for rounds of the same shape.
        teacher_trial: asked once a round where nothing in the run says how long its teacher or units take.
        first: the stage that is to be done anew, with those after it.
        last: the stage after which the run is to end. Those after it are looked at as well, but not tried.

    Raises what `pretrain` raises about a recipe or recordings that cannot be used, and UsageError where a stage before
    `first` is not done.
    """
    refuse_own(recipe, out)
    outside = read_outside(outside_encoders(recipe))[1]
    rounds = rounds_of(recipe, outside)
    check_sources(recipe, rounds, outside)
    names = stage_names(recipe, rounds)
    expected = _Expected(rounds, outside, out, known_manifest(recipe, out), trial, teacher_trial)
    course = Course(out, first, last, look=True, needed=frozenset(names[:1]))
    course.check(names)
    with following(course):
        if out.is_dir():
            pretrain(recipe, out, lambda line: None)
        else:
            course.arrive(out / names[0], "to do", "", {})
    reads, found = stages_read(rounds), list[Outlook]()
    for seen in stages_seen(course, names, lambda name: stages_before(name, names, reads)):
        found.append(seen if seen.state == "done" else expected.of(seen))
        if seen.stage == course.last:
            expected.try_no_more()
    return found


def stages_seen(course: Course, names: Sequence[str], before: Callable[[str], set[str]],
                others: Sequence[Outlook] = ()) -> list[Outlook]:
    """What a look came to see of every stage of a run, in order; of time and disk what those took and have that are
    done, and nothing yet of the others.

    Args:
        course: of the look, that is over.
        names: of all stages.
        before: the stages that one is made of, and those that these are made of.
        others: stages that were looked at by themselves, and that these may be made of.
    """
    steps = {step.name: step for step in course.steps}
    found: list[Outlook] = []
    for name in names:
        step, made_of, record = steps.get(name), before(name), read_stage(course.root / name)
        state, why = ("to do", "") if step is None else (step.state, step.why)
        waits = next((other.stage for other in (*others, *found)
                      if other.stage in made_of and other.state != "done"), None)
        if waits is not None and record is not None:
            state, why = "depends", f"on {waits}"
        anew = step is not None and step.anew and state != "depends"
        done = record if state == "done" and record is not None else {}
        found.append(Outlook(name, state, why, done.get("seconds"), done.get("bytes"), anew))
    return found


class _Expected:
    """Time and disk that stages will take which are ahead: as such stages of this run did, or as a trial says."""

    def __init__(self, rounds: list[Round], outside: Mapping[str, EncoderConfig], out: Path, manifest: Path | None,
                 trial: Trial, teacher_trial: TeacherTrial) -> None:
        self._rounds, self._outside, self._out, self._manifest = rounds, outside, out, manifest
        self._lengths = None if manifest is None else Manifest.load(manifest).lengths
        self._trial, self._teacher_trial = trial, teacher_trial
        self._rates: dict[str, float | None] = {}  # that were tried, by what they depend on
        self._teachers: dict[int, tuple[float, float] | None] = {}  # that were tried, by their rounds

    def try_no_more(self) -> None:
        """What this run does not know of the stages that follow stays unknown."""
        self._trial, self._teacher_trial = lambda round_: None, lambda round_, shapes, lengths: None
        self._rates, self._teachers = {}, {}

    def of(self, seen: Outlook) -> Outlook:
        """A stage that is not done, with the time and the disk that it will take."""
        number, _, kind = seen.stage.partition("/")
        if not kind:  # of no round
            return replace(seen, seconds=None, bytes=most_bytes(seen.stage, None, self._manifest, self._lengths, None))
        round_ = self._rounds[int(number.removeprefix("round")) - 1]
        if kind == "encoder":
            goes_on = seen.state == "unfinished" and not seen.anew
            seconds = self._training_seconds(round_, seen.stage if goes_on else None)
        else:
            seconds = self._other_seconds(round_, kind)
        dim = dimensions_read(round_, self._rounds, self._outside)
        return replace(seen, seconds=seconds, bytes=most_bytes(kind, round_, self._manifest, self._lengths, dim))

    def _training_seconds(self, round_: Round, unfinished: str | None) -> float | None:
        """What is left of the updates, at the median speed of such trainings in this run, or that of a trial."""
        speeds, done = [], 0
        for log in sorted(self._out.glob("round*/encoder/metrics.jsonl")):
            if not _trains_alike(read_stage(log.parent), round_):
                continue
            records = read_metrics(log.parent, "train")
            speeds += [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
            if unfinished is not None and log.parent == self._out / unfinished and records:
                done = records[-1]["update"]
        if not speeds and (rate := self._rate_tried(round_)):
            speeds = [rate]
        if not speeds:
            return None
        each = update_seconds(self._lengths, round_.encoder, round_.training, round_.mask)
        return (round_.training.updates - done) * each / float(np.median(speeds))

    def _rate_tried(self, round_: Round) -> float | None:
        training = round_.training  # how long it is, or at which rate it learns, takes no time
        shape = repr((round_.encoder, round_.mask, round_.has_teacher, training.batch_seconds, training.precision,
                      training.micro_batch_seconds, training.crop_seconds))
        if shape not in self._rates:
            self._rates[shape] = self._trial(round_)
        return self._rates[shape]

    def _other_seconds(self, round_: Round, kind: str) -> float | None:
        """Of a stage that trains nothing."""
        reads = encoders_read_by(round_, self._rounds, self._outside) if round_.teacher.features == "layer" else []
        shapes = [config for config in reads if config is not None]
        seconds = _like(self._out, kind, round_, shapes)
        if seconds is not None or kind not in TEACHER_KINDS or self._lengths is None:
            return seconds
        if round_.number not in self._teachers:
            self._teachers[round_.number] = self._teacher_trial(round_, shapes, self._lengths)
        tried = self._teachers[round_.number]
        return tried[TEACHER_KINDS.index(kind)] if tried else None


def _trains_alike(record: dict[str, Any] | None, round_: Round) -> bool:
    """Whether the stage of an encoder trained one of a round's shape, in its precision and micro-batches."""
    if record is None:
        return False
    before, now, training = record["settings"]["encoder"], weights_of(round_)["encoder"], record["settings"]["training"]
    return all(before.get(k) == now.get(k) for k in (before.keys() | now.keys()) - set(SWITCHES)) and all(
        training.get(name) == getattr(round_.training, name) for name in ("precision", "micro_batch_seconds"))


def known_manifest(recipe: PretrainRecipe, out: Path) -> Path | None:
    """That of the recordings of a run, where there is one: what is given now comes before what it has heard so far."""
    return next((p for p in (Path(recipe.data), out / "corpus" / "manifest.arrow") if p.is_file()), None)


def _like(out: Path, kind: str, round_: Round, reads: Sequence[EncoderConfig]) -> float | None:
    """What a stage of the same kind took in another round, where the teacher reads the same sort of features, of
    encoders of the same shapes."""
    records = _records(out, kind, round_.teacher.features, [shape_hash(config) for config in reads])
    return next((record["seconds"] for record in records if "seconds" in record), None)


def _records(out: Path, kind: str, features: str, shapes: Sequence[str]) -> Iterator[dict[str, Any]]:
    known, names = dict(_shapes(out)), encoder_inputs(len(shapes))
    for folder in sorted(out.glob("round*")):
        teacher, record = read_stage(folder / "teacher"), read_stage(folder / kind)
        if teacher is None or record is None or teacher["settings"].get("features") != features:
            continue
        inputs = teacher["inputs"]
        read = sum(name.startswith("encoder") and not name.endswith("_shape") for name in inputs)
        if read == len(shapes) and shapes == [
                inputs.get(f"{name}_shape") or known.get(inputs[name]) for name in names]:
            yield record


def _shapes(out: Path) -> Iterator[tuple[str, str]]:
    """The hash of each encoder that a run has done, and that of its shape."""
    for folder in sorted(out.glob("round*/encoder")):
        record, described = read_stage(folder), folder / "hubertkit.json"
        if record is not None and record["state"] == "done" and described.is_file():
            yield record["result"]["hash"], shape_hash(EncoderConfig.from_dict(read_json(described)["encoder"]))
