"""`hubertkit teacher sweep`: which layer of an encoder to cluster?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tools.outputs import check_folder
from upstream.audio.caching import AudioCache
from upstream.audio.manifest import Manifest
from upstream.device import best_device
from upstream.disk import disk_errors, read_json, write_json
from upstream.errors import UsageError
from upstream.features.streaming import check_hours, draw_hours
from upstream.locks import locked
from upstream.model import load_encoder
from upstream.progress import progress
from upstream.teacher.abx import CONTEXT_TOKENS
from upstream.teacher.alignments import find_alignments
from upstream.teacher.proxies import Change
from upstream.teacher.sweep import FIT_FRAMES, Sweep, sweep
from upstream.teacher.sweep_plot import plot_sweep
from upstream.teacher.teacher import refuse_others

Cmn = Annotated[bool, typer.Option("--cmn", help="Take the mean over its utterance off each frame.")]


def sweep_layers(
    encoder: Annotated[Path, typer.Argument(help="Folder of an encoder.")],
    manifest: Annotated[Path, typer.Argument(help="Recordings to try it on; an hour is plenty.")],
    clusters: Annotated[str, typer.Option(help="Numbers of clusters, e.g. 50,100.")] = "100",
    alignments: Annotated[Path | None, typer.Option(help="Folder of TextGrid or CTM files named for the utterances, "
                                                         "or a CTM of many; without it the measure is stability in "
                                                         "noise.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of sweep.json, sweep.png and the picked teacher.")] = ...,  # type: ignore[assignment]
    layers: Annotated[str | None, typer.Option(help="Only these, e.g. 0,6,12.")] = None,
    hours: Annotated[float, typer.Option(help="Of recordings at most, drawn at random.")] = 1.0,
    frames: Annotated[int, typer.Option(min=1, help="Frames to cluster, about; all layers of them are in "
                                                    "memory.")] = FIT_FRAMES,
    with_abx: Annotated[bool, typer.Option("--abx/--no-abx", help="With alignments, also ABX errors.")] = True,
    context_tokens: Annotated[int, typer.Option(min=1, help="That ABX compares between the same two phones, at most; "
                                                            "of more those of some speakers.")] = CONTEXT_TOKENS,
    snr: Annotated[float, typer.Option(help="Of the noise in dB, without alignments.")] = 10.0,
    cmn: Cmn = False,
    seed: Annotated[int, typer.Option(help="Of whatever is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Judge every layer of an encoder as a teacher, with one forward pass for each utterance."""
    inputs = [encoder, manifest]
    check_folder(out, inputs)
    check_folder(out / "teacher", inputs, own="teacher.json")
    refuse_others(out / "teacher", 1)
    _refuse_other_sweeps(out)
    check_hours(hours)
    if alignments is None:
        Change("noise", snr)  # says what is wrong with it before the encoder is loaded
    numbers = whole_numbers("--clusters", clusters)
    chosen = whole_numbers("--layers", layers) if layers is not None else None
    if alignments is not None and not alignments.exists():
        raise UsageError(f"--alignments {alignments}: no such folder, nor a CTM file")
    paths = find_alignments(alignments) if alignments is not None else None
    recordings = Manifest.load(manifest)
    if paths is not None:
        recordings = recordings.only([i for i in recordings.ids if i in paths])
    recordings = recordings.select(draw_hours(recordings.lengths, hours, seed))
    device = best_device()
    loaded = load_encoder(encoder, device)  # or say that there is none before the folder is made
    with locked(out):
        with progress("sweeping", len(recordings)) as report:
            found = sweep(loaded, recordings, numbers, read=AudioCache(recordings).wave, seed=seed, alignments=paths,
                          layers=chosen, device=device, fit_frames=frames, measure_abx=with_abx, snr=snr, cmn=cmn,
                          context_tokens=context_tokens, progress=report)
        result = {**found.as_json(), "manifest": recordings.hash, "hours": recordings.seconds / 3600, "seed": seed,
                  "snr": snr if paths is None else None, "cmn": cmn}
        with disk_errors(out):
            write_json(out / "sweep.json", result)
        plot_sweep(found, out / "sweep.png")
        found.teacher.save(out / "teacher")
    if as_json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        _print(found, out)


def _refuse_other_sweeps(out: Path) -> None:
    """Raise UsageError where sweep.json or sweep.png is there already, and not of an earlier sweep."""
    found = read_json(out / "sweep.json") if (out / "sweep.json").is_file() else {}
    if isinstance(found, dict) and {"measure", "pick", "rows"} <= found.keys():
        return
    for name in ("sweep.json", "sweep.png"):
        if (out / name).exists():
            raise UsageError(f"{out / name}: is there already and of no sweep of ours, so it is left as it is; give a "
                             "folder of its own with --out, or move it away")


def whole_numbers(option: str, words: str) -> list[int]:
    """`50,100` as numbers. Raises UsageError for anything else."""
    try:
        return [int(word) for word in words.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {words}: expected whole numbers with commas between, e.g. 50,100") from error


def _print(found: Sweep, out: Path) -> None:
    known = found.measure == "pnmi"
    table = Table("layer", "clusters", *(("PNMI", "purity") if known else ("stable in noise",)), "neighbours",
                  "speakers", *(("within", "across") if found.abx else ()))
    for row in found.rows:
        values = (row.pnmi, row.phone_purity) if known else (row.stability,)
        errors = found.abx.get(row.layer)
        table.add_row(str(row.layer), str(row.clusters), *map(_three, (*values, row.neighbours, row.speakers)),
                      *(map(_two, (errors.within, errors.across)) if errors else ()))
    console = Console(highlight=False)
    console.print(table)
    if found.abx:
        console.print("within, across: ABX errors in % within and across speakers"
                      + (f"; of {found.thinned_contexts} very common contexts those of some speakers "
                         "(--context-tokens)" if found.thinned_contexts else ""))
    best = ", ".join(f"layer {layer} with {k} clusters" for k, layer in found.best.items())
    console.print(f"best {'PNMI' if known else 'stability'}: {best}; pick: layer {found.layer}. "
                  f"{found.utterances} utterances, {found.frames} frames, {found.fit_frames} of them clustered")
    console.print(f"{out}: sweep.json, sweep.png, teacher ({found.teacher.clusters} clusters of layer {found.layer})")


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
