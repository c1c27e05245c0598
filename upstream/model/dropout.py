"""Dropout whose random numbers cost little on CPUs.

torch draws one number a value there, in one thread, which takes a tenth of an update of BASE; 16 random bits are
enough. Elsewhere torch's own fused kernel does it. Both draw from torch's default generator, here by way of a seed.
What is large is drawn in blocks, each from a stream of its own: by as many threads as torch uses, and the same bits
whatever their number.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import Function

# Dtypes whose values are masked bit by bit, and integers of their width.
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_INTEGERS = {torch.int16: np.int16, torch.int32: np.int32}
_LEVELS = 2**15  # a chance is met to within 1 / 32768: of 0.1 by 6e-6
_BLOCK = 2**20  # values: 2 MB of random bits, what a core's own cache holds


class Dropout(nn.Dropout):
    """`nn.Dropout`, faster on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p, self.training)


def dropout(x: Tensor, chance: float, training: bool = True) -> Tensor:
    """Zero each value with a chance, in training, and scale the others by 1 / (1 - chance)."""
    if not training or chance == 0:
        return x
    if x.device.type != "cpu" or x.dtype not in BITS:
        return F.dropout(x, chance)
    return _Dropout.apply(x, keep_mask(x, chance), 1 / (1 - chance))


def keep_mask(like: Tensor, chance: float) -> Tensor:
    """Integers of the width of a CPU tensor's values, all bits set but with a chance none: `values & mask` drops.

    Returns:
        The shape of `like`; int16 for 16-bit values, int32 for float32.
    """
    seed = int(torch.randint(2**62, ()))
    mask = np.empty(like.numel(), _INTEGERS[BITS[like.dtype]])
    blocks = [mask[first:first + _BLOCK] for first in range(0, len(mask), _BLOCK)]
    # The first has the stream of the seed alone, which is all that small tensors need.
    streams = [np.random.SFC64((seed, number) if number else seed) for number in range(len(blocks))]
    if len(blocks) > 1 and torch.get_num_threads() > 1:
        list(_threads(torch.get_num_threads()).map(_draw, blocks, streams, [chance] * len(blocks)))
    else:
        for block, stream in zip(blocks, streams):
            _draw(block, stream, chance)
    return torch.from_numpy(mask).view(like.shape)


def _draw(block: NDArray[Any], stream: np.random.SFC64, chance: float) -> None:
    """Fill `block (n,)`; numpy alone, which leaves the other threads free."""
    words = np.random.Generator(stream).integers(0, 2**64, -(-len(block) // 4), np.uint64)
    drawn = words.view(np.int16)[:len(block)]
    drawn >>= 1  # -16384 to 16383, so that the difference below does not overflow
    drawn -= np.int16(_LEVELS // 2 - round(chance * _LEVELS))  # negative with a chance of 1 - `chance`
    np.right_shift(drawn, 15, out=drawn)
    block[:] = drawn


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "dropout")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of its parent's threads


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """What `mask` of `keep_mask` keeps of `x`, and zeros."""
    return x.contiguous().view(mask.dtype).bitwise_and(mask).view(x.dtype)


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return masked(x, mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return masked(gradient, mask).mul_(ctx.scale), None, None
