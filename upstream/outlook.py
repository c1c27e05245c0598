"""What a pretraining would do now, how long that takes and how much disk it needs, as far as that can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
Size = Callable[[str, Round | None], int | None]  # bytes of a stage, by its name and round


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
    manifest = known_manifest(recipe, out)
    lengths = None if manifest is None else Manifest.load(manifest).lengths

    def size(name: str, round_: Round | None) -> int | None:
        dim = None if round_ is None else dimensions_read(round_, rounds, outside)
        return most_bytes(name.rpartition("/")[2], round_, manifest, lengths, dim)

    @cache
    def read_by(number: int) -> list[EncoderConfig]:
        round_ = rounds[number - 1]
        reads = encoders_read_by(round_, rounds, outside) if round_.teacher.features == "layer" else []
        return [config for config in reads if config is not None]

    @cache
    def teacher_tried(number: int) -> tuple[float, float] | None:
        return None if lengths is None else teacher_trial(rounds[number - 1], read_by(number), lengths)

    course = Course(out, first, last, look=True, needed=frozenset(names[:1]))
    course.check(names)
    with following(course):
        if out.is_dir():
            pretrain(recipe, out, lambda line: None)
        else:
            course.arrive(out / names[0], "to do", "", {})

    def each(round_: Round) -> float:
        return update_seconds(lengths, round_.encoder, round_.training, round_.mask)

    reads, ways = stages_read(rounds), _Ways(size, _once(trial), teacher_tried, read_by, each)
    found = []
    for seen in stages_seen(course, names, lambda name: stages_before(name, names, reads)):
        found.append(seen if seen.state == "done" else _ahead(rounds, out, seen, ways))
        if seen.stage == course.last:
            ways = replace(ways, trial=lambda round_: None, teacher_trial=lambda number: None)
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


@dataclass(frozen=True)
class _Ways:
    """What is asked about stages that are ahead: their bytes; the rate of a round's training, if nobody knows it; of
    the round of a number, how long its teacher and its units take, if nobody knows, and the encoders that it reads; and
    the audio of an update of a round's training, in seconds."""

    size: Size
    trial: Trial
    teacher_trial: Callable[[int], tuple[float, float] | None]
    read_by: Callable[[int], list[EncoderConfig]]
    update_seconds: Callable[[Round], float]


def _ahead(rounds: list[Round], out: Path, seen: Outlook, ways: _Ways) -> Outlook:
    """A stage that is not done, with the time and the disk that it will take."""
    number, _, kind = seen.stage.partition("/")
    round_ = rounds[int(number.removeprefix("round")) - 1] if kind else None
    seconds = None
    if kind == "encoder" and round_ is not None:
        goes_on = seen.state == "unfinished" and not seen.anew
        seconds = _training_seconds(round_, out, seen.stage if goes_on else None, ways)
    elif round_ is not None:
        seconds = _like(out, kind, round_, ways.read_by(round_.number))
        if seconds is None and kind in TEACHER_KINDS and (tried := ways.teacher_trial(round_.number)):
            seconds = tried[TEACHER_KINDS.index(kind)]
    return replace(seen, seconds=seconds, bytes=ways.size(seen.stage, round_))


def _once(trial: Trial) -> Trial:
    known: dict[str, float | None] = {}

    def tried(round_: Round) -> float | None:
        training = round_.training  # how long it is, or at which rate it learns, takes no time
        shape = repr((round_.encoder, round_.mask, round_.has_teacher, training.batch_seconds, training.precision,
                      training.micro_batch_seconds, training.crop_seconds))
        if shape not in known:
            known[shape] = trial(round_)
        return known[shape]

    return tried


def _training_seconds(round_: Round, out: Path, unfinished: str | None, ways: _Ways) -> float | None:
    """What is left of the updates, at the median speed of such trainings in this run, or that of a trial."""
    speeds, done = [], 0
    for log in sorted(out.glob("round*/encoder/metrics.jsonl")):
        if not _trains_alike(read_stage(log.parent), round_):
            continue
        records = read_metrics(log.parent, "train")
        speeds += [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
        if unfinished is not None and log.parent == out / unfinished and records:
            done = records[-1]["update"]
    if not speeds and (rate := ways.trial(round_)):
        speeds = [rate]
    if not speeds:
        return None
    return (round_.training.updates - done) * ways.update_seconds(round_) / float(np.median(speeds))


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
