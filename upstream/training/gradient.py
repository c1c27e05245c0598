"""The gradient of an update, micro-batch by micro-batch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from upstream import ranks
from upstream.keyed import keyed_int
from upstream.training.fitting import is_out_of_memory, no_room
from upstream.training.peak import Arithmetic
from upstream.training.pool import Pool
from upstream.training.precision import autocast
from upstream.training.recipe import TrainingRecipe
from upstream.training.sharding import Shards
from upstream.training.task import Loss, Task


def accumulate(task: Task[Any], batches: list[Any], recipe: TrainingRecipe, seed: int, device: torch.device, pool: Pool,
               scale: float = 1.0, arithmetic: Arithmetic | None = None, shards: Shards | None = None) -> bool:
    """Add the gradient of this rank's part of the update's mean loss to `.grad`.

    Args:
        batches: this rank's micro-batches of the update.
        pool: gets what their losses measured, of those before the first that is not finite.
        scale: what the loss is multiplied by before the backward pass.

    Returns:
        Whether all losses are finite.

    Raises:
        HubertkitError: a micro-batch does not fit into memory.
    """
    task.model.train()
    every = ranks.total(sum(b.weight for b in batches)) / (1 if shards is None else shards.divisor)
    losses = []
    for batch in batches:
        if shards is not None:
            shards.sync(batch is batches[-1])
        # Fused attention and dropout take no generator, so the default one is seeded: nothing drawn earlier matters.
        torch.manual_seed(keyed_int(seed, "device", batch.update, batch.number))
        loss = _gradient(task, batch, recipe.precision, device, scale * batch.weight / every, arithmetic)
        if loss is None:
            raise no_room(task, batch, device, recipe, alone=shards is None)
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
