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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from upstream import ranks
from upstream.errors import HubertkitError, Interrupted
from upstream.keyed import keyed_int
from upstream.progress import progress, say
from upstream.stopping import stop_requests
from upstream.training.allocator import keep_memory
from upstream.training.checkpoint import Keep, load_checkpoint, save_checkpoint, training_state
from upstream.training.compiling import compile_blocks
from upstream.training.distributed import GradientSum
from upstream.training.fitting import is_out_of_memory, no_room
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
from upstream.training.optimiser import ParameterGroup, build_adamw, clip_gradients, cut_short, set_rates
from upstream.training.peak import Arithmetic, advice
from upstream.training.pool import Pool as Pool
from upstream.training.precision import LossScale, autocast
from upstream.training.prefetching import prefetched
from upstream.training.recipe import TrainingRecipe as TrainingRecipe
from upstream.training.recipe import weights_settings as weights_settings
from upstream.training.sharding import Shards, can_shard, prepare, whole

EVERY = slice(None)  # all micro-batches of an update; several ranks take a share each
Batch = TypeVar("Batch")
Examine = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Sequence[Finding]]


@dataclass(frozen=True)
class Loss:
    """What a task gives for one micro-batch.

    Attributes:
        total: scalar, the mean that is differentiated.
        sums: name -> (sum, count): metrics that are pooled over micro-batches as sum / count.
    """

    total: Tensor
    sums: Mapping[str, tuple[Tensor | float, Tensor | float]]


class Task(Protocol[Batch]):
    """What is trained. A batch must say its place (`update`, `number`), its `weight` in the update's mean (frames or
    utterances), its `seconds` of audio and the `ids` of its utterances."""

    better: str  # the number of a validation by which checkpoints are compared: the lower the better

    @property
    def model(self) -> nn.Module: ...

    def groups(self) -> list[ParameterGroup]: ...

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[Batch]]:
        """From update `first` on, the micro-batches of each that lie in `share`."""
        ...

    def loss(self, batch: Batch) -> Loss: ...

    def validate(self) -> dict[str, Any]: ...


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
    if device.type == "cpu":
        keep_memory()
    if missed := cut_short(recipe.optimiser, recipe.updates):
        say(f"warning: {what}: {missed}")
    prepare(task.model, recipe)
    if compiled := compile_blocks(task.model, recipe, device):
        say(f"{what}: the Transformer's blocks are compiled, which takes a minute at first")
    shards = Shards(task, device) if recipe.shard and can_shard() else None
    optimiser = build_adamw(task.groups(), recipe.optimiser)
    settings = {"seed": seed, "training": weights_settings(recipe)}
    start, state = load_checkpoint(folder / "checkpoints", task.model, optimiser, settings)
    if len(set(ranks.gather(start))) > 1:
        raise HubertkitError(f"{folder}: the ranks find different checkpoints; put the run on a shared file system")
    skipped, validation, best = state.get("skipped", 0), state.get("validation", {}), state.get("best")
    if start:
        say(f"{what}: from the checkpoint of update {start}")
    pool = Pool(state.get("pool", {}) if ranks.first() else {})
    if ranks.first():
        cut_back(folder / SKIPPED, start)
    monitor = Monitor(folder, start, recipe.wandb)
    arithmetic = Arithmetic(device, recipe.precision, compiled, state.get("arithmetic"))
    if ranks.first() and (hint := advice(device, recipe.precision)):
        say(f"{what}: {hint}")
    speed = Speed()
    gradients, scale = shards or GradientSum(task.model.parameters()), LossScale(recipe.precision, state.get("scale"))

    def save(update: int, is_best: bool) -> None:
        pool.join()
        extra = {"skipped": skipped, "validation": validation, "best": best, "pool": pool.sums, "scale": scale.state,
                 "arithmetic": arithmetic.state}
        tensors = training_state(task.model, optimiser)
        if ranks.first():
            save_checkpoint(folder / "checkpoints", update, tensors, extra,
                            Keep(recipe.keep_checkpoints, recipe.keep_every, recipe.keep_best), is_best, settings)

    with contextlib.ExitStack() as stack:
        stack.enter_context(ranks.naming_losses())
        stack.callback(monitor.close)
        stopping = stack.enter_context(stop_requests())
        report = stack.enter_context(progress(what, recipe.updates, done=start))
        stream = stack.enter_context(contextlib.closing(prefetched(task.updates(start + 1, ranks.share()), speed)))
        bad, is_best, known = 0, False, set[str]()
        for update, batches in zip(range(start + 1, recipe.updates + 1), stream):
            rate = set_rates(optimiser, recipe.optimiser, update, recipe.updates)
            try:
                finite = _accumulate(task, batches, recipe.precision, seed, device, pool, scale.value, arithmetic,
                                     shards)
            except _NoRoom as error:
                raise no_room(task, error.batch, device, recipe, alone=shards is None) from None
            finite, stop = gradients.join(finite, stopping.is_set())
            scale.unscale(task.model.parameters())
            norm = float(whole(clip_gradients(task.model.parameters(), recipe.optimiser.clip_norm)))
            if finite and math.isfinite(norm):
                optimiser.step()
                bad = 0
            elif finite and scale.may_fall:
                say(f"update {update} skipped, fp16 overflowed; loss scale {scale.value:g} is halved")
            else:
                skipped, bad = skipped + 1, bad + 1
                _report_skipped(update, batches, folder)
                if bad == BAD_UPDATES_IN_A_ROW:
                    wider = "" if recipe.precision == "float32" else " or use training.precision=float32"
                    raise HubertkitError(f"{folder}: {bad} updates in a row were not finite; lower "
                                         f"training.optimiser.peak_rate{wider}")
            scale.update(finite and math.isfinite(norm))
            optimiser.zero_grad(set_to_none=True)
            pool.add({"gradient_norm": (norm, 1.0)} if math.isfinite(norm) else {})
            speed.add(sum(b.seconds for b in batches))
            if update % recipe.log_every == 0 or update == recipe.updates:
                pool.join()
                values = {**pool.take(), "rate": rate, **speed.take()}
                values |= arithmetic.share(values["audio_seconds_per_second"])
                monitor.log(update, "train", values)
                report(update, note=describe(progress_values(values, validation)))
            if update % recipe.validate_every == 0 or update == recipe.updates:
                with contextlib.nullcontext() if shards is None else shards.gathered():
                    measured = ranks.alone(task.validate)
                validation = finite_ones(measured)
                monitor.log(update, "valid", validation)
                announce(update, measured)
                _say_new(known, examine, folder)
                speed.take()
                best, is_best = _compared(validation.get(task.better), best)
            to_keep = recipe.keep_every > 0 and update % recipe.keep_every == 0  # whatever save_every says
            if update % recipe.save_every == 0 or update == recipe.updates or stop or to_keep or (
                    recipe.keep_best and is_best):
                save(update, is_best)
            is_best = False
            if stop:
                raise Interrupted(f"{what} stopped after update {update}; the same command goes on from there")
        if shards is not None:
            shards.finish()
    return {**validation, "skipped_updates": skipped}


def _compared(value: float | None, best: float | None) -> tuple[float | None, bool]:
    """The lowest value so far, and whether it is this one; one that is not finite is none."""
    if value is None or not math.isfinite(value) or (best is not None and value >= best):
        return best, False
    return value, True


def _say_new(known: set[str], examine: Examine, folder: Path) -> None:
    """Say what the log shows, each kind of finding once."""
    if not ranks.first():
        return
    for finding in examine(read_metrics(folder, "train"), read_metrics(folder, "valid")):
        if finding.topic not in known:
            say(f"  {finding}")
            known.add(finding.topic)


def _report_skipped(update: int, batches: list[Any], folder: Path) -> None:
    """Say that an update was skipped, and write down which utterances were in it."""
    say(f"warning: update {update} skipped, its loss or gradient is not finite; its utterances are in "
        f"{folder / SKIPPED}")
    ids = ranks.gather([utterance for batch in batches for utterance in batch.ids])
    if ranks.first():
        with open(folder / SKIPPED, "a", encoding="utf-8") as file:
            file.write(json.dumps({"update": update, "utterances": [i for rank in ids for i in rank]}) + "\n")


class _NoRoom(Exception):
    """A micro-batch does not fit into memory."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.batch = batch


def _accumulate(task: Task[Any], batches: list[Any], precision: str, seed: int, device: torch.device,
                pool: Pool, scale: float = 1.0, arithmetic: Arithmetic | None = None,
                shards: Shards | None = None) -> bool:
    """Gradient of this rank's part of the update's mean loss into `.grad`; False if a loss is not finite. Raises
    _NoRoom where memory ran out."""
    task.model.train()
    every = ranks.total(sum(b.weight for b in batches)) / (1 if shards is None else shards.divisor)
    losses = []
    for batch in batches:
        if shards is not None:
            shards.sync(batch is batches[-1])
        # Fused attention and dropout take no generator, so the default one is seeded: nothing drawn earlier matters.
        torch.manual_seed(keyed_int(seed, "device", batch.update, batch.number))
        loss = _gradient(task, batch, precision, device, scale * batch.weight / every, arithmetic)
        if loss is None:
            raise _NoRoom(batch)
        losses.append(loss)
    finite = True
    for loss in losses:  # only now: asking for a number waits for the GPU, which has all micro-batches to do by then
        finite = finite and bool(torch.isfinite(loss.total))
        if finite:
            pool.add(loss.sums)
    return finite


def _gradient(task: Task[Any], batch: Any, precision: str, device: torch.device, weight: float,
              arithmetic: Arithmetic | None) -> Loss | None:
    """Add `weight` times a micro-batch's gradient to `.grad`; gives its loss, or None where memory ran out."""
    counting = contextlib.nullcontext() if arithmetic is None else arithmetic.counting(batch.seconds, task.model)
    try:
        with counting:
            with autocast(device, precision):
                loss = task.loss(batch)
            (loss.total * weight).backward()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None  # with the error go the tensors that its traceback holds
    return Loss(loss.total.detach(), {name: (_number(value), _number(count))
                                      for name, (value, count) in loss.sums.items()})


def _number(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value
