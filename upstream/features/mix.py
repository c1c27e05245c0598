"""Several layers side by side, of one encoder or of several: frames for one teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upstream.errors import InputError
from upstream.features.source import LayerSource
from upstream.features.streaming import Lengths, Read


class MixSource:
    """The layers of all parts in a row, each frame of each layer at mean 0 and variance 1 over its dimensions.

    k-means goes by distances, and raw outputs of blocks differ tenfold in size between layers: without that the largest
    layer would be all that it sees. Nothing is fitted, so a frame depends on its recording alone.
    """

    def __init__(self, parts: Sequence[LayerSource]) -> None:
        """
        Args:
            parts: sources of several layers each (made with a list), on the same device.

        Raises:
            InputError: encoders of different frame rates.
        """
        self._parts = list(parts)
        self.device = self._parts[0].device
        rates = sorted({part.describe()["rate"] for part in self._parts})
        if len(rates) > 1:
            raise InputError(f"the encoders to read have {rates[0]:g} and {rates[-1]:g} frames a second; a teacher "
                             "reads encoders of one rate")

    def describe(self) -> dict[str, Any]:
        """`layer` and `encoder` are those of the parts, several encoders joined by a plus."""
        described = [part.describe() for part in self._parts]
        layers = [d["layer"] for d in described]
        return {"name": "mix", "layer": layers if len(layers) > 1 else layers[0],
                "encoder": "+".join(d["encoder"] for d in described),
                "normalize": any(d["normalize"] for d in described), "precision": described[0]["precision"],
                "dim": sum(d["dim"] * len(d["layer"]) for d in described),
                "rate": described[0]["rate"]}

    def stream(self, manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, Tensor]]:
        """As `Source.stream`."""
        chosen = list(indices)
        streams = [part.stream(manifest, chosen, read, after) for part in self._parts]
        for found in zip(*streams, strict=True):
            layers = [frames for _, by_layer in found for frames in by_layer.values()]  # (T, D) each
            yield found[0][0], torch.cat([F.layer_norm(x, x.shape[-1:]) for x in layers], dim=-1)
