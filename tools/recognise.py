"""`hubertkit finetune` and `hubertkit emit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downstream.emissions import Emissions, refuse_others
from downstream.finetune import finetune as run_finetuning
from downstream.finetune_recipe import SCRATCH, SHIPPED, FinetuneRecipe
from downstream.finetune_start import check_start
from downstream.kept_head import check_head
from downstream.recogniser import compute_emissions
from tools.launch import AUTO, RanksOption, launched
from tools.outputs import check_folder
from upstream.audio.manifest import Manifest
from upstream.device import chosen_device
from upstream.disk import read_json
from upstream.errors import FormatError, UsageError
from upstream.locks import locked
from upstream.progress import say
from upstream.recipe import load_recipe


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(finetune)
    app.command()(emit)


def finetune(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (ctc-tiny, ctc-light, ctc-probe, ctc-superb, "
                                               "ctc-base-10h) or a YAML file.")],
    overrides: Annotated[list[str] | None,
                         typer.Argument(help="key=value, e.g. data=train.arrow dev=dev.arrow encoder=DIR")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the recogniser; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
) -> None:
    """Train a recogniser on an encoder (encoder=DIR) or from scratch."""
    loaded = load_recipe(FinetuneRecipe, recipe, overrides or [], SHIPPED)
    check_head(loaded, check_start(loaded, out)[2])  # before ranks are started
    _warn_of_scratch(loaded)
    chosen_device(loaded.device)  # or say that there is none before ranks are started
    with launched(ranks, [loaded.training.accumulate], loaded.device):
        result = run_finetuning(loaded, out)
    print(f"{out}: encoder={loaded.encoder} " + " ".join(f"{k}={v}" for k, v in result.items() if k != "hash"))


def _warn_of_scratch(recipe: FinetuneRecipe) -> None:
    """Say what of a recipe plays no part where the encoder starts from random weights: the word that names one may be
    forgotten. (A comparison has cells from scratch beside others of the same recipe.)"""
    said = [f"freeze_updates={recipe.freeze_updates}"] if recipe.freeze_updates else []
    said += [f"fresh_layers={recipe.fresh_layers}"] if recipe.fresh_layers else []
    said += [] if recipe.train_frontend is None else [f"train_frontend={str(recipe.train_frontend).lower()}"]
    if recipe.encoder == SCRATCH and said:
        say(f"warning: {', '.join(said)}: for a pretrained encoder, and this one starts from random weights, all of "
            "which learn; was encoder=DIR forgotten?")


def emit(
    recogniser: Annotated[Path, typer.Argument(help="Folder of a recogniser.")],
    manifest: Annotated[Path, typer.Argument(help="What to recognise.")],
    out: Annotated[Path, typer.Option(help="Folder of the emissions, which decoders read.")] = ...,  # type: ignore[assignment]
) -> None:
    """Compute a recogniser's log-probabilities once, for `decode` and `tune`."""
    check_folder(out, [recogniser, manifest], own="emissions.json")
    refuse_others(out)
    recordings = Manifest.load(manifest)
    _refuse_other_recordings(out, recordings)
    with locked(out):
        compute_emissions(recogniser, recordings, out)
    found = Emissions.load(out)
    print(f"{out}: {len(found.ids)} utterances, hash {found.hash[:12]}")


def _refuse_other_recordings(out: Path, recordings: Manifest) -> None:
    """Raise UsageError if a folder holds emissions of other recordings, which these would replace."""
    try:
        held = read_json(out / "emissions.json")
        other, count = held["meta"]["manifest_hash"] != recordings.hash, held["utterances"]
    except (FormatError, KeyError, TypeError):  # there are none, or none that could be read: nothing is lost
        return
    if other:
        raise UsageError(f"{out}: holds emissions of {count} other recordings; give these a folder of their own, or "
                         "remove it")
