"""The Transformer of HuBERT: a convolution that tells positions apart, then blocks of attention and feed-forward.

`B` batch, `T` frames, `D` width, `H` heads. Module names are those of `transformers`, so a state dict needs no
renaming to be saved in its format.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.model.attention import attend
from upstream.model.config import EncoderConfig
from upstream.model.dropout import Dropout
from upstream.model.frontend import working_dtype
from upstream.model.products import Linear, linear
from upstream.model.relative_position import GATE_DIM, gate, position_bias

NORM_EPSILON = 1e-5
LEAST_CHANNELS = 16  # of a group that a CPU convolves in low precision: with 4 and 8 it was wrong, from 16 on right


class Transformer(nn.Module):
    """Positional convolution and blocks, post-norm or pre-norm (fairseq `TransformerEncoder` in wav2vec2.py)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.layerdrop = config.layerdrop
        deep = config.positional_depth > 1
        self.pos_conv_embed = DeepPositionalEmbedding(config) if deep else _PositionalEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, first=index == 0) for index in range(config.layers))
        self.relative_distance = config.relative_distance if config.relative_buckets else None

    def forward(
        self, x: Tensor, inside: Tensor | None, stop_at: int | None = None, clear: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks.

        Args:
            x: (B, T, D), zero at padded frames.
            inside: (B, T) bool, true at real frames; None if all are.
            stop_at: how many blocks to run; None for all, and then the final norm of a pre-norm model too.
            clear: hide padded frames from every convolution over positions; false leaves to the second and later ones
                of a deep embedding what the one before has put there, as fairseq and transformers do.

        Returns:
            The last output (B, T, D), and the input of the first block followed by the raw output of each block.
        """
        x = x + self.pos_conv_embed(x, inside if clear else None)
        if not self.pre_norm:
            x = self.layer_norm(x)
        x = self.dropout(x)
        bias = None if inside is None else _attention_bias(inside, x.dtype)
        positions = self._position_bias(x.shape[1])
        states = [x]
        for block in self.layers[:stop_at]:
            if not self._dropped():
                x = block(x, bias, positions)
            states.append(x)
        if self.pre_norm and stop_at is None:
            x = self.layer_norm(x)
        return x, states

    def _position_bias(self, frames: int) -> Tensor | None:
        """WavLM's bias (H, T, T), whose table stands in the first block; all blocks use it, that one dropped or not."""
        if self.relative_distance is None:
            return None
        first = self.layers[0]
        assert isinstance(first, Block)
        return position_bias(first.attention.rel_attn_embed.weight, frames, self.relative_distance)

    def _dropped(self) -> bool:
        """Whether to skip a block now; drawn on the host, from torch's default generator, in training only."""
        return self.training and self.layerdrop > 0 and float(torch.rand(())) < self.layerdrop


class _PositionalEmbedding(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv = PositionalConvolution(config.width, config.positional_kernel, config.positional_groups)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        return F.gelu(self.conv(x))  # `x` is zero at padded frames already


class PositionalConvolution(nn.Module):
    """Grouped convolution over time with `weight[:, :, j] = g[j] * v[:, :, j] / norm(v[:, :, j])` for each tap j.

    Equals `torch.nn.utils.weight_norm(conv, dim=2)`; `g` and `v` are plain parameters, and `w` is computed once a call.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_g = nn.Parameter(torch.ones(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, kernel).normal_())
        self.bias = nn.Parameter(torch.zeros(width))

    def weight(self) -> Tensor:
        """The normalised weight (D, D / groups, kernel), float32."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D); an even kernel would give one frame more, which is cut off (`SamePad`)."""
        return _convolved(x, self.weight(), self.bias, self.groups)


class DeepPositionalEmbedding(nn.Module):
    """data2vec's: narrow convolutions one after another, each with a norm without weights and GELU (make_conv_block in
    fairseq's `TransformerEncoder`)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_PositionalLayer(config) for _ in range(config.positional_depth))

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `inside (B, T)` bool clears the other frames behind each convolution."""
        for layer in self.layers:
            x = layer(x)
            if inside is not None:
                x = x.masked_fill(~inside[..., None], 0)
        return x


class _PositionalLayer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(config.width, config.width, config.positional_kernel, groups=config.positional_groups)

    def forward(self, x: Tensor) -> Tensor:
        assert self.conv.bias is not None
        y = _convolved(x, self.conv.weight, self.conv.bias, self.conv.groups)
        return F.gelu(F.layer_norm(y, y.shape[-1:], eps=NORM_EPSILON))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolution over time of (B, T, D) with zeros around it, cut to T frames.

    Written as a convolution of an image one row high: (B, D, 1, T) in this memory order is "channels last", for which
    CPU kernels are two to three times faster than for the same `conv1d`. Of narrow groups in low precision oneDNN's, on
    processors with AMX, give other numbers altogether; those are computed in float32.
    """
    kind = working_dtype(x)
    if kind.itemsize < 4 and x.device.type == "cpu" and weight.shape[1] < LEAST_CHANNELS:
        with torch.autocast("cpu", enabled=False):
            return _convolved(x.float(), weight.float(), bias.float(), groups).to(kind)
    image = x.transpose(1, 2)[:, :, None]
    y = F.conv2d(image, weight[:, :, None], bias, padding=(0, weight.shape[-1] // 2), groups=groups)
    return y[:, :, 0, : x.shape[1]].transpose(1, 2)


class Block(nn.Module):
    """Attention and feed-forward with residuals.

    post-norm: `x = norm(x + f(x))`; pre-norm: `x = x + f(norm(x))`.
    """

    def __init__(self, config: EncoderConfig, first: bool = False) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(config, first)
        self.dropout = Dropout(config.dropout)
        self.layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)

    def forward(self, x: Tensor, bias: Tensor | None, positions: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `bias` and `positions` as in `Attention.forward`."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), bias, positions))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, bias, positions)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Attention(nn.Module):
    """Multi-head self-attention, in WavLM with a bias of relative positions (`relative_position`)."""

    def __init__(self, config: EncoderConfig, first: bool) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)
        if config.relative_buckets:
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.heads, 1, 1))
            self.gru_rel_pos_linear = nn.Linear(width // self.heads, GATE_DIM)
            if first:  # shared by all blocks
                self.rel_attn_embed = nn.Embedding(config.relative_buckets, self.heads)

    def forward(self, x: Tensor, bias: Tensor | None, positions: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D).

        Args:
            bias: (B, 1, 1, T), added to the logits: 0, or -inf for keys that are padding; None if none is.
            positions: (H, T, T), added to the logits behind a gate of each query; in WavLM only.

        Queries, keys and values are three products on purpose: one joint product is no faster here, and the gradients
        of its three parts would have to be copied together.
        """
        B, T, D = x.shape
        # Not a number that the module keeps: compiled, that would be a tensor on the host. Cheaper than scaling q.
        scale = (self.q_proj.weight.shape[0] // self.heads) ** -0.5
        q = linear(x, self.q_proj.weight * scale, self.q_proj.bias * scale)
        heads = (B, T, self.heads, D // self.heads)
        if positions is not None:
            gates = gate(x.view(heads), self.gru_rel_pos_linear.weight, self.gru_rel_pos_linear.bias,
                         self.gru_rel_pos_const)
            bias = gates * positions if bias is None else torch.addcmul(bias, gates, positions)  # (B, H, T, T)
        q, k, v = (y.view(heads).transpose(1, 2) for y in (q, self.k_proj(x), self.v_proj(x)))  # (B, H, T, D / H)
        y = attend(q, k, v, None if bias is None else bias.to(q.dtype), self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, D))


def _attention_bias(inside: Tensor, dtype: torch.dtype) -> Tensor:
    bias = torch.zeros(inside.shape, dtype=dtype, device=inside.device)
    return bias.masked_fill_(~inside, float("-inf"))[:, None, None]


class FeedForward(nn.Module):
    """Two matrices with an exact GELU between them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.intermediate_dense = Linear(config.width, config.ffn)
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = Linear(config.ffn, config.width)
        self.output_dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = self.intermediate_dropout(F.gelu(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))
