"""The training loop, for pretraining and fine-tuning alike. A run stopped anywhere goes on bit for bit on CPUs; some of
a GPU's kernels add up in any order.

    next micro-batches -> loss -> backward -> clip -> step -> log -> maybe validate -> maybe save

What is trained is a `Task`: it gives batches, a loss and a validation. Nothing here depends on what was drawn before:
batches come from a plan, and dropout is seeded from the update and the micro-batch before each forward pass.
Several ranks (`upstream/ranks.py`) share the micro-batches of an update; the first one logs, validates and saves.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import torch

from upstream import ranks
from upstream.errors import HubertkitError, Interrupted
from upstream.progress import progress, say
from upstream.stopping import stop_requests
from upstream.training.allocator import keep_memory
from upstream.training.checkpoint import Keep, load_checkpoint, save_checkpoint, training_state
from upstream.training.compiling import compile_blocks
from upstream.training.distributed import GradientSum
from upstream.training.gradient import accumulate
from upstream.training.health import BAD_UPDATES_IN_A_ROW as BAD_UPDATES_IN_A_ROW
from upstream.training.health import Finding
from upstream.training.monitor import (
    SKIPPED,
    Monitor,
    Speed,
    announce,
    cut_back,
    describe,
    finite_ones,
    progress_values,
    read_metrics,
)
from upstream.training.optimiser import build_adamw, clip_gradients, cut_short, set_rates
from upstream.training.peak import Arithmetic, advice
from upstream.training.pool import Pool as Pool
from upstream.training.precision import LossScale
from upstream.training.prefetching import prefetched
from upstream.training.recipe import TrainingRecipe as TrainingRecipe
from upstream.training.recipe import weights_settings as weights_settings
from upstream.training.sharding import Shards, can_shard, prepare, whole
from upstream.training.task import EVERY as EVERY
from upstream.training.task import Loss as Loss
from upstream.training.task import Task as Task

Examine = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Sequence[Finding]]


def train(task: Task[Any], recipe: TrainingRecipe, folder: Path, *, seed: int, device: torch.device,
          what: str = "training", examine: Examine = lambda train, valid: ()) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint in `folder` if there is one.

    Args:
        examine: told all train and valid records after a validation; what it finds is said, once.

    Raises:
        Interrupted: after SIGINT, SIGTERM, SIGUSR1 or SIGHUP, once a checkpoint is written.
        HubertkitError: too many non-finite updates in a row.

    Returns:
        The last validation, with the number of skipped updates. Of a sharded run, rank 0 has the whole model in the
        task afterwards, and the others have none that can be used.
    """
    training = _Training(task, recipe, folder, seed, device, what, examine)
    start = training.start
    with contextlib.ExitStack() as stack:
        stack.enter_context(ranks.naming_losses())
        stack.callback(training.monitor.close)
        stopping = stack.enter_context(stop_requests())
        report = stack.enter_context(progress(what, recipe.updates, done=start))
        ahead = prefetched(task.updates(start + 1, ranks.share()), training.speed)
        stack.callback(ahead.close)
        for update, batches in zip(range(start + 1, recipe.updates + 1), ahead):
            last = update == recipe.updates
            stop = training.step(update, batches, stopping)
            if last or update % recipe.log_every == 0:
                report(update, note=training.log(update))
            is_best = (last or update % recipe.validate_every == 0) and training.validate(update)
            if stop or _to_be_saved(recipe, update, is_best):
                training.save(update, is_best)
            if stop:
                raise Interrupted(f"{what} stopped after update {update}; the same command goes on from there")
        if training.shards is not None:
            training.shards.finish()
    return {**training.validation, "skipped_updates": training.skipped}


def _to_be_saved(recipe: TrainingRecipe, update: int, is_best: bool) -> bool:
    """Whether there is a checkpoint after an update, even if nobody asks to stop."""
    for_ever = recipe.keep_every > 0 and update % recipe.keep_every == 0  # whatever save_every says
    return (update == recipe.updates or update % recipe.save_every == 0 or for_ever
            or (recipe.keep_best and is_best))


class _Training:
    """What a training has in hand from one update to the next, and what is done to it. All ranks call the same."""

    def __init__(self, task: Task[Any], recipe: TrainingRecipe, folder: Path, seed: int, device: torch.device,
                 what: str, examine: Examine) -> None:
        """From the newest checkpoint in `folder` if there is one, after update `start`."""
        self.task, self.recipe, self.folder, self.seed, self.device = task, recipe, folder, seed, device
        self.what, self.examine = what, examine
        compiled = self._prepare()
        self.shards = Shards(task, device) if recipe.shard and can_shard() else None
        self.optimiser = build_adamw(task.groups(), recipe.optimiser)
        self.settings = {"seed": seed, "training": weights_settings(recipe)}
        self.start, state = self._load()
        self.skipped: int = state.get("skipped", 0)
        self.validation: dict[str, Any] = state.get("validation", {})  # the last one
        self.best: float | None = state.get("best")  # of all validations so far
        self.pool = Pool(state.get("pool", {}) if ranks.first() else {})
        if ranks.first():
            cut_back(folder / SKIPPED, self.start)
        self.monitor = Monitor(folder, self.start, recipe.wandb)
        self.arithmetic = Arithmetic(device, recipe.precision, compiled, state.get("arithmetic"))
        if ranks.first() and (hint := advice(device, recipe.precision)):
            say(f"{what}: {hint}")
        self.speed = Speed()
        self.gradients = self.shards or GradientSum(task.model.parameters())
        self.scale = LossScale(recipe.precision, state.get("scale"))
        self.rate = 0.0  # of this update
        self.bad = 0  # updates in a row that were skipped, up to this one
        self.known: set[str] = set()  # topics of what `examine` found

    def _prepare(self) -> bool:
        """Memory and model as the recipe wants them; gives whether blocks are compiled."""
        if self.device.type == "cpu":
            keep_memory()
        if missed := cut_short(self.recipe.optimiser, self.recipe.updates):
            say(f"warning: {self.what}: {missed}")
        prepare(self.task.model, self.recipe)
        compiled = compile_blocks(self.task.model, self.recipe, self.device)
        if compiled:
            say(f"{self.what}: the Transformer's blocks are compiled, which takes a minute at first")
        return compiled

    def _load(self) -> tuple[int, dict[str, Any]]:
        """Model and optimiser as the newest checkpoint has them; gives its update, and what else it holds."""
        start, state = load_checkpoint(self.folder / "checkpoints", self.task.model, self.optimiser, self.settings)
        if len(set(ranks.gather(start))) > 1:
            raise HubertkitError(f"{self.folder}: the ranks find different checkpoints; put the run on a shared file "
                                 "system")
        if start:
            say(f"{self.what}: from the checkpoint of update {start}")
        return start, state

    def step(self, update: int, batches: list[Any], stopping: Event) -> bool:
        """One update, skipped if it is not finite; gives whether any rank was asked to stop."""
        recipe, model = self.recipe, self.task.model
        self.rate = set_rates(self.optimiser, recipe.optimiser, update, recipe.updates)
        finite = accumulate(self.task, batches, recipe, self.seed, self.device, self.pool, self.scale.value,
                            self.arithmetic, self.shards)
        finite, stop = self.gradients.join(finite, stopping.is_set())
        self.scale.unscale(model.parameters())
        norm = float(whole(clip_gradients(model.parameters(), recipe.optimiser.clip_norm)))
        good = finite and math.isfinite(norm)
        if good:
            self.optimiser.step()
            self.bad = 0
        elif finite and self.scale.may_fall:
            say(f"update {update} skipped, fp16 overflowed; loss scale {self.scale.value:g} is halved")
        else:
            self._skip(update, batches)
        self.scale.update(good)
        self.optimiser.zero_grad(set_to_none=True)
        self.pool.add({"gradient_norm": (norm, 1.0)} if math.isfinite(norm) else {})
        self.speed.add(sum(b.seconds for b in batches))
        return stop

    def _skip(self, update: int, batches: list[Any]) -> None:
        """Count and report an update that is not finite. Raises HubertkitError after too many in a row."""
        self.skipped, self.bad = self.skipped + 1, self.bad + 1
        _report_skipped(update, batches, self.folder)
        if self.bad == BAD_UPDATES_IN_A_ROW:
            wider = "" if self.recipe.precision == "float32" else " or use training.precision=float32"
            raise HubertkitError(f"{self.folder}: {self.bad} updates in a row were not finite; lower "
                                 f"training.optimiser.peak_rate{wider}")

    def log(self, update: int) -> str:
        """Log the means since the last time; gives them in words."""
        self.pool.join()
        values = {**self.pool.take(), "rate": self.rate, **self.speed.take()}
        values |= self.arithmetic.share(values["audio_seconds_per_second"])
        self.monitor.log(update, "train", values)
        return describe(progress_values(values, self.validation))

    def validate(self, update: int) -> bool:
        """Validate and say what that and the log show; gives whether this is the best so far."""
        with contextlib.nullcontext() if self.shards is None else self.shards.gathered():
            measured = ranks.alone(self.task.validate)
        self.validation = finite_ones(measured)
        self.monitor.log(update, "valid", self.validation)
        announce(update, measured)
        self._say_findings()
        self.speed.take()  # a validation is no training
        self.best, is_best = _compared(self.validation.get(self.task.better), self.best)
        return is_best

    def _say_findings(self) -> None:
        """Say what the log shows, each kind of finding once."""
        if not ranks.first():
            return
        for finding in self.examine(read_metrics(self.folder, "train"), read_metrics(self.folder, "valid")):
            if finding.topic not in self.known:
                say(f"  {finding}")
                self.known.add(finding.topic)

    def save(self, update: int, is_best: bool) -> None:
        """Write a checkpoint, and remove those that need not stay."""
        self.pool.join()
        extra = {"skipped": self.skipped, "validation": self.validation, "best": self.best, "pool": self.pool.sums,
                 "scale": self.scale.state, "arithmetic": self.arithmetic.state}
        tensors = training_state(self.task.model, self.optimiser)
        if ranks.first():
            keep = Keep(self.recipe.keep_checkpoints, self.recipe.keep_every, self.recipe.keep_best)
            save_checkpoint(self.folder / "checkpoints", update, tensors, extra, keep, is_best, self.settings)


def _compared(value: float | None, best: float | None) -> tuple[float | None, bool]:
    """The lowest value so far, and whether it is this one; one that is not finite is none."""
    if value is None or not math.isfinite(value) or (best is not None and value >= best):
        return best, False
    return value, True


def _report_skipped(update: int, batches: list[Any], folder: Path) -> None:
    """Say that an update was skipped, and write down which utterances were in it."""
    say(f"warning: update {update} skipped, its loss or gradient is not finite; its utterances are in "
        f"{folder / SKIPPED}")
    ids = ranks.gather([utterance for batch in batches for utterance in batch.ids])
    if ranks.first():
        with open(folder / SKIPPED, "a", encoding="utf-8") as file:
            file.write(json.dumps({"update": update, "utterances": [i for rank in ids for i in rank]}) + "\n")
