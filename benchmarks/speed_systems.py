"""One update of HuBERT pretraining, by hubertkit and by what people would use instead: the same work for each.

Same shapes, dropout rates, classes, masked share and optimiser. Peers that draw masks themselves draw them at the same
rate. Only torch, torchaudio, transformers and numpy are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.frames import CONV_GRID
from upstream.keyed import keyed
from upstream.model import Encoder, EncoderConfig, MaskedPrediction, SpanMask, batch_masks
from upstream.training.compiling import compile_blocks
from upstream.training.optimiser import OptimiserRecipe, ParameterGroup, build_adamw, clip_gradients
from upstream.training.precision import autocast
from upstream.training.recipe import TrainingRecipe

Step = Callable[[], float]
MODELS = {
    "tiny": {"width": 64, "layers": 2, "heads": 4, "ffn": 128, "conv_dim": 32},  # for tests
    "base": {"width": 768, "layers": 12, "heads": 12, "ffn": 3072, "conv_dim": 512},
    "large": {"width": 1024, "layers": 24, "heads": 16, "ffn": 4096, "conv_dim": 512},
}


@dataclass(frozen=True)
class Work:
    """A micro-batch: `batch` crops of `seconds`, nothing padded."""

    model: str
    batch: int
    seconds: float
    device: torch.device
    precision: str
    classes: int = 100

    @property
    def shape(self) -> dict[str, int]:
        """Sizes of the encoder."""
        return MODELS[self.model]

    @property
    def frames(self) -> int:
        """Of each crop."""
        return CONV_GRID.frames(self.samples)

    @property
    def samples(self) -> int:
        """Of each crop."""
        return int(self.seconds * 16_000)

    def waveforms(self) -> Tensor:
        """(B, S) float32 noise, always the same."""
        return (0.1 * torch.randn(self.batch, self.samples, generator=torch.Generator().manual_seed(0))).to(self.device)

    def labels(self) -> Tensor:
        """(B, T) int64, on the host."""
        return torch.randint(self.classes, (self.batch, self.frames), generator=torch.Generator().manual_seed(1))

    def mask(self) -> Tensor:
        """(B, T) bool, on the host: spans of 10 frames started at 8% of them, as in the paper."""
        rngs = [keyed(0, "speed", row) for row in range(self.batch)]
        return torch.from_numpy(batch_masks(rngs, [self.frames] * self.batch, SpanMask()))


def hubertkit(work: Work) -> Step:
    """Ours."""
    model = MaskedPrediction(Encoder(EncoderConfig(**work.shape)), (work.classes,)).initialise(0)  # type: ignore[arg-type]
    model = model.to(work.device).train()
    compile_blocks(model, TrainingRecipe(), work.device)  # as training does: on a GPU
    waveforms, mask, labels = work.waveforms(), work.mask(), work.labels()[..., None]
    return _step(work, model, lambda: model(waveforms, None, mask, labels).total)


def torchaudio(work: Work) -> Step:
    """torchaudio's model with the loss of its training recipe (masked cross-entropy and 10 times the penalty)."""
    from torchaudio.models import hubert_pretrain_model

    shape = work.shape
    model = hubert_pretrain_model(
        extractor_mode="group_norm", extractor_conv_layer_config=_conv_layers(shape["conv_dim"]),
        extractor_conv_bias=False,
        encoder_embed_dim=shape["width"], encoder_projection_dropout=0.1, encoder_pos_conv_kernel=128,
        encoder_pos_conv_groups=16, encoder_num_layers=shape["layers"], encoder_num_heads=shape["heads"],
        encoder_attention_dropout=0.1, encoder_ff_interm_features=shape["ffn"], encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.1, encoder_layer_norm_first=False, encoder_layer_drop=0.05, mask_prob=0.8,
        mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False, mask_min_space=1,
        mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0, mask_channel_length=10,
        no_mask_channel_overlap=False, mask_channel_min_space=1, skip_masked=False, skip_nomask=False,
        num_classes=work.classes, final_dim=256, feature_grad_mult=0.1).to(work.device).train()
    waveforms, labels = work.waveforms(), work.labels().to(work.device)

    def loss() -> Tensor:
        masked, _, penalty = model(waveforms, labels)
        first = torch.zeros(len(masked), dtype=torch.long, device=work.device)  # the true class stands first
        return F.cross_entropy(masked.float(), first) + 10 * penalty

    return _step(work, model, loss)


def transformers(work: Work) -> Step:
    """transformers' model, fused attention, with a plain head on masked frames."""
    from transformers import HubertConfig, HubertModel

    shape = work.shape
    config = HubertConfig(
        hidden_size=shape["width"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        intermediate_size=shape["ffn"], conv_dim=[shape["conv_dim"]] * 7, hidden_dropout=0.1, attention_dropout=0.1,
        activation_dropout=0.0, feat_proj_dropout=0.1, layerdrop=0.05)  # its attention is the fused one
    encoder = HubertModel(config)
    head = _Head(shape["width"], work.classes)
    model = nn.ModuleDict({"encoder": encoder, "head": head}).to(work.device).train()
    waveforms, mask = work.waveforms(), work.mask().to(work.device)
    labels = work.labels().to(work.device)[mask]

    def loss() -> Tensor:
        states = encoder(waveforms, mask_time_indices=mask).last_hidden_state
        return F.cross_entropy(head(states[mask]), labels)

    return _step(work, model, loss)


def compiled(work: Work) -> Step:
    """Plain PyTorch, compiled: torch.compile over a straightforward HuBERT, fused attention, head on masked frames."""
    model = PlainHubert(work.shape, work.classes).to(work.device).train()
    waveforms, mask = work.waveforms(), work.mask().to(work.device)
    labels = work.labels().to(work.device)[mask]
    where = mask.flatten().nonzero()[:, 0]
    fast: Any = torch.compile(model)
    return _step(work, model, lambda: F.cross_entropy(fast(waveforms, mask, where), labels))


SYSTEMS: dict[str, Callable[[Work], Step]] = {
    "hubertkit": hubertkit, "torchaudio": torchaudio, "transformers": transformers, "compiled": compiled}


class PlainHubert(nn.Module):
    """HuBERT as a person would write it down: `nn.Conv1d`, `nn.Linear`, `scaled_dot_product_attention`."""

    def __init__(self, shape: dict[str, int], classes: int) -> None:
        super().__init__()
        dim, width = shape["conv_dim"], shape["width"]
        kernels, strides = CONV_GRID.kernels, CONV_GRID.strides
        self.convs = nn.ModuleList(nn.Conv1d(dim if i else 1, dim, k, s, bias=False)
                                   for i, (k, s) in enumerate(zip(kernels, strides)))
        self.group_norm = nn.GroupNorm(dim, dim)
        self.norm, self.project = nn.LayerNorm(dim), nn.Linear(dim, width)
        self.mask_vector = nn.Parameter(torch.rand(width))
        self.position = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(width, width, 128, padding=64, groups=16), dim=2)
        self.first_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_PlainBlock(width, shape["heads"], shape["ffn"]) for _ in range(shape["layers"]))
        self.head = _Head(width, classes)

    def forward(self, waveforms: Tensor, mask: Tensor, where: Tensor) -> Tensor:
        x = waveforms[:, None]
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.gelu(self.group_norm(x) if i == 0 else x)
        x = F.dropout(self.project(self.norm(x.transpose(1, 2))), 0.1, self.training)
        x = torch.where(mask[..., None], self.mask_vector.to(x.dtype), x)
        x = x + F.gelu(self.position(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        x = F.dropout(self.first_norm(x), 0.1, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(0, 1)[where])


class _PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        y = self.out(y.transpose(1, 2).reshape(B, T, D))
        x = self.norm1(x + F.dropout(y, 0.1, self.training))
        return self.norm2(x + F.dropout(self.down(F.gelu(self.up(x))), 0.1, self.training))


class _Head(nn.Module):
    """Cosines with class vectors over 0.1."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.project, self.table = nn.Linear(width, 256), nn.Parameter(torch.rand(classes, 256))

    def forward(self, frames: Tensor) -> Tensor:
        return F.normalize(self.project(frames).float(), dim=-1) @ F.normalize(self.table, dim=-1).t() / 0.1


def _conv_layers(dim: int) -> list[tuple[int, int, int]]:
    return [(dim, kernel, stride) for kernel, stride in zip(CONV_GRID.kernels, CONV_GRID.strides)]


def _step(work: Work, model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Forward, backward, clip, AdamW: one update. Gives the loss, which on a GPU waits for the update to end."""
    optimiser = build_adamw([ParameterGroup(list(model.parameters()))], OptimiserRecipe())
    for group in optimiser.param_groups:
        group["lr"] = 1e-5

    def step() -> float:
        with autocast(work.device, work.precision):
            value = loss()
        value.backward()
        clip_gradients(model.parameters(), 10.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(value.detach())

    return step
