"""`hubertkit units`: discrete units of recordings."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tools.outputs import check_file, check_folder
from upstream.audio.caching import AudioCache
from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.single import utterances_of_files
from upstream.audio.manifest import MANIFESTS, Manifest
from upstream.device import best_device
from upstream.disk import remove
from upstream.errors import UsageError
from upstream.features.source import Source
from upstream.locks import locked
from upstream.model import load_encoder
from upstream.progress import progress
from upstream.teacher.discrete import describe, write_arrow, write_jsonl, write_km
from upstream.teacher.matching import matching_source
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units, refuse_others


class Form(str, enum.Enum):
    """Files that units are written to."""

    auto = "auto"
    jsonl = "jsonl"
    km = "km"
    arrow = "arrow"
    store = "store"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(units)


def units(
    audio: Annotated[list[Path], typer.Argument(help="Audio files, or one manifest, or one folder of audio.")],
    teacher: Annotated[Path, typer.Option(help="Folder of a teacher.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="FILE.jsonl, FILE.km, FILE.arrow or a folder (the units "
                                              "store).")] = ...,  # type: ignore[assignment]
    encoder: Annotated[list[Path] | None, typer.Option(help="The encoder that the teacher reads a layer of; once for "
                                                            "each where it reads several.")] = None,
    layer: Annotated[int | None, typer.Option(help="Its layer; must be the teacher's.")] = None,
    collapse: Annotated[bool, typer.Option("--collapse", help="Write runs of equal units as one.")] = False,
    times: Annotated[bool, typer.Option(help="In JSONL and Arrow, where each unit starts.")] = True,
    form: Annotated[Form, typer.Option("--format", help="auto goes by the name of OUT.")] = Form.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print the description as JSON.")] = False,
) -> None:
    """Write the discrete units of recordings, with their bit rate."""
    form = _form(form, out)
    if form is Form.store and collapse:
        raise UsageError("--collapse: the units store has a label for each frame; write .jsonl, .km or .arrow")
    inputs = [*audio, teacher, *(encoder or [])]
    if form is Form.store:
        check_folder(out, inputs, own="units.json")
    else:
        check_file(out, inputs)
    known = load_teacher(teacher)
    if form is Form.store:
        refuse_others(out, len(known.classes))
    source = source_of(known, encoder or [], layer)
    manifest = recordings(audio)
    if form is Form.store:
        with locked(out):
            description = describe(_label(known, source, manifest, out), collapsed=False)
    else:
        folder = out.with_name(f".{out.name}.units")  # stays after a kill, for the same command to go on
        with locked(folder):
            made = _label(known, source, manifest, folder)
            _write(made, out, form, collapse, times)
            description = describe(made, collapse)
            remove(folder)
    if as_json:
        print(json.dumps(description, indent=1))
    else:
        _print(description, manifest)


def load_teacher(folder: Path) -> Teacher:
    """A teacher, or a hint where somebody gives the file of one. Raises as `Teacher.load`."""
    if folder.is_file():
        raise UsageError(f"{folder}: a file, not a teacher; first hubertkit teacher import {folder} --out DIR")
    return Teacher.load(folder)


def source_of(teacher: Teacher, encoders: list[Path], layer: int | None = None) -> Source:
    """What a teacher reads, on the best device. Raises as `matching_source`."""
    device = best_device()
    return matching_source(teacher, [load_encoder(encoder, device) for encoder in encoders], layer, device)


def recordings(paths: list[Path]) -> Manifest:
    """A manifest of what was named: one manifest, one folder, or files. Raises UsageError where they are mixed."""
    special = [p for p in paths if p.suffix.lower() in MANIFESTS or p.is_dir()]
    if special and len(paths) > 1:
        raise UsageError(f"{special[0]}: give one manifest, or one folder, or audio files only")
    if special:
        return import_folder(paths[0], advice=_advice(paths[0])) if paths[0].is_dir() else Manifest.load(paths[0])
    return Manifest.of(utterances_of_files(paths), "files on the command line")


def _advice(folder: Path) -> str:
    return (f"mend them, or leave them out: hubertkit corpus import folder {folder} --skip-bad --out FILE.arrow, and "
            "give FILE.arrow in place of the folder")


def _label(teacher: Teacher, source: Source, manifest: Manifest, folder: Path) -> Units:
    with progress("labelling", len(manifest)) as report:
        return teacher.label(source, manifest, folder, read=AudioCache(manifest, limit_bytes=0).wave, progress=report)


def _write(made: Units, out: Path, form: Form, collapse: bool, times: bool) -> None:
    """Units as a file."""
    if form is Form.jsonl:
        write_jsonl(made, out, collapse, times)
    elif form is Form.arrow:
        write_arrow(made, out, collapse, times)
    else:
        write_km(made, out, collapse)


def _form(form: Form, out: Path) -> Form:
    if form is not Form.auto:
        return form
    found = {".jsonl": Form.jsonl, ".km": Form.km, ".arrow": Form.arrow, "": Form.store}.get(out.suffix)
    if found is None:
        raise UsageError(f"--out {out}: name it .jsonl, .km or .arrow, or a folder without a suffix, or give --format")
    return found


def _print(description: dict[str, Any], manifest: Manifest) -> None:
    table = Table("stream", "classes", "units/s", "bits/unit", "bits/s (entropy)", "bits/s (log2 K)")
    rates = description["bit_rate"]
    for stream, (classes, rate) in enumerate(zip(description["classes"], rates)):
        table.add_row(str(stream), str(classes), f"{rate['units_per_second']:.2f}", f"{rate['entropy_bits']:.3f}",
                      f"{rate['entropy_rate']:.1f}", f"{rate['uniform_rate']:.1f}")
    if len(rates) > 1:
        table.add_row("all", "", "", "", f"{sum(r['entropy_rate'] for r in rates):.1f}",
                      f"{sum(r['uniform_rate'] for r in rates):.1f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{len(manifest)} utterances, {manifest.seconds:.1f} s; teacher {description['teacher_hash'][:12]}"
                  + (f", layer {description['layer']} of encoder {description['encoder_hash'][:12]}"
                     if description["encoder_hash"] else ""))
