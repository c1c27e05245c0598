"""The training loop, for pretraining and fine-tuning alike. A run stopped anywhere goes on bit for bit.

    next micro-batches -> loss -> backward -> clip -> step -> log -> maybe validate -> maybe save

What is trained is a `Task`: it gives batches, a loss and a validation. Nothing here depends on what was drawn before:
batches come from a plan, and dropout is seeded from the update and the micro-batch before each forward pass.
Several ranks (`upstream/ranks.py`) share the micro-batches of an update; the first one logs, validates and saves.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from upstream import ranks
from upstream.errors import HubertkitError, Interrupted
from upstream.keyed import keyed_int
from upstream.progress import progress, say
from upstream.training.allocator import keep_memory
from upstream.training.checkpoint import Keep, load_checkpoint, save_checkpoint
from upstream.training.distributed import GradientSum
from upstream.training.health import Finding
from upstream.training.monitor import Monitor, Speed, announce, read_metrics, show
from upstream.training.optimiser import OptimiserRecipe, ParameterGroup, build_adamw, clip_gradients, set_rates
from upstream.training.precision import LossScale, Precision, autocast
from upstream.training.prefetching import prefetched

EVERY = slice(None)  # all micro-batches of an update; several ranks take a share each
BAD_UPDATES_IN_A_ROW = 20  # so many non-finite ones end the run
Batch = TypeVar("Batch")
Examine = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Sequence[Finding]]


@dataclass(frozen=True)
class TrainingRecipe:
    """How long, in what batches, with what optimiser. Defaults are HuBERT BASE's on one machine."""

    updates: int = 400_000
    batch_seconds: float = 2800.0  # audio in one update, all micro-batches together
    micro_batch_seconds: float = 87.5  # audio that goes through the encoder at once
    crop_seconds: float = 15.625  # pretraining: the longest crop (fairseq's 250,000 samples)
    least_seconds: float = 2.0  # shorter utterances are left out
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    precision: Precision = "bf16"  # of matmuls; losses and norms stay in float32. fp16: for GPUs without bf16
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 1000
    keep_checkpoints: int = 2  # the newest so many, and
    keep_every: int = 0  # those after every so many updates, for ever; 0: none
    keep_best: bool = False  # and the one with the best validation (saved when it is found)

    def __post_init__(self) -> None:
        for name in ("updates", "log_every", "validate_every", "save_every", "keep_checkpoints"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"training.{name}={value}, must be at least 1")
        if self.keep_every < 0:
            raise ValueError(f"training.keep_every={self.keep_every}, must be at least 0")
        if min(self.batch_seconds, self.micro_batch_seconds, self.crop_seconds) <= 0:
            raise ValueError("training.batch_seconds, micro_batch_seconds and crop_seconds must be above 0")
        if not 0.95 <= self.accumulate * self.micro_batch_seconds / self.batch_seconds <= 1.05:
            raise ValueError(f"training.batch_seconds={self.batch_seconds:g} is no multiple of micro_batch_seconds="
                             f"{self.micro_batch_seconds:g}; an update is a whole number of micro-batches")

    @property
    def accumulate(self) -> int:
        """Micro-batches in an update."""
        return max(1, round(self.batch_seconds / self.micro_batch_seconds))


def weights_settings(recipe: TrainingRecipe) -> dict[str, Any]:
    """What of a recipe the weights depend on, for a stage's key: not how often one looks or saves."""
    looking = {"log_every", "validate_every", "save_every", "keep_checkpoints", "keep_every", "keep_best"}
    return {k: v for k, v in asdict(recipe).items() if k not in looking}


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
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
        HubertkitError: too many non-finite updates in a row.

    Returns:
        The last validation, with the number of skipped updates.
    """
    if device.type == "cpu":
        keep_memory()
    optimiser = build_adamw(task.groups(), recipe.optimiser)
    start, state = load_checkpoint(folder / "checkpoints", task.model, optimiser)
    if len(set(ranks.gather(start))) > 1:
        raise HubertkitError(f"{folder}: the ranks find different checkpoints; put the run on a shared file system")
    skipped, validation, best = state.get("skipped", 0), state.get("validation", {}), state.get("best")
    if start:
        say(f"{what}: from the checkpoint of update {start}")
    pool = Pool(state.get("pool", {}) if ranks.first() else {})
    monitor, speed = Monitor(folder, start), Speed()
    gradients, scale = GradientSum(task.model.parameters()), LossScale(recipe.precision, state.get("scale"))

    def save(update: int, is_best: bool) -> None:
        pool.join()
        extra = {"skipped": skipped, "validation": validation, "best": best, "pool": pool.sums, "scale": scale.state}
        if ranks.first():
            save_checkpoint(folder / "checkpoints", update, task.model, optimiser, extra,
                            Keep(recipe.keep_checkpoints, recipe.keep_every, recipe.keep_best), is_best)

    with contextlib.ExitStack() as stack:
        stack.callback(monitor.close)
        stopping = stack.enter_context(_stop_requests())
        report = stack.enter_context(progress(what, recipe.updates))
        stream = stack.enter_context(contextlib.closing(prefetched(task.updates(start + 1, ranks.share()), speed)))
        bad, is_best, known = 0, False, set[str]()
        for update, batches in zip(range(start + 1, recipe.updates + 1), stream):
            rate = set_rates(optimiser, recipe.optimiser, update, recipe.updates)
            finite = _accumulate(task, batches, recipe.precision, seed, device, pool, scale.value)
            finite, stop = gradients.join(finite, stopping.is_set())
            scale.unscale(task.model.parameters())
            norm = float(clip_gradients(task.model.parameters(), recipe.optimiser.clip_norm))
            if finite and math.isfinite(norm):
                optimiser.step()
                bad = 0
            elif finite and scale.may_fall:
                say(f"update {update} skipped, fp16 overflowed; loss scale {scale.value:g} is halved")
            else:
                skipped, bad = skipped + 1, bad + 1
                _report_skipped(update, batches, folder)
                if bad == BAD_UPDATES_IN_A_ROW:
                    raise HubertkitError(f"{folder}: {bad} updates in a row were not finite; lower "
                                         "training.optimiser.peak_rate or use training.precision=float32")
            scale.update(finite and math.isfinite(norm))
            optimiser.zero_grad(set_to_none=True)
            pool.add({"gradient_norm": (norm, 1.0)} if bad == 0 else {})
            speed.add(sum(b.seconds for b in batches))
            if update % recipe.log_every == 0 or update == recipe.updates:
                pool.join()
                values = {**pool.take(), "rate": rate, **speed.take()}
                monitor.log(update, "train", values)
                show(report, update, values)
            if update % recipe.validate_every == 0 or update == recipe.updates:
                validation = ranks.alone(task.validate)
                monitor.log(update, "valid", validation)
                announce(update, validation)
                _say_new(known, examine, folder)
                speed.take()
                best, is_best = _compared(validation.get(task.better), best)
            if update % recipe.save_every == 0 or update == recipe.updates or stop or (recipe.keep_best and is_best):
                save(update, is_best)
            is_best = False
            if stop:
                raise Interrupted(f"{what} stopped after update {update}; the same command goes on from there")
    return {**validation, "skipped_updates": skipped}


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _compared(value: float | None, best: float | None) -> tuple[float | None, bool]:
    """The lowest value so far, and whether it is this one."""
    if value is None or (best is not None and value >= best):
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
        f"{folder / 'skipped.jsonl'}")
    ids = ranks.gather([utterance for batch in batches for utterance in batch.ids])
    if ranks.first():
        with open(folder / "skipped.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"update": update, "utterances": [i for rank in ids for i in rank]}) + "\n")


def _accumulate(task: Task[Any], batches: list[Any], precision: str, seed: int, device: torch.device,
                pool: Pool, scale: float = 1.0) -> bool:
    """Gradient of this rank's part of the update's mean loss into `.grad`; False if a loss is not finite."""
    task.model.train()
    whole = ranks.total(sum(b.weight for b in batches))
    finite = True
    for batch in batches:
        # Fused attention and dropout take no generator, so the default one is seeded: nothing drawn earlier matters.
        torch.manual_seed(keyed_int(seed, "device", batch.update, batch.number))
        with autocast(device, precision):
            loss = task.loss(batch)
        finite = finite and bool(torch.isfinite(loss.total.detach()))
        (loss.total * (scale * batch.weight / whole)).backward()
        if finite:
            pool.add(loss.sums)
    return finite


class Pool:
    """Metrics as sums and counts, so that a mean over micro-batches weighs every frame alike."""

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None) -> None:
        """`sums`: what another pool held, name -> (sum, count)."""
        self.sums: dict[str, tuple[float, float]] = {k: (v[0], v[1]) for k, v in (sums or {}).items()}

    def add(self, sums: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        for name, (value, count) in sums.items():
            old, old_count = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (old + float(value), old_count + float(count))

    def join(self) -> None:
        """Move the sums of all ranks to the first."""
        for other in ranks.gather(self.sums)[1:]:
            if ranks.first():
                self.add(other)
        if not ranks.first():
            self.sums = {}

    def take(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: value / count for name, (value, count) in self.sums.items() if count}
        self.sums = {}
        return means


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that the loop can finish its update and save."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def ask(number: int, frame: Any) -> None:
        if requested.is_set():  # asked twice: at once
            raise KeyboardInterrupt
        requested.set()
        say("stopping after this update; a checkpoint will be saved (once more to stop at once)")

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
