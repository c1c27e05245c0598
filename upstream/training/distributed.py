"""Data-parallel training: the gradient of an update is the sum of what its ranks made of their micro-batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from upstream import ranks
from upstream.training.shared_sum import SharedSum, shared_sum


class GradientSum:
    """Adds up gradients over ranks, in one message, or through shared memory where ranks have some.

    A parameter that took no part on one rank counts as zero there; one that took no part on any keeps no gradient, so
    that the optimiser passes it over as it would in one process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._buffer: Tensor | None = None
        self._shared: SharedSum | None = None

    def join(self, finite: bool, stop: bool) -> tuple[bool, bool]:
        """Replace every `.grad` by the sum over ranks.

        Args:
            finite: whether this rank's losses were finite.
            stop: whether this rank was asked to stop.

        Returns:
            Whether all were finite, and whether any was asked to stop: the same on every rank.

        Raises:
            RankLost: another rank has died.
        """
        if ranks.count() == 1:
            return finite, stop
        learned = [p for p in self._parameters if p.requires_grad]
        buffer = self._room(learned)
        self._fill(buffer if self._shared is None else self._shared.own, learned, [float(not finite), float(stop)])
        if self._shared is None:
            ranks.add_up(buffer)
        else:
            buffer.copy_(self._shared.add_up())
        spread = buffer.split([p.numel() for p in learned] + [len(learned), 2])
        not_finite, asked = spread[-1].tolist()
        for parameter, total, used in zip(learned, spread, spread[-2].tolist()):
            parameter.grad = total.view_as(parameter) if used else None
        return not not_finite, bool(asked)

    def _room(self, learned: list[nn.Parameter]) -> Tensor:
        """A vector of this rank for all gradients, a number for each parameter, and two flags."""
        size = sum(p.numel() for p in learned) + len(learned) + 2
        if self._buffer is None or len(self._buffer) != size:
            self._buffer = learned[0].new_empty(size)
            suits = self._buffer.device.type == "cpu" and self._buffer.dtype == torch.float32
            self._shared = shared_sum(size) if suits else None
        return self._buffer

    @staticmethod
    def _fill(vector: Tensor, learned: list[nn.Parameter], flags: list[float]) -> None:
        """Write all gradients, 1 for each parameter that has one, and the flags."""
        parts = vector.split([p.numel() for p in learned] + [len(learned), len(flags)])
        for parameter, part in zip(learned, parts):
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad.flatten())
        parts[-2].copy_(torch.tensor([float(p.grad is not None) for p in learned]))
        parts[-1].copy_(torch.tensor(flags))
