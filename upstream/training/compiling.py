"""Transformer blocks compiled for a GPU: what stands between their matrix products becomes a few kernels.

One block is compiled, for any number of rows and frames, and all share it: the rest of the model stays as written, for
there is little to fuse or much to wait for. On CPUs compiling takes longer than it saves.
"""

from __future__ import annotations

import torch
from torch import nn

from upstream.errors import UsageError
from upstream.model.transformer import Block
from upstream.progress import say
from upstream.training.recipe import AUTO, TrainingRecipe


def compile_blocks(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> bool:
    """Compile a model's blocks if `recipe.compile` says so: `auto` is on GPUs, where a compiler is there, for a model
    that is not spread over ranks. In place; names of parameters stay as they are.

    Returns:
        Whether they are compiled.

    Raises:
        UsageError: the recipe demands it, and torch has no compiler here.
    """
    if recipe.compile == AUTO:
        wanted = device.type == "cuda" and not recipe.shard and has_compiler(device)
    else:
        wanted = recipe.compile
        if wanted and not has_compiler(device):
            raise UsageError("training.compile=true: torch finds no compiler here (a GPU needs the package triton, a "
                             "CPU a C++ compiler); use training.compile=auto or training.compile=false")
    if wanted:
        say("compiling the blocks, which takes a minute")
        in_place(model)
    return wanted


def in_place(model: nn.Module, backend: str = "inductor") -> None:
    """Compile every block of a model, all in the same way, whatever the shapes."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True, backend=backend)


def has_compiler(device: torch.device) -> bool:
    """Whether torch can compile for a device."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
