"""WavLM's bias of attention by relative position, which each query weighs by a gate of its own.

Chen et al. 2022, section III-B, as released: offsets between keys and queries fall into buckets, each with one learned
number a head, shared by all blocks. A block's gate is a function of its input at the query, so it costs the bias of
(B, H, T, T) in every block, where attention without it needs memory for its frames only.

`B` batch, `T` frames, `H` heads, `d` width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from upstream.device import sent

GATE_DIM = 8  # two gates, each the sum of four linear maps


def position_bias(table: Tensor, frames: int, distance: int) -> Tensor:
    """The bias of each head before its gates: (H, T, T), query by key.

    Args:
        table: (buckets, H), the learned number of each bucket.
        frames: T.
        distance: as in `offset_buckets`.
    """
    buckets = sent(offset_buckets(frames, len(table), distance), table.device)
    by_offset = F.embedding(buckets, table).t()  # (H, 2T - 1)
    return by_offset.unfold(-1, frames, 1).flip(1)  # the window of the last query starts at the lowest offset


def offset_buckets(frames: int, buckets: int, distance: int) -> Tensor:
    """Buckets of the offsets key - query from -(frames - 1) to frames - 1: (2 * frames - 1,) int64, on the host.

    Half of the buckets are for keys after the query. Half of those are for one offset each; the others widen by a
    constant ratio up to `distance`, and what lies beyond is in the last. The logarithm is taken in float32, as when
    WavLM was trained.

    Of 8 buckets and distance 8, offsets -8 to 8 have buckets 3 3 3 3 3 2 2 1 0 5 6 6 7 7 7 7 7.
    """
    offsets = torch.arange(1 - frames, frames)
    half = buckets // 2
    exact = half // 2
    far = offsets.abs()
    scaled = torch.log(far.clamp(min=1).float() / exact) / math.log(distance / exact) * (half - exact)
    wide = (exact + scaled.long()).clamp(max=half - 1)
    return torch.where(far < exact, far, wide) + half * (offsets > 0)


def gate(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """What each query multiplies the bias by: (B, H, T, 1).

    Args:
        x: (B, T, H, d), the input of the attention, cut into heads without any projection.
        weight, bias: (8, d) and (8,) of a linear map; four outputs each add up to one of two gates.
        scale: (1, H, 1, 1), one learned number a head.
    """
    summed = F.linear(x, weight.view(2, GATE_DIM // 2, -1).sum(1), bias.view(2, -1).sum(1))  # the sum taken beforehand
    update, reset = summed.permute(0, 2, 1, 3).sigmoid().split(1, dim=-1)  # (B, H, T, 1) each
    return update * (reset * scale - 1) + 2
