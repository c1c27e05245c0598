"""What a recipe may say of a recogniser's head: which layers of the encoder it hears, and what stands over them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from upstream.errors import UsageError

LAST, MIX = "last", "mix"


@dataclass(frozen=True)
class HeadRecipe:
    """The head of a recogniser. By default a linear map of the encoder's output.

    `bilstm` with `layers=mix` is what SUPERB puts on frozen encoders (Yang et al. 2021; s3prl's `downstream/asr`); its
    values are those of `width`, `depth` and `dropout` here, with a `projection` to 1024.

    Layer 0 is the input of the first block and layer k the output of block k, but the last one is the encoder's output,
    after the final norm in pre-norm models, as in the hidden states of s3prl and transformers.
    """

    kind: Literal["linear", "bilstm"] = "linear"  # a map to the symbols, or LSTMs in both directions before it
    # last: the encoder's output; mix: a learnt weighted sum of all layers; a number: that layer; a list: a sum of those
    layers: Any = LAST
    layer_norm: bool = False  # layers are normalised over their dimensions first: s3prl's Featurizer, `normalize`, off
    # bilstm
    projection: int = 0  # of a linear map before the LSTMs; 0: none
    width: int = 1024  # of each direction
    depth: int = 2  # layers of LSTMs
    dropout: float = 0.2  # behind each layer of LSTMs

    def __post_init__(self) -> None:
        if isinstance(self.layers, list | tuple):
            if not (self.layers and all(map(_is_layer, self.layers)) and len(set(self.layers)) == len(self.layers)):
                raise ValueError(f"head.layers={list(self.layers)}: give one number at least, each once, from 0 on")
            object.__setattr__(self, "layers", sorted(self.layers))
        elif self.layers not in (LAST, MIX) and not _is_layer(self.layers):
            raise ValueError(f"head.layers={self.layers!r} must be {LAST}, {MIX}, the number of a layer or a list of "
                             "numbers")
        for name, least in (("projection", 0), ("width", 1), ("depth", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"head.{name}={getattr(self, name)}, must be at least {least}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"head.dropout={self.dropout}, must lie in [0, 1)")

    def settings(self) -> dict[str, Any]:
        """What its weights and output depend on, as plain values; nothing for the linear head on the encoder's
        output, which all recognisers had before there were others."""
        found = asdict(self)
        if self.kind == "linear":
            found = {name: found[name] for name in ("kind", "layers", "layer_norm")}
        return {} if found == _PLAIN else found

    def layers_read(self, layers: int) -> tuple[int, ...]:
        """The layers that it hears of an encoder with so many blocks, from low to high. Raises UsageError for one that
        is not there."""
        if self.layers == LAST:
            return (layers,)
        if self.layers == MIX:
            return tuple(range(layers + 1))
        found = tuple(self.layers) if isinstance(self.layers, list) else (self.layers,)
        if found[-1] > layers:
            raise UsageError(f"head.layers={self.layers}: this encoder has layers 0 to {layers}")
        return found

    def width_over(self, encoder_width: int) -> int:
        """Values of a frame that its last linear map hears."""
        return encoder_width if self.kind == "linear" else 2 * self.width


_PLAIN = {"kind": "linear", "layers": LAST, "layer_norm": False}


def _is_layer(value: Any) -> bool:
    return type(value) is int and value >= 0
