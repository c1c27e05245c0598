"""Reduced precision: autocast, and a loss scale for float16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn

from upstream.errors import UsageError

Precision = Literal["bf16", "fp16", "float32"]
FIRST_SCALE = 2.0**16
GROW_AFTER = 2000  # finite updates in a row


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bf16 or fp16, or none for `float32`. Raises UsageError for any other word."""
    if precision not in get_args(Precision):
        raise UsageError(f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}")
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


class LossScale:
    """Keeps float16 gradients above the smallest number that float16 has (Micikevicius et al. 2018, section 3.2).

    The loss is multiplied by `value` before the backward pass and the gradient divided by it after. An update whose
    gradient overflows is skipped and the scale halved; after 2,000 updates without one it is doubled. bf16 and float32
    need none: the scale is 1 and stays so. The same rule as `torch.amp.GradScaler`, with plain numbers for a state, and
    1 as the lowest.
    """

    def __init__(self, precision: str, state: Mapping[str, Any] | None = None) -> None:
        """`state`: what another's `state` was."""
        self._used = precision == "fp16"
        self.value = float(state["value"]) if self._used and state else FIRST_SCALE if self._used else 1.0
        self._finite = int(state["finite"]) if self._used and state else 0

    @property
    def state(self) -> dict[str, float]:
        """Plain values, for a checkpoint."""
        return {"value": self.value, "finite": self._finite}

    @property
    def may_fall(self) -> bool:
        """Whether an overflow says that the scale is too high, and not that the training is broken."""
        return self._used and self.value > 1

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide gradients by the scale, in place."""
        if self.value != 1:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], self.value)

    def update(self, finite: bool) -> None:
        """Adjust the scale after an update that was finite or was skipped."""
        if not self._used:
            return
        self._finite = self._finite + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self._finite == GROW_AFTER:
            self.value, self._finite = self.value * 2, 0
