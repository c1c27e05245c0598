"""Dropout whose random numbers cost little on CPUs.

torch draws one number a value there, in one thread, which takes a tenth of an update of BASE; 16 random bits are
enough. Elsewhere torch's own fused kernel does it. Both draw from torch's default generator, here by way of a seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

# Dtypes whose values are masked bit by bit, and integers of their width.
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_LEVELS = 2**15  # a chance is met to within 1 / 32768: of 0.1 by 6e-6


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
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, -(-like.numel() // 4), np.uint64)
    drawn = torch.from_numpy(words.view(np.int16))[: like.numel()].view(like.shape)
    drawn.bitwise_right_shift_(1)  # -16384 to 16383, so that the difference below does not overflow
    drawn.sub_(_LEVELS // 2 - round(chance * _LEVELS))  # negative with a chance of 1 - `chance`
    return drawn.bitwise_right_shift_(15).to(BITS[like.dtype])


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
