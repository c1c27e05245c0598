"""`hubertkit selftrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downstream.selftrain import selftrain as run_rounds
from downstream.selftrain_recipe import SHIPPED, SelftrainRecipe
from downstream.selftrain_start import check_selftrain
from tools.launch import AUTO, RanksOption, launched
from tools.outputs import check_folder
from upstream.device import chosen_device
from upstream.locks import locked
from upstream.recipe import load_recipe


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(selftrain)


def selftrain(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (selftrain-light) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. labelled=10min.arrow "
                                                               "unlabelled=train.arrow dev=dev.arrow encoder=DIR "
                                                               "decoding.lm=lm.arpa")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
) -> None:
    """Train on what a recogniser hears in recordings without transcripts, beside those with: pseudo-labelling."""
    loaded = load_recipe(SelftrainRecipe, recipe, overrides or [], SHIPPED)
    check_folder(out, [Path(given) for given in (loaded.labelled, loaded.unlabelled, loaded.dev) if given])
    check_selftrain(loaded, out, lambda line: None)  # before the lock, which is a file in the folder
    chosen_device(loaded.finetune.device)  # or say that there is none before ranks are started
    micro_batches = [part.training.accumulate for part in (loaded.finetune, loaded.studying("", ""))]
    with launched(ranks, micro_batches, loaded.finetune.device), locked(out):
        results = run_rounds(loaded, out)
    for row in results["rounds"]:
        dev = row["dev"]
        print(f"round {row['round']}: {row['folder']} dev greedy wer={dev['greedy']['wer']:g} "
              f"cer={dev['greedy']['cer']:g}, decoded wer={dev['decoded']['wer']:g} cer={dev['decoded']['cer']:g}")
