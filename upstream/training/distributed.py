"""Data-parallel training: the gradient of an update is the sum of what its ranks made of their micro-batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from upstream import ranks


class GradientSum:
    """Adds up gradients over ranks, in one message.

    A parameter that took no part on one rank counts as zero there; one that took no part on any keeps no gradient, so
    that the optimiser passes it over as it would in one process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._buffer: Tensor | None = None

    def join(self, finite: bool, stop: bool) -> tuple[bool, bool]:
        """Replace every `.grad` by the sum over ranks.

        Args:
            finite: whether this rank's losses were finite.
            stop: whether this rank was asked to stop.

        Returns:
            Whether all were finite, and whether any was asked to stop: the same on every rank.
        """
        if ranks.count() == 1:
            return finite, stop
        learned = [p for p in self._parameters if p.requires_grad]
        buffer = self._filled(learned, [float(not finite), float(stop)])
        ranks.add_up(buffer)
        spread = buffer.split([p.numel() for p in learned] + [len(learned), 2])
        not_finite, asked = spread[-1].tolist()
        for parameter, total, used in zip(learned, spread, spread[-2].tolist()):
            parameter.grad = total.view_as(parameter) if used else None
        return not not_finite, bool(asked)

    def _filled(self, learned: list[nn.Parameter], flags: list[float]) -> Tensor:
        """One vector: all gradients, 1 for each parameter that has one, the flags."""
        size = sum(p.numel() for p in learned) + len(learned) + len(flags)
        if self._buffer is None or len(self._buffer) != size:
            self._buffer = learned[0].new_empty(size)
        parts = self._buffer.split([p.numel() for p in learned] + [len(learned), len(flags)])
        for parameter, part in zip(learned, parts):
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad.flatten())
        parts[-2].copy_(torch.tensor([float(p.grad is not None) for p in learned]))
        parts[-1].copy_(torch.tensor(flags))
        return self._buffer
