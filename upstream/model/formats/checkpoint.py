"""What a checkpoint of any format holds, under our names: the middle through which formats are read and written.

A format's reader gives a `Checkpoint`, its writer takes one. Tensors are looked for by name, one by one: what is
missing, left over or of another shape is an error, never a tensor at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upstream.errors import FormatError, RecipeError
from upstream.frames import CONV_GRID
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder

Source = str | Path


@dataclass(frozen=True)
class CtcHead:
    """A CTC head: a linear map of the encoder's output or, where there are `settings`, of what they make of its layers.

    Attributes:
        weight, bias: (V, D) and (V,) float32.
        symbols: what each row stands for; None if the file does not say.
        blank: row of the CTC blank.
        settings: what of the encoder is heard and what stands between that and the linear map, plain values that
            `downstream.heads` knows; empty for the linear head, the only one that other formats have.
        under: float32 weights of what stands between.
    """

    weight: Tensor
    bias: Tensor
    symbols: tuple[str, ...] | None
    blank: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    under: dict[str, Tensor] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The settings in words; empty for the linear head."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


@dataclass(frozen=True)
class Prediction:
    """Heads of masked prediction with cosine tables, at the last layer.

    Attributes:
        weight, bias: (P, D) and (P,) float32, the projection; P is `final_dim`, times the streams unless tied.
        tables: one (K, final_dim) float32 for each stream of labels.
        temperature: divides the cosines.
        special_rows: first rows of each table that stand for fairseq's `<s>`, `<pad>`, `</s>` and `<unk>`: 4 or 0.
        labels: of each stream the label that each further row stands for; None if they are 0, 1, 2, ...
    """

    weight: Tensor
    bias: Tensor
    tables: tuple[Tensor, ...]
    temperature: float = 0.1
    special_rows: int = 0
    labels: tuple[tuple[str, ...], ...] | None = None

    @property
    def final_dim(self) -> int:
        return self.tables[0].shape[1]

    @property
    def tied(self) -> bool:
        """One projection for several streams."""
        return len(self.tables) > 1 and len(self.weight) == self.final_dim

    def without_special_rows(self) -> Prediction:
        """The same over the units alone."""
        tables = tuple(table[self.special_rows :].contiguous() for table in self.tables)
        return Prediction(self.weight, self.bias, tables, self.temperature, 0, self.labels)


@dataclass(frozen=True)
class Checkpoint:
    """An encoder and whatever else a file or folder holds.

    Attributes:
        source: where it was read, for messages.
        config: of the encoder.
        tensors: the encoder's float32 weights, names and shapes as `Encoder.state_dict`.
        prediction: heads of masked prediction.
        quantiser: weights of wav2vec 2.0's quantiser and projections, under the names of `ContrastivePrediction`.
        ctc: the head of a recogniser.
        others: further tensors of ours (heads that no other format knows), for head.safetensors.
        extra: further keys for hubertkit.json.
        notes: what the source did not hold, or what was left out in reading, in whole sentences.
    """

    source: Source
    config: EncoderConfig
    tensors: dict[str, Tensor]
    prediction: Prediction | None = None
    quantiser: dict[str, Tensor] | None = None
    ctc: CtcHead | None = None
    others: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def encoder(self) -> Encoder:
        """The encoder with these weights, in evaluation mode on the host."""
        with torch.device("meta"):
            encoder = Encoder(self.config)
        encoder.load_state_dict(self.tensors, strict=True, assign=True)
        for parameter in encoder.parameters():
            parameter.requires_grad_(True)
        return encoder.eval()


def config_from(settings: dict[str, Any], where: Source) -> EncoderConfig:
    """The EncoderConfig of settings that a file gave. Raises FormatError naming the file if they do not make one."""
    try:
        return EncoderConfig(**settings)
    except (TypeError, ValueError, RecipeError) as error:
        raise FormatError(f"{where}: {error}") from error


def shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an encoder."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Encoder(config).state_dict().items()}


def take(
    expected: dict[str, tuple[int, ...]], found: dict[str, Tensor], theirs: Callable[[str], str], where: Source
) -> dict[str, Tensor]:
    """Move tensors out of `found` into a dictionary of float32 copies under our names.

    Args:
        expected: our names and the shapes wanted.
        found: what a file holds; what is taken is removed.
        theirs: the file's name of one of ours.

    Raises:
        FormatError: a tensor that is missing, or of another shape.
    """
    taken = {}
    for name, shape in expected.items():
        key = theirs(name)
        if key not in found:
            raise FormatError(f"{where}: no tensor {key!r}, of shape {shape}; {_count(found)} are left that have not "
                              "been asked for" + _some(found))
        taken[name] = of_shape(found.pop(key), shape, key, where)
    return taken


def of_shape(tensor: Tensor, shape: tuple[int, ...], key: str, where: Source) -> Tensor:
    """A float32 copy. Raises FormatError if the tensor has another shape."""
    if tuple(tensor.shape) != shape:
        raise FormatError(f"{where}: {key!r} has shape {tuple(tensor.shape)}; the configuration wants {shape}")
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def refuse_rest(found: Iterable[str], where: Source) -> None:
    """Raise FormatError if tensors are left that no part of the model asked for."""
    rest = sorted(found)
    if rest:
        raise FormatError(f"{where}: {_count(rest)} that this architecture has no place for{_some(rest)}")


def old_weight_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weight norm's two tensors under the names of torch before 2.1, whichever they have."""
    return {key.replace(".parametrizations.weight.original0", ".weight_g")
            .replace(".parametrizations.weight.original1", ".weight_v"): tensor for key, tensor in tensors.items()}


def new_weight_norm(key: str) -> str:
    """The name of a tensor in torch 2.1 and later, which register the weight norm as a parametrisation."""
    if key.endswith("conv.weight_g"):
        return key[: -len("weight_g")] + "parametrizations.weight.original0"
    if key.endswith("conv.weight_v"):
        return key[: -len("weight_v")] + "parametrizations.weight.original1"
    return key


def check_conv_norm(said: str, layer_norms: bool, where: Source) -> None:
    """Compare the configuration's `conv_norm` with the weights: only "layer" has norms after every convolution."""
    found = "layer" if layer_norms else "group"
    if said != found:
        raise FormatError(f"{where}: the configuration says {said} norm in the convolutions, but the weights have "
                          f"{found} norm: there is {'a' if layer_norms else 'no'} norm after the second convolution")


def check_convolutions(found: Any, where: Source) -> int:
    """The width of the convolutions, from lists of channels, kernels and strides.

    Raises:
        FormatError: kernels or strides that are not wav2vec 2.0's, widths that differ, or no such lists.
    """
    expected = [list(CONV_GRID.kernels), list(CONV_GRID.strides)]
    lists = [list(part) if isinstance(part, list | tuple) else part for part in found]
    channels = lists[0]
    one = isinstance(channels, list) and len(channels) == len(expected[0]) and channels == channels[:1] * len(channels)
    if lists[1:] != expected or not one:
        raise FormatError(f"{where}: convolutions with channels, kernels and strides {lists}; hubertkit has those of "
                          f"wav2vec 2.0 only, of one width: kernels and strides {expected}")
    return channels[0]


def without_zero_biases(config: dict[str, Any], found: dict[str, Tensor], prefix: str) -> tuple[str, ...]:
    """Drop conv biases that are all exactly zero (Hugging Face's copies of bias-free HuBERT LARGE have them).

    Changes `config` (settings of an EncoderConfig) and `found`; gives a note if it did.
    """
    keys = [f"{prefix}feature_extractor.conv_layers.{i}.conv.bias" for i in range(len(CONV_GRID.kernels))]
    if not config["conv_bias"] or any(key not in found or bool(found[key].any()) for key in keys):
        return ()
    for key in keys:
        del found[key]
    config["conv_bias"] = False
    return ("the biases of the convolutions are all zero and were dropped: conv_bias=false",)


def _count(keys: Iterable[str]) -> str:
    number = len(list(keys))
    return f"{number} tensor{'' if number == 1 else 's'}"


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ": " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else ""
