"""`hubertkit bench`: comparisons that write results.json."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.low_resource import run
from benchmarks.low_resource_recipe import SHIPPED, LowResourceRecipe, micro_batches
from benchmarks.results import table
from tools.launch import AUTO, RanksOption, launched
from upstream.recipe import load_recipe

app = typer.Typer(no_args_is_help=True)
COLUMNS = ["labelled", "encoder", "decoder", "wer", "cer", "words", "errors"]


@app.callback()
def group() -> None:
    """Comparisons that write results.json."""


@app.command("low-resource")
def low_resource(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (librispeech-mini, ...) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    data: Annotated[Path, typer.Option(help="Folder with the corpus, the splits and the text for the LM.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
) -> None:
    """Scratch beside every round on several amounts of labels, decoded greedily and with an n-gram."""
    command = shlex.join(["hubertkit", *sys.argv[1:]])
    loaded = load_recipe(LowResourceRecipe, recipe, overrides or [], SHIPPED)
    with launched(ranks, micro_batches(loaded)):
        results = run(loaded, data, out, command)
    Console().print(table(results["rows"], COLUMNS))
    print(out / "results.json")
