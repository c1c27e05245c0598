"""What a dry run found, as a table, and what it tries; of `pretrain`, `selftrain` and `bench low-resource`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from benchmarks.low_resource import lm_options
from benchmarks.low_resource_outlook import Part
from benchmarks.low_resource_recipe import LanguageModelRecipe
from benchmarks.low_resource_table import WIDTH
from downstream.finetune_recipe import FinetuneRecipe
from downstream.finetune_trial import Shape, emission_rate, training_rate
from downstream.lm.trial import estimation_seconds
from upstream.model.config import EncoderConfig
from upstream.outlook import Outlook
from upstream.pretrain_recipe import ProbeRecipe, Round
from upstream.progress import say
from upstream.trial import audio_seconds_per_second, teacher_seconds

TRAINED = ("encoder", "recogniser")  # stages of trainings, by their folders


def show(stages: list[Outlook], last: str | None) -> None:
    """The stages up to the one that `--until` names, and what is to be done, in how much time and disk."""
    end = len(stages) if last is None else [stage.stage for stage in stages].index(last) + 1
    table = Table(Column("stage", overflow="fold"), "state", "why", "time", "MB")
    for stage in stages[:end]:
        table.add_row(escape(stage.stage), escape(stage.state + ", to do anew" * stage.anew), escape(stage.why),
                      _time(stage.seconds), "" if stage.bytes is None else f"{stage.bytes / 1e6:.1f}")
    ahead = [stage for stage in stages[:end] if stage.state != "done" or stage.anew]
    Console(emoji=False).print(table)
    print(_summary(ahead))


def show_parts(parts: Sequence[Part]) -> None:
    """The parts of a comparison, each with what is ahead of it, or what it took and has where that is nothing, and
    what is to be done in all."""
    table = Table(Column("part", overflow="fold"), "state", "why", *(
        Column(head, justify="right") for head in ("updates", "hours", "time", "MB")))
    for part in parts:
        stages = part.ahead or part.stages
        times, sizes = [stage.seconds for stage in stages], [stage.bytes for stage in stages]
        table.add_row(escape(part.name), part.state, escape(part.why),
                      "" if part.updates is None else str(part.updates),
                      "" if part.hours is None else f"{part.hours:.2f}", _sum(times, lambda known: _time(sum(known))),
                      _sum(sizes, lambda known: f"{sum(known) / 1e6:.1f}"))
    console = Console(emoji=False)
    if not console.is_terminal:  # a file has no width of its own
        console.width = max(WIDTH, console.width)
    console.print(table)
    if any(None in (found := [getattr(stage, name) for stage in part.ahead or part.stages]) and set(found) != {None}
           for part in parts for name in ("seconds", "bytes")):
        print("+: and more, of which nothing says how much")
    print(_summary([stage for part in parts for stage in part.ahead]))
    _warn_of_schedules(parts)


def _warn_of_schedules(parts: Sequence[Part]) -> None:
    """Say which of the trainings that are ahead would never come to a part of their schedule, those of the same in one
    line."""
    missed: dict[str, list[str]] = {}
    for part in parts:
        if part.missed is not None and any(Path(stage.stage).name in TRAINED for stage in part.ahead):
            missed.setdefault(part.missed, []).append(part.name)
    for what, names in missed.items():
        say(f"warning: {names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {what}")


def _sum(values: Sequence[float | None], shown: Callable[[list[float]], str]) -> str:
    """Of what is known, with a sign that there is more."""
    known = [value for value in values if value is not None]
    return (shown(known) + " +" * (len(known) < len(values))) if known else ""


def _summary(ahead: Sequence[Outlook]) -> str:
    """How much there is to do, in how much time and disk."""
    known = [stage.seconds for stage in ahead if stage.seconds is not None]
    sizes = [stage.bytes for stage in ahead if stage.bytes is not None]
    unknown, unmeasured = len(ahead) - len(known), len(ahead) - len(sizes)
    return (f"{len(ahead)} stage{'s' * (len(ahead) != 1)} to do" + (f": about {_time(sum(known))}" if known else "")
            + (f"; of {unknown} nothing says how long" if unknown else "")
            + (f"; {math.ceil(sum(sizes) / 1e6)} MB of disk at most" if sizes else "")
            + (f", but of {unmeasured} nothing says how much" if sizes and unmeasured else "")
            if ahead else "nothing to do")


def tried_round(round_: Round, device: torch.device, together: int) -> float | None:
    """The rate at which a round trains in so many processes with a GPU each; 1 also stands for any number on CPUs."""
    say(f"round {round_.number}: trying a short batch, to say how long the training takes")
    return _told_rate(audio_seconds_per_second(round_, device), together)


def tried_teacher(round_: Round, shapes: list[EncoderConfig], lengths: np.ndarray, *, device: torch.device,
                  probe: ProbeRecipe, together: int) -> tuple[float, float] | None:
    """Seconds of a round's teacher and of its units, likewise."""
    say(f"round {round_.number}: trying its teacher on some noise, to say how long it takes")
    found = teacher_seconds(round_, shapes, lengths, device, probe)
    return None if found is None else (found[0] / together, found[1] / together)


def tried_training(name: str, recipe: FinetuneRecipe, shape: Shape, seconds: float,
                   device: torch.device) -> float | None:
    """The rate at which a recogniser is trained."""
    say(f"{name}: trying a short batch, to say how long the training takes")
    return _told_rate(training_rate(recipe, shape, seconds, device))


def tried_lm(text: Path, recipe: LanguageModelRecipe) -> float:
    """Seconds of the estimation of a language model."""
    say("language model: trying the beginning of its text, to say how long it takes")
    return estimation_seconds(text, recipe.order, lm_options(recipe))


def tried_emissions(name: str, shape: Shape, seconds: float, device: torch.device) -> float | None:
    """The rate at which a recogniser emits."""
    say(f"{name}: trying a short batch, to say how long the emissions take")
    return emission_rate(shape, seconds, device)


def _told_rate(rate: float | None, together: int = 1) -> float | None:
    """Say what a trial of a training measured, audio seconds a second, if it did; gives that of so many processes,
    with a GPU each. 1 also stands for any number of them on CPUs, where one has all the cores that they would share."""
    if rate is None:
        return None
    others = f", {together} times as many in {together}; decoding and validation" if together > 1 else \
        "; decoding, validation and other ranks"
    say(f"  {rate:.3g} audio s/s in one process{others} apart")
    return rate * together


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else \
        f"{seconds / 3600:.1f} h" if seconds < 3 * 86_400 else f"{seconds / 86_400:.1f} days"
