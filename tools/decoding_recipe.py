"""`--recipe NAME --set key=value`: a decoder with everything that belongs to it, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from downstream.decode.choice import AnyDecoder
from downstream.decode.recipe import load_decoding
from upstream.errors import UsageError

Recipe = Annotated[str | None, typer.Option(help="A decoding recipe that ships (librispeech-4gram) or a YAML file, in "
                                                 "place of the options for decoder, model and weights.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE",
                                                    help="Of the recipe, e.g. --set lm=4-gram.arpa.gz; may be given "
                                                         "again and again.")]


def recipe_decoder(recipe: str, settings: Sequence[str] | None, symbols: Sequence[str], blank: int,
                   **others: Any) -> AnyDecoder:
    """The decoder of a recipe, for a recogniser's symbols.

    Args:
        others: options of the command that a recipe replaces, by name; they must be None.

    Raises:
        UsageError: one of them is given too, or as `load_decoding` and `DecodingRecipe.make`.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)} beside --recipe: a recipe holds it; give it as --set key=value")
    return load_decoding(recipe, settings or ()).make(symbols, blank)
