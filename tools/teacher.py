"""`hubertkit teacher`: how good are the units?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from upstream.errors import UsageError
from upstream.progress import progress, say
from upstream.teacher.alignments import find_alignments
from upstream.teacher.heat_map import plot_heat_map
from upstream.teacher.quality import Quality, quality
from upstream.teacher.units import Units

app = typer.Typer(no_args_is_help=True)


@app.callback()
def teacher() -> None:
    """How good are the units?"""


@app.command("quality")
def show_quality(
    units: Annotated[Path, typer.Argument(help="Folder of units.")],
    alignments: Annotated[Path, typer.Option(help="Folder of TextGrid or CTM files named for the utterances.")],
    stream: Annotated[int, typer.Option(help="Which labels, where units have several streams.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Also write a PNG of phones against clusters here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Phone purity, cluster purity and PNMI of units against phone alignments, with silence and without."""
    stored = Units.load(units)
    if not alignments.is_dir():
        raise UsageError(f"--alignments {alignments}: no such folder")
    if not 0 <= stream < len(stored.classes):
        raise UsageError(f"--stream {stream}: {units} has streams 0 to {len(stored.classes) - 1}")
    with progress("reading alignments", len(stored)) as report:
        found = quality(stored, find_alignments(alignments), stream=stream, progress=report)
    if plot is not None:
        plot_heat_map(found, plot)
    if as_json:
        print(json.dumps(found.as_json(), indent=1, allow_nan=False))
    else:
        _print(found)
    if found.missing:
        say(f"{found.missing} of {found.missing + found.utterances} utterances have no alignment and are left out")


def _print(found: Quality) -> None:
    table = Table("", "silence as one class", "without silence")
    rows = (("phone purity", "phone_purity"), ("cluster purity", "cluster_purity"), ("PNMI", "pnmi"),
            ("mutual information (nats)", "mutual_information"), ("entropy of phones (nats)", "phone_entropy"),
            ("entropy of clusters (nats)", "cluster_entropy"))
    for name, field in rows:
        table.add_row(name, f"{getattr(found.overall, field):.4f}",
                      f"{getattr(found.speech, field):.4f}" if found.speech else "-")
    table.add_row("frames", str(found.overall.frames), str(found.speech.frames) if found.speech else "0")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{found.table.shape[1]} classes, {len(found.dead)} of them dead; {len(found.phones)} phones; "
                  f"a cluster lasts {found.cluster_run:.1f} frames, a phone {found.phone_run:.1f}; "
                  f"{found.utterances} utterances")
