"""What a training trains: batches, a loss and a validation. Pretraining and fine-tuning have tasks of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from upstream.training.optimiser import ParameterGroup

EVERY = slice(None)  # all micro-batches of an update; several ranks take a share each
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Loss:
    """What a task gives for one micro-batch.

    Attributes:
        total: scalar, the mean that is differentiated.
        sums: name -> (sum, count): metrics that are pooled over micro-batches as sum / count.
    """

    total: Tensor
    sums: Mapping[str, tuple[Tensor | float, Tensor | float]]


class Task(Protocol[Batch]):
    """What is trained. A batch must say its place (`update`, `number`), its `weight` in the update's mean (frames or
    utterances), its `seconds` of audio and the `ids` of its utterances."""

    better: str  # the number of a validation by which checkpoints are compared: the lower the better

    @property
    def model(self) -> nn.Module: ...

    def groups(self) -> list[ParameterGroup]: ...

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[Batch]]:
        """From update `first` on, the micro-batches of each that lie in `share`."""
        ...

    def loss(self, batch: Batch) -> Loss: ...

    def validate(self) -> dict[str, Any]: ...
