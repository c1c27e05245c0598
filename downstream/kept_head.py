"""The head of a recogniser that another one starts from, kept with its encoder (`keep_head` of a fine-tuning).

What the two write need not be the same: rows are taken by their symbols, so the new one may have fewer of them, or in
another order.
"""

from __future__ import annotations

import torch

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.heads.ctc import Recogniser
from downstream.heads.recipe import HeadRecipe
from downstream.recogniser import recogniser_hash
from downstream.recogniser_formats import import_recogniser
from downstream.text.vocabulary import Vocabulary
from upstream.errors import InputError, UsageError


def check_head(recipe: FinetuneRecipe, vocabulary: Vocabulary) -> dict[str, str]:
    """What the head is kept of, as an input of a stage: the hash of that recogniser; empty where none is kept.

    Raises:
        UsageError: there is no recogniser to start from, or its head is of another kind than the recipe's.
        InputError: it lacks one of the symbols.
    """
    if not recipe.keep_head:
        return {}
    if recipe.encoder == SCRATCH:
        raise UsageError("keep_head=true: an encoder from scratch has no head to keep; give encoder=DIR, the folder of "
                         "a recogniser, or leave keep_head out")
    given, symbols = import_recogniser(recipe.encoder)
    check_kinds(given.recipe, recipe.head, recipe.encoder)
    rows = _rows(symbols)
    for place, symbol in enumerate(vocabulary.symbols):
        if place != vocabulary.blank and symbol not in rows:
            raise InputError(f"keep_head=true: {recipe.encoder} never writes {symbol!r} ({symbols.shown()}); leave "
                             "keep_head out, or give symbols that it has")
    return {"head": recogniser_hash(given)}


def check_kinds(given: HeadRecipe, wanted: HeadRecipe, source: str) -> None:
    """Raise UsageError where a head is to have the weights of that of `source`, and is of another kind or size."""
    names = ["kind", "layers", "layer_norm", *["projection", "width", "depth"] * (given.kind == "bilstm")]
    differs = [f"head.{name}={getattr(given, name)}" for name in names if getattr(given, name) != getattr(wanted, name)]
    if differs:
        raise UsageError(f"keep_head=true: the head of {source} has {', '.join(differs)}; give that as well, or leave "
                         "keep_head out")


def take_head(model: Recogniser, recipe: FinetuneRecipe, vocabulary: Vocabulary) -> None:
    """Give a recogniser of these symbols, in place, the head of the one that it starts from; `check_head` was asked."""
    given, symbols = import_recogniser(recipe.encoder)
    rows, theirs = _rows(symbols), given.over_encoder()
    chosen = [symbols.blank if place == vocabulary.blank else rows[symbol]
              for place, symbol in enumerate(vocabulary.symbols)]
    with torch.no_grad():
        for name, parameter in model.over_encoder().items():
            of_symbols = name in ("head.weight", "head.bias")
            parameter.copy_(theirs[name][chosen] if of_symbols else theirs[name])


def _rows(vocabulary: Vocabulary) -> dict[str, int]:
    """The row of each symbol but the blank."""
    return {symbol: row for row, symbol in enumerate(vocabulary.symbols) if row != vocabulary.blank}
