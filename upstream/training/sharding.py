"""Models too large for one rank: weights spread over ranks (FSDP2), activations computed again instead of kept.

Both change where numbers lie and not what they are: a sharded run's checkpoints are those of an unsharded one, and load
on any number of ranks. Works over gloo on CPUs and over nccl on GPUs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from upstream import ranks
from upstream.errors import RecipeError
from upstream.model.transformer import Block, Transformer
from upstream.training.recipe import TrainingRecipe


def prepare(model: nn.Module, recipe: TrainingRecipe) -> None:
    """Make a model keep only the input of every Transformer block, if the recipe says so, and run blocks again in the
    backward pass. Dropout draws the same again, so gradients are equal to the bit. In place; state dicts stay as they
    are."""
    if not recipe.checkpoint_activations:
        return
    for block in _blocks(model):
        if not isinstance(block.forward, partial):  # a model may be trained twice
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


class Shards:
    """A task's model, spread over all ranks.

    Every rank holds its part of each parameter, of its gradient and of the optimiser's state; a block's weights are
    gathered while it computes. Rank 0 has the memory of a whole copy beside it, on the CPU: for validation and for what
    is saved.

    Args:
        task: its `model` is sharded in place.

    Raises:
        RecipeError: the model drops whole layers at random, on every rank others.
    """

    def __init__(self, task: Any, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = task.model
        if any(m.layerdrop > 0 for m in model.modules() if isinstance(m, Transformer)):
            raise RecipeError("training.shard=true: ranks would drop different layers, and wait for each other for "
                              "ever; set encoder.layerdrop=0")
        self._task, self._model, self._device = task, model, device
        self._whole = copy.deepcopy(model).cpu() if ranks.first() else None
        mesh = init_device_mesh(device.type, (ranks.count(),))
        for block in _blocks(model):
            if not hasattr(block.attention, "rel_attn_embed"):  # which is read from outside the block: left to the root
                fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """The task has its whole model inside, on rank 0; others must not use theirs. All ranks must come."""
        state = whole_state(self._model)
        if self._whole is None:
            yield
            return
        self._whole.load_state_dict(state)
        self._whole.to(self._device)
        self._task.model = self._whole
        try:
            yield
        finally:
            self._task.model = self._model
            self._whole.cpu()

    @property
    def divisor(self) -> int:
        """What gradients are divided by when they are added over ranks."""
        return ranks.count()

    def finish(self) -> None:
        """Leave the task with the whole model, on rank 0."""
        with self.gathered():
            pass
        if self._whole is not None:
            self._task.model = self._whole.to(self._device)

    def sync(self, last: bool) -> None:
        """Before a micro-batch: gradients are added over ranks after the last one of an update only."""
        self._model.set_requires_gradient_sync(last)

    def join(self, finite: bool, stop: bool) -> tuple[bool, bool]:
        """As `GradientSum.join`, for gradients that are joined already: whether all ranks were finite, and whether any
        was asked to stop."""
        found = ranks.gather((finite, stop))
        return all(f for f, _ in found), any(s for _, s in found)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tensors, on the CPU; empty on ranks other than the first. All ranks must ask."""
    found = {}
    for name, value in model.state_dict().items():  # one after the other: the whole model need not fit on the device
        complete = whole(value.detach())
        if ranks.first():
            found[name] = complete.cpu()
    return found


def whole(value: Tensor) -> Tensor:
    """A sharded tensor put together, which all ranks must do at once; any other as it is."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor as one that is laid out as `model`: this rank's shard of it, if that is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(model.device)
    if not isinstance(model, DTensor) or not value.dim():
        return value
    return distribute_tensor(value, model.device_mesh, model.placements, src_data_rank=None)


def can_shard() -> bool:
    """Whether there are ranks to spread a model over."""
    return dist.is_initialized() and ranks.count() > 1


def _blocks(model: nn.Module) -> list[Block]:
    return [m for m in model.modules() if isinstance(m, Block)]
