"""What fits into memory: micro-batches of more or fewer rows, and what to say where one is too large."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import torch
from torch import Tensor

from upstream.errors import HubertkitError
from upstream.training.precision import autocast
from upstream.training.recipe import TrainingRecipe

SAID_OF_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_OF_NO_MEMORY)


def no_room(task: Any, batch: Any, device: torch.device, recipe: TrainingRecipe, alone: bool = True) -> HubertkitError:
    """The error to raise where a micro-batch did not fit; fewer of its rows are tried, to say how many do, unless other
    ranks would have to take part. First it names what an unfinished training may go on with."""
    rows = rows_of(batch)
    whole = getattr(task, "hears_whole_utterances", False)  # of several lengths, padded
    each = batch.seconds / rows
    size = f"{rows} utterances" if whole else f"{rows} x {each:.3g} s"
    said = f"update {batch.update}: a micro-batch of {batch.seconds:.4g} s ({size}) does not fit into memory"
    advice = "" if recipe.checkpoint_activations else (
        "; the same command with training.checkpoint_activations=true needs less and goes on from the last checkpoint")
    if not alone:
        return HubertkitError(f"{said}{advice}; or begin anew with a lower training.micro_batch_seconds (the update "
                              "keeps its batch_seconds)")
    fits = _rows_that_fit(task, batch, rows // 2, device, recipe.precision)
    if not fits:
        one = "one utterance" if whole else f"one crop of {each:.3g} s"
        less = "without the longest utterances" if whole else "with a lower training.crop_seconds"
        return HubertkitError(f"{said}, and neither does {one} alone{advice}; or begin anew {less}")
    fit = f"{fits} of them do" if whole else f"{fits * each:.4g} s ({fits} x {each:.3g} s) do"
    amount = "" if whole else "auto or "
    return HubertkitError(f"{said}, {fit}{advice}; or begin anew with training.micro_batch_seconds={amount}"
                          f"{fits * each:.4g} or less (the update keeps its batch_seconds)")


def _rows_that_fit(task: Any, batch: Any, rows: int, device: torch.device, precision: str) -> int:
    """Halved until it fits; 0 if nothing does."""
    while rows:
        free(task, device)
        try:
            pass_through(task, with_rows(batch, rows), device, precision)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return rows
        rows //= 2
    return 0


def pass_through(task: Any, batch: Any, device: torch.device, precision: str) -> None:
    """One forward and backward pass that leaves no gradient."""
    task.model.train()
    with autocast(device, precision):
        total = task.loss(batch).total
    total.backward()
    task.model.zero_grad(set_to_none=True)


def free(task: Any, device: torch.device) -> None:
    """Give back what a failed pass may have left."""
    task.model.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def rows_of(batch: Any) -> int:
    """Utterances of a batch."""
    return len(batch.ids)


def with_rows(batch: Any, rows: int) -> Any:
    """A batch like this one with another number of rows, some of them several times.

    What has a whole number of entries a row goes with the rows: tensors of waveforms, masks, labels of frames; and
    lists of one entry a row.
    """
    old = rows_of(batch)
    changed: dict[str, Any] = {"weight": batch.weight * rows / old, "seconds": batch.seconds * rows / old}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, list) and len(value) == old:
            changed[field.name] = [value[i % old] for i in range(rows)]
        if isinstance(value, Tensor) and value.dim() and value.shape[0] % old == 0:
            parts = value.unflatten(0, (old, -1))
            changed[field.name] = parts[torch.arange(rows, device=value.device) % old].flatten(0, 1)
    return dataclasses.replace(batch, **changed)
