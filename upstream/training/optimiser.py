"""AdamW, learning-rate schedules and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimiserRecipe:
    """AdamW and its schedule. Defaults are HuBERT BASE's (fairseq `hubert_base_librispeech.yaml`)."""

    peak_rate: float = 5e-4  # the highest learning rate
    schedule: Literal["linear", "tri-stage"] = "linear"  # up and down in lines; or up, hold, and down exponentially
    warmup_updates: int = 32_000  # until the peak
    hold_updates: int = 0  # tri-stage only
    decay_updates: int = 0  # tri-stage: from the peak to `final_scale`; 0 is: until the last update
    initial_scale: float = 0.01  # tri-stage: rate of the first update over the peak
    final_scale: float = 0.05  # tri-stage: rate of the last update over the peak
    beta1: float = 0.9  # of Adam
    beta2: float = 0.98  # of Adam
    epsilon: float = 1e-6  # of Adam
    weight_decay: float = 0.01  # of AdamW; norms and biases, too, as in fairseq
    clip_norm: float = 10.0  # 0: no clipping

    def __post_init__(self) -> None:
        if self.peak_rate <= 0:
            raise ValueError(f"peak_rate={self.peak_rate}, must be above 0")
        for name in ("warmup_updates", "hold_updates", "decay_updates", "clip_norm", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}, must be at least 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1={self.beta1}, beta2={self.beta2}: must lie in [0, 1)")
        if not 0 <= self.initial_scale <= 1:
            raise ValueError(f"initial_scale={self.initial_scale}, must lie in [0, 1]")
        if not 0 < self.final_scale <= 1:  # the decay is exponential: it never gets to 0
            raise ValueError(f"final_scale={self.final_scale}, must lie in (0, 1]")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon={self.epsilon}, must be above 0")


def learning_rate(recipe: OptimiserRecipe, update: int, updates: int) -> float:
    """Rate of update `update`, counted from 1, of `updates` in all.

    `linear`: from 0 up to the peak over the warm-up, then down to 0 (fairseq's polynomial decay of power 1).
    `tri-stage`: from `initial_scale` up, hold, then exponentially down to `final_scale` (Park et al. 2019; fairseq
    `tri_stage`). As there, the rate is a function of the updates already made, so a linear warm-up starts at 0.
    """
    made = update - 1
    warmup = recipe.warmup_updates
    if recipe.schedule == "linear":
        if made <= warmup and warmup:
            return recipe.peak_rate * made / warmup
        return recipe.peak_rate * max(0.0, 1 - (made - warmup) / max(1, updates - warmup))
    if made < warmup:
        return recipe.peak_rate * (recipe.initial_scale + (1 - recipe.initial_scale) * made / warmup)
    made -= warmup
    if made < recipe.hold_updates:
        return recipe.peak_rate
    decay = recipe.decay_updates or max(1, updates - warmup - recipe.hold_updates)
    through = min(1.0, (made - recipe.hold_updates) / decay)
    return recipe.peak_rate * math.exp(math.log(recipe.final_scale) * through)


def cut_short(recipe: OptimiserRecipe, updates: int) -> str | None:
    """Which part of the schedule a training of so many updates never comes to, in words; None if it comes to all."""
    warmup, hold = recipe.warmup_updates, recipe.hold_updates
    whole = f"training.updates={updates}"
    if warmup >= updates:
        return f"the rate never reaches its peak: training.optimiser.warmup_updates={warmup} of {whole}; lower it"
    if recipe.schedule == "tri-stage" and warmup + hold >= updates:
        return (f"the rate never falls: training.optimiser.warmup_updates={warmup} and hold_updates={hold} of {whole}; "
                "lower them")
    return None


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a rate: `scale` times the schedule's, and 0 before update `from_update`."""

    parameters: list[nn.Parameter]
    scale: float = 1.0
    from_update: int = 1


def build_adamw(groups: Iterable[ParameterGroup], recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """torch's fused AdamW; every parameter is decayed, as in fairseq."""
    settings: list[dict[str, Any]] = [
        {"params": g.parameters, "lr": 0.0, "scale": g.scale, "from_update": g.from_update} for g in groups
    ]
    return torch.optim.AdamW(settings, lr=0.0, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon,
                             weight_decay=recipe.weight_decay, fused=True)


def set_rates(optimiser: torch.optim.Optimizer, recipe: OptimiserRecipe, update: int, updates: int) -> float:
    """Set the rate of every group for one update; gives the schedule's own."""
    rate = learning_rate(recipe, update, updates)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"] if update >= group["from_update"] else 0.0
    return rate


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients in place to a total L2 norm of at most `limit` (0: leave them); gives the norm before.

    Few updates need it. On CPUs the gradients of the others are not touched: to multiply them by 1 would take a
    hundredth of an update of BASE. Elsewhere that costs less than to wait here for the norm.
    """
    found = [p for p in parameters if p.grad is not None]
    norm = _total_norm([p.grad for p in found if p.grad is not None])
    lies_here = type(norm) is Tensor and norm.device.type == "cpu"  # and is not one of a sharded model
    if limit > 0 and not (lies_here and float(norm) <= limit):
        torch.nn.utils.clip_grads_with_norm_(found, limit, norm)
    return norm


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all values. On CPUs by dot products, which take less time than torch's norm and are more exact."""
    plain = all(type(g) is Tensor and g.device.type == "cpu" and g.dtype == torch.float32 for g in gradients)
    if not plain or not gradients:
        return torch.nn.utils.get_total_norm(gradients)
    flat = (g.reshape(-1) for g in gradients)
    return torch.stack([torch.dot(g, g) for g in flat]).sum(dtype=torch.float64).sqrt().float()
