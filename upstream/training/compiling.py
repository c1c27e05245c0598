"""Transformer blocks compiled for a GPU: what stands between their matrix products becomes a few kernels.

All blocks share what is compiled for one of them, for any number of frames and of rows (one row apart, padded rows,
validation and frozen weights are compiled for themselves); the rest of the model stays as written, for there is little
to fuse or much to wait for. On CPUs compiling takes longer than it saves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from upstream.errors import UsageError
from upstream.model.transformer import Block
from upstream.training.recipe import AUTO, TrainingRecipe

VARIANTS = 32  # of a block that may be compiled: torch gives up after eight


def compile_blocks(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> bool:
    """Compile a model's blocks if `recipe.compile` says so: `auto` is on GPUs, where a compiler is there, for a model
    that is neither spread over ranks nor computed again backwards. In place; names of parameters stay as they are.

    Returns:
        Whether they are compiled.

    Raises:
        UsageError: the recipe demands it, and torch cannot compile here.
    """
    if recipe.compile == AUTO:
        alone = not recipe.shard and not recipe.checkpoint_activations
        wanted = device.type == "cuda" and alone and has_compiler(device)
    else:
        wanted = recipe.compile
        if wanted and not has_compiler(device):
            raise UsageError("training.compile=true: torch cannot compile here (for a GPU it needs the package triton, "
                             "a C compiler and Python's headers, for a CPU a C++ compiler); use training.compile=auto "
                             "or training.compile=false")
    if wanted:
        in_place(model)
    return wanted


def in_place(model: nn.Module, backend: str = "inductor") -> None:
    """Compile every block of a model, all in the same way, whatever the shapes."""
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True, backend=backend)


def has_compiler(device: torch.device) -> bool:
    """Whether torch can compile for a device; found out by compiling something small."""
    try:
        torch.compile(_small)(torch.zeros(64, device=device))
    except Exception:  # whatever is missing: each missing part has an error of its own
        return False
    return True


def _small(x: Tensor) -> Tensor:
    return (x + 1).sin()
