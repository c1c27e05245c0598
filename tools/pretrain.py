"""`hubertkit pretrain` and `hubertkit status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tools.launch import AUTO, RanksOption, launched
from upstream.errors import UsageError
from upstream.pretrain import pretrain as run_rounds
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe, rounds_of
from upstream.recipe import load_recipe
from upstream.stage import read_stage
from upstream.training.health import Finding, examine
from upstream.training.monitor import read_metrics
from upstream.training.reference import reference_for


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(pretrain)
    app.command()(status)


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (hubert-tiny, hubert-base, wav2vec2-tiny, ...) or "
                                               "a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data=recordings/ seed=1")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
) -> None:
    """Pretrain an encoder by rounds: teacher, units, masked prediction, and again with the encoder's own layer."""
    loaded = load_recipe(PretrainRecipe, recipe, overrides or [], SHIPPED)
    with launched(ranks, [r.training.accumulate for r in rounds_of(loaded)]):
        rounds = run_rounds(loaded, out)
    for number, result in enumerate(rounds, 1):
        figures = {k: v for k, v in result.encoder_result.items() if isinstance(v, float)}
        print(f"round {number}: {result.encoder} " + " ".join(f"{k}={v:.4g}" for k, v in figures.items()))


def status(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Show the stages of a run: done or unfinished, time, size; and whether the training of encoders looks healthy."""
    if not run.is_dir():
        raise UsageError(f"{run}: no such folder")
    table = Table("stage", "state", "seconds", "MB", "started")
    found = [(p.parent, read_stage(p.parent)) for p in sorted(run.rglob("stage.json"))]
    for folder, record in sorted(found, key=lambda f: (f[1] or {}).get("started", "")):
        if record is not None:
            state = "done" if record["state"] == "done" else "unfinished"
            table.add_row(str(folder.relative_to(run)), state, str(record.get("seconds", "")),
                          f"{record['bytes'] / 1e6:.1f}" if "bytes" in record else "", record.get("started", ""))
    if not found:
        raise UsageError(f"{run}: no stages here; is it the folder given to --out?")
    Console().print(table)
    for folder, record in found:
        if record is not None and record.get("kind") == "encoder":
            for finding in _findings(folder, record["settings"]):
                print(f"{folder.relative_to(run)}: {finding}")


def _findings(folder: Path, settings: dict[str, Any]) -> list[Finding]:
    """What the log of an encoder's stage says."""
    shape, first = settings.get("encoder", {}), _reads(folder.parent / "teacher") != "layer"
    reference = reference_for(*(shape.get(name) for name in ("frontend", "width", "layers"))) if first else None
    return examine(read_metrics(folder, "train"), read_metrics(folder, "valid"), reference, first)


def _reads(teacher: Path) -> str:
    """What a round's teacher reads: `layer` of an encoder in later rounds; empty where there is no teacher."""
    return str((read_stage(teacher) or {"settings": {}})["settings"].get("features", ""))
