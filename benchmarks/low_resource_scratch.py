"""The shape of scratch in a low-resource comparison: that of what it stands beside, so that pretraining is all that
they differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.low_resource_recipe import LowResourceRecipe
from upstream.errors import RecipeError
from upstream.model.config import EncoderConfig
from upstream.pretrain_recipe import SWITCHES, Round


def scratch_encoder(recipe: LowResourceRecipe, labelled: str, rounds: Sequence[Round],
                    outside: Mapping[str, EncoderConfig] | None = None) -> EncoderConfig:
    """What scratch trains.

    Beside rounds, an encoder of their shape, of those with the same labels: with `init` that is not the recipe's own.
    Without any round, that of `pretrain.encoder` if it is said to be another than HuBERT BASE; else that of the
    encoders from elsewhere with the same labels, if all have the same, and HuBERT BASE otherwise.

    Args:
        rounds: of the pretraining; none where no cell has one.
        outside: what the encoders from elsewhere are, by name.

    Raises:
        RecipeError: the rounds have several shapes; the first value that differs is named.
    """
    found = _beside_rounds(recipe, labelled, rounds) if rounds else _beside_others(recipe, labelled, outside or {})[0]
    if found.feature_grad_mult == 0:  # of one whose front end has learnt; a random one would stay as it is
        return replace(found, feature_grad_mult=recipe.pretrain.encoder.feature_grad_mult)
    return found


def told_shape(recipe: LowResourceRecipe, labelled: str, outside: Mapping[str, EncoderConfig]) -> str:
    """The shape of scratch beside encoders from elsewhere, and whose it is, for a reader."""
    shape, whose = _beside_others(recipe, labelled, outside)
    return f"{labelled}: scratch is of {shape.layers} layers of {shape.width} ({shape.frontend}), as {whose}"


def _beside_rounds(recipe: LowResourceRecipe, labelled: str, rounds: Sequence[Round]) -> EncoderConfig:
    numbers = {cell.round for cell in recipe.parsed_cells if cell.labelled == labelled}
    beside = [rounds[number - 1] for number in sorted(numbers - {0})] or list(rounds[:1])
    for other in beside[1:]:
        if differs := _difference(beside[0].encoder, other.encoder):
            raise RecipeError(f"rounds {beside[0].number} and {other.number} have encoders with {differs}, and scratch "
                              "beside both can have one shape only; leave out one of their cells, and compare it in a "
                              "run of its own")
    return beside[0].encoder


def _beside_others(recipe: LowResourceRecipe, labelled: str,
                   outside: Mapping[str, EncoderConfig]) -> tuple[EncoderConfig, str]:
    """The shape without a pretraining, and whose it is."""
    own = recipe.pretrain.encoder
    with_labels = [cell.encoder for cell in recipe.parsed_cells
                   if cell.labelled == labelled and cell.encoder in outside]
    beside = with_labels or list(outside)
    if own != EncoderConfig() or not beside:
        return own, "pretrain.encoder says"
    for other in beside[1:]:
        if differs := _difference(_body(outside[beside[0]]), _body(outside[other])):
            return own, (f"HuBERT BASE: {beside[0]} and {other} have {differs}; pretrain.encoder may say another shape")
    return outside[beside[0]], " and ".join(beside)


def _difference(one: EncoderConfig, other: EncoderConfig) -> str:
    """The first value of two encoders that their weights' sizes and meaning depend on and that is not the same."""
    values = _shape(one)
    return next((f"{name}={values[name]} and {name}={value}" for name, value in _shape(other).items()
                 if value != values[name]), "")


def _shape(config: EncoderConfig) -> dict[str, Any]:
    return {name: value for name, value in config.effective().items() if name not in SWITCHES}


def _body(config: EncoderConfig) -> EncoderConfig:
    """Without whose files it is in, where that is all: wav2vec 2.0 has the body of HuBERT."""
    return replace(config, family="hubert") if config.family == "wav2vec2" else config
