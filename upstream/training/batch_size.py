"""`training.micro_batch_seconds=auto`: how much audio goes through the encoder at once.

The largest part of an update that fits, up to a limit: rows of a micro-batch are of about one length, so in one as
large as an update all utterances would be. On a GPU sizes are tried until memory runs out. On a CPU, where a process
that takes too much is killed, memory is counted at two small sizes and the line through them followed. The choice
stands in the stage's folder, so that a run that is resumed goes on with the same micro-batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upstream import ranks
from upstream.disk import read_json, write_json
from upstream.errors import HubertkitError, UsageError
from upstream.progress import say
from upstream.training.fitting import free, is_out_of_memory, pass_through, rows_of, with_rows
from upstream.training.free_memory import free_bytes
from upstream.training.recipe import AUTO, TrainingRecipe
from upstream.training.sharding import prepare

FILE = "micro_batch.json"
SHARE = 0.85  # of the free memory that training may plan with
CPU_ENOUGH = 64.0  # seconds: matrix products of so many frames run at their full rate on CPUs
GPU_ENOUGH = 350.0  # seconds: 17,500 frames, which fill a GPU
UNSEEN = 1.35  # what a process on a CPU takes over what its tensors do (measured of BASE: 1.2 in float32, 1.3 in bf16)
LOOKED_AT = 8  # updates, to find a long crop
Peak = Callable[[float], float | None]  # bytes that so many seconds take; None: more than there are


def fitted(recipe: TrainingRecipe, folder: Path, build: Callable[[TrainingRecipe], Any],
           device: torch.device) -> TrainingRecipe:
    """The recipe with a number for `auto`, the one chosen before if `folder` knows it. All ranks must ask.

    Args:
        folder: of the stage.
        build: makes the task of a recipe; called with one of small micro-batches, to measure.

    Raises:
        UsageError: the micro-batches chosen before cannot be shared by this number of ranks.
        HubertkitError: not even one crop fits.
    """
    if recipe.micro_batch_seconds != AUTO:
        return recipe
    count = ranks.count()

    def choose() -> dict[str, Any]:
        if (folder / FILE).is_file():
            return read_json(folder / FILE)
        choice = _probed(recipe, build, device, count)
        write_json(folder / FILE, choice)
        return choice

    choice = ranks.alone(choose)
    found = replace(recipe, micro_batch_seconds=choice["micro_batch_seconds"])
    say(f"training.micro_batch_seconds=auto: {found.micro_batch_seconds:.4g} s, {found.accumulate} in an update; "
        f"{choice['why']}")
    if found.accumulate % count:
        raise UsageError(f"{folder / FILE}: the run began with {found.accumulate} micro-batches an update, which "
                         f"{count} ranks cannot share evenly; use a number of ranks that divides them")
    return found


def sizes(recipe: TrainingRecipe, count: int) -> list[float]:
    """Seconds of a micro-batch that come into question, the smallest first: whole parts of an update, as many as ranks
    or a multiple, each no shorter than a crop.

    Raises:
        UsageError: more ranks than crops in an update.
    """
    most = int(recipe.batch_seconds / recipe.crop_seconds)
    if most < count:
        raise UsageError(f"training.batch_seconds={recipe.batch_seconds:g} has {most} crops of "
                         f"{recipe.crop_seconds:g} s, too few for {count} ranks; use fewer ranks or a larger update")
    return [recipe.batch_seconds / parts for parts in range(most - most % count, 0, -count)]


def largest(candidates: list[float], peak: Peak, room: float) -> tuple[float, dict[float, float | None]]:
    """The largest size that was tried and fits, and what every size that was tried took.

    Sizes are tried upwards, in steps that double, and then between the last that fits and the first that does not: most
    attempts are small, and few fail.

    Returns:
        The size, 0 if none fits; bytes by size.
    """
    tried: dict[float, float | None] = {}

    def fits(place: int) -> bool:
        took = tried[candidates[place]] = peak(candidates[place])
        return took is not None and took <= room

    if not fits(0):
        return 0.0, tried
    low, high, step = 0, len(candidates), 1
    while low + step < high:
        if fits(low + step):
            low, step = low + step, 2 * step
        else:
            high, step = low + step, 1
            break
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return candidates[low], tried


def followed(candidates: list[float], peak: Peak, room: float) -> tuple[float, dict[float, float | None]]:
    """The largest size up to `CPU_ENOUGH` that fits by a straight line through two measurements, and these."""
    least = candidates[0]
    measured = {seconds: peak(seconds) for seconds in (least, 2 * least)}
    one, two = (took or 0.0 for took in measured.values())
    fitting = [s for s in candidates if one + (two - one) * (s / least - 1) <= room and s <= max(CPU_ENOUGH, least)]
    return (fitting[-1] if fitting else 0.0), measured


def _probed(recipe: TrainingRecipe, build: Callable[[TrainingRecipe], Any], device: torch.device,
            count: int) -> dict[str, Any]:
    candidates = sizes(recipe, count)
    small = recipe.crop_seconds + 1
    task = build(replace(recipe, batch_seconds=small, micro_batch_seconds=small))
    prepare(task.model, recipe)
    peak = _on_gpu(task, recipe, device) if device.type == "cuda" else _on_cpu(task, recipe)
    learned = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    later = learned * (8 + 4 * (count > 1))  # bytes: Adam's averages, and the sum of gradients over ranks
    free(task, device)
    room = SHARE * free_bytes(device, count) - later
    enough = GPU_ENOUGH if device.type == "cuda" else CPU_ENOUGH
    if device.type == "cuda":
        seconds, measured = largest([s for s in candidates if s <= max(enough, candidates[0])], peak, room)
    else:
        seconds, measured = followed(candidates, peak, room)
    free(task, device)
    if not seconds:
        took = measured[candidates[0]]
        needs = "more than there is" if took is None else f"{(took + later) / 1e9:.3g} GB"
        raise HubertkitError(f"training.micro_batch_seconds=auto: {candidates[0]:.3g} s at once, the least there can "
                             f"be, take {needs}, and {(room + later) / 1e9:.3g} GB may be used; lower "
                             "training.crop_seconds")
    known = {f"{s:.4g}": took for s, took in sorted(measured.items())}
    figures = ", ".join(f"{s} s took {'too much' if took is None else f'{took / 1e9:.3g} GB'}"
                        for s, took in known.items())
    why = f"{figures}; {room / 1e9:.3g} GB may be used"
    if seconds < candidates[-1] and seconds > enough / 2:
        why += f", and more than {enough:g} s are not tried: they gain nothing"
    return {"micro_batch_seconds": seconds, "why": why, "measured_bytes": known, "usable_bytes": room}


def _step(task: Any, recipe: TrainingRecipe, device: torch.device) -> Callable[[float], None]:
    """A forward and backward pass over so many seconds, made of copies of a long crop."""
    first = [batches[0] for _, batches in zip(range(LOOKED_AT), task.updates(1))]
    batch = with_rows(max(first, key=lambda b: b.seconds / rows_of(b)), 1)
    return lambda seconds: pass_through(task, with_rows(batch, max(1, round(seconds / batch.seconds))), device,
                                        recipe.precision)


def _on_gpu(task: Any, recipe: TrainingRecipe, device: torch.device) -> Peak:
    step = _step(task, recipe, device)

    def peak(seconds: float) -> float | None:
        free(task, device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        try:
            step(seconds)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free(task, device)
            return None
        return float(torch.cuda.max_memory_reserved() - before)

    return peak


def _on_cpu(task: Any, recipe: TrainingRecipe) -> Peak:
    step = _step(task, recipe, torch.device("cpu"))

    def peak(seconds: float) -> float:
        with LiveBytes() as live:
            step(seconds)
        return UNSEEN * live.most

    return peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and not yet freed; `most` is the highest count."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, nn.Parameter):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, size).atexit = False

    def _drop(self, size: int) -> None:
        self.now -= size
