"""Attention over frames, by torch's fused kernels where they are fast and by plain matrix products where they are not.

`B` batch, `H` heads, `T` frames, `d` width of a head.

On CPUs torch's fused kernel knows no dropout, and without it takes twice as long in bfloat16 as two matrix products, up
to about 500 frames. Autocast would do the softmax between them in float32, and with dropout that is half of the time of
attention. Here everything stays in the dtype of the queries (the kernel itself adds up in float32), dropout takes a few
bit operations (`upstream.model.dropout`), and the gradient needs the weights before and after dropout and no mask.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.nn.attention import SDPBackend, sdpa_kernel

from upstream.model.dropout import BITS, keep_mask, masked

# All but cuDNN's, which torch prefers on an H100: it may round the dropout rate to sixteenths (pytorch issue 174245),
# and give gradients that are not a number where rows are padded (196678), and it plans anew for every new shape.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """softmax(q k' + bias) v, with dropout on the weights.

    Args:
        q, k, v: (B, H, T, d) of one dtype; queries are scaled already.
        bias: added to the logits, broadcast to (B, H, T, T); None for none.
        dropout: chance that a weight counts as zero.
    """
    plain = q.dtype == torch.bfloat16 or (dropout > 0 and q.dtype in BITS)
    learned_bias = bias is not None and bias.requires_grad
    if q.device.type != "cpu" or learned_bias or not plain:
        return _fused(q, k, v, bias, dropout)
    flat = (-1, *q.shape[2:])
    with torch.autocast("cpu", enabled=False):
        y = _Attention.apply(q.reshape(flat), k.reshape(flat), v.reshape(flat), bias, q.shape, dropout)
    return y.view(q.shape)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    if q.device.type == "cpu":  # which has no choice; to say so would take as long as a small product
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=1.0)
    with sdpa_kernel(KERNELS):
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=1.0)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, shape: torch.Size,
                dropout: float) -> Tensor:
        logits = torch.bmm(q, k.transpose(1, 2))  # (B * H, T, T)
        if bias is not None:
            logits.view(*shape[:3], -1).add_(bias)
        weights = torch.softmax(logits, -1)
        del logits
        kept = masked(weights, keep_mask(weights, dropout)) if dropout else weights
        v = v * (1 / (1 - dropout)) if dropout else v  # cheaper than scaling the weights
        y = torch.bmm(kept, v)
        ctx.save_for_backward(q, k, v, weights, kept, y)
        ctx.dropout = dropout
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, weights, kept, y = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_v = torch.bmm(kept.transpose(1, 2), gradient)
        if ctx.dropout:
            to_v.mul_(1 / (1 - ctx.dropout))
        # Of logits s, weights p and what dropout leaves of them, r: ds = r * (dy v') - p * sum(r * (dy v')), and the
        # sum over keys is that of dy * y over the head (as in FlashAttention, Dao et al. 2022).
        sums = (gradient * y).sum(-1, keepdim=True)
        to_logits = torch.bmm(gradient, v.transpose(1, 2)).mul_(kept).addcmul_(weights, sums, value=-1)
        return torch.bmm(to_logits, k), torch.bmm(to_logits.transpose(1, 2), q), to_v, None, None, None
