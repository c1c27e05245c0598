"""`hubertkit recipe`: which recipes there are, and every key that one may have."""

from __future__ import annotations

import enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upstream.errors import UsageError
from upstream.recipe import find_recipe, load_recipe, named_keys, nearest
from upstream.recipe_text import first_sentence, recipe_text

# Where the schema of each command's recipes is; beside it the folder of those that ship, SHIPPED.
SCHEMAS = {"pretrain": ("upstream.pretrain_recipe", "PretrainRecipe"),
           "finetune": ("downstream.finetune_recipe", "FinetuneRecipe"),
           "selftrain": ("downstream.selftrain_recipe", "SelftrainRecipe"),
           "decode": ("downstream.decode.recipe", "DecodingRecipe"),
           "bench low-resource": ("benchmarks.low_resource_recipe", "LowResourceRecipe")}


_TO_BE_CHANGED = "# Lines that begin with # have their defaults: to set a key, take away its # and that of its section."


class Command(str, enum.Enum):
    """Commands that take recipes."""

    pretrain = "pretrain"
    finetune = "finetune"
    selftrain = "selftrain"
    decode = "decode"
    low_resource = "bench low-resource"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(recipe)


def recipe(
    name: Annotated[str | None, typer.Argument(help="A recipe that ships, or a YAML file; without one, all that ship "
                                                    "are listed.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as its command takes them; with "
                                                               "--all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every key that it may have, and what it means: what the recipe "
                                                      "sets as YAML, the others as comments.")] = False,
    command: Annotated[Command | None, typer.Option("--for", help="The command that a YAML file is for.")] = None,
) -> None:
    """List the recipes that ship; show one as it is, or with every key there is."""
    if name is None:
        if every or command is not None:
            raise UsageError("--all and --for are for one recipe: name it")
        _list()
        return
    if overrides and not every:
        raise UsageError(f"{overrides[0]}: key=value words show with --all; without it a recipe is shown as it is")
    found = command.value if command is not None else command_of(name)
    schema, shipped = schema_of(found)
    path = find_recipe(name, shipped)
    if not every:
        print(path.read_text(encoding="utf-8"), end="")
        return
    loaded, named = load_recipe(schema, name, overrides or [], shipped), named_keys(name, overrides or [], shipped)
    print("\n".join([*(line for line in header(path) if line != _TO_BE_CHANGED), _TO_BE_CHANGED]))
    print(recipe_text(loaded, named.file | named.words), end="")


def command_of(name: str) -> str:
    """The command that a recipe of this name is for. Raises UsageError for a file, which does not say, or another
    name."""
    if Path(name).suffix in (".yaml", ".yml") or Path(name).is_file():
        raise UsageError(f"{name}: a file does not say which command it is for: give --for pretrain, finetune, "
                         "selftrain, decode or \"bench low-resource\"")
    ship = {path.stem: command for command in SCHEMAS for path in _shipped(command)}
    if name not in ship:
        raise UsageError(f"no recipe called {name!r}{nearest(name, list(ship))}; those that ship: {', '.join(ship)}")
    return ship[name]


def schema_of(command: str) -> tuple[Any, Path]:
    """The schema of a command's recipes, and the folder of those that ship."""
    module, name = SCHEMAS[command]
    found = import_module(module)
    return getattr(found, name), found.SHIPPED


def header(path: Path) -> list[str]:
    """The comments that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


def purpose(path: Path) -> str:
    """The first sentence of a recipe's comments."""
    words = " ".join(line.lstrip("# ") for line in header(path) if not line.startswith("#  "))
    return first_sentence(words) or "-"


def _shipped(command: str) -> list[Path]:
    return sorted(schema_of(command)[1].glob("*.yaml"))


def _list() -> None:
    table = Table("command", "recipe", "what")
    for command in SCHEMAS:
        for number, path in enumerate(_shipped(command)):
            table.add_row(escape(command) if number == 0 else "", escape(path.stem), escape(purpose(path)))
        table.add_section()
    Console(emoji=False, highlight=False).print(table)
    print("`hubertkit recipe NAME` shows one, `hubertkit recipe NAME --all` every key that it may have")
