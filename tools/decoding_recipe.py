"""`--recipe NAME --set key=value`: a decoder with everything that belongs to it, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from downstream.decode.choice import AnyDecoder, parse_hotwords
from downstream.decode.recipe import load_decoding
from upstream.errors import UsageError

Recipe = Annotated[str | None, typer.Option(help="A decoding recipe that ships (librispeech-4gram) or a YAML file, in "
                                                 "place of the options for decoder, model and weights.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE",
                                                    help="Of the recipe, e.g. --set lm=4-gram.arpa.gz; may be given "
                                                         "again and again.")]


def recipe_decoder(recipe: str, settings: Sequence[str] | None, symbols: Sequence[str], blank: int,
                   hotwords: str | None = None, **others: Any) -> AnyDecoder:
    """The decoder of a recipe, for a recogniser's symbols.

    Args:
        hotwords: as the option gives them; they go beside a recipe.
        others: options of the command that a recipe replaces, by name; they must be None.

    Raises:
        UsageError: one of the others is given too, hotwords that are none, or as `load_decoding` and
            `DecodingRecipe.make`.
    """
    given = [name for name, value in others.items() if value is not None]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        keys = dict.fromkeys(key for name in given for key in _KEYS.get(name, (name,)))
        advice = " ".join(f"--set {key}=..." for key in keys)
        raise UsageError(f"{options} beside --recipe: a recipe holds it; leave it out, or change that with {advice}")
    words = () if hotwords is None else parse_hotwords(hotwords)
    return load_decoding(recipe, settings or ()).make(symbols, blank, words)


def recipe_lexicon(recipe: str, settings: Sequence[str] | None) -> Path | None:
    """The file of words of a recipe; None where those of its language model are found."""
    found = load_decoding(recipe, settings or ()).lexicon
    return None if found is None else Path(found)


_KEYS = {"tokens": ("tokens_per_frame",), "tuned": ("lm_weight", "word_score")}  # of a recipe, for an option's name
