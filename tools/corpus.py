"""`hubertkit corpus`: make a manifest of a corpus, check its audio, show what it holds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from downstream.text.normalise import normalise as normalise_text
from upstream.audio.checking import check as check_manifest
from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.corpora.probing import Problem
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.progress import say

LISTED = 20  # problems that are printed one by one
HISTOGRAM_WIDTH = 40

app = typer.Typer(no_args_is_help=True)
import_app = typer.Typer(no_args_is_help=True)
app.add_typer(import_app, name="import", help="Make a manifest of a corpus on disk.")

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the corpus.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Manifest to write: .arrow, or .parquet.",
                                   show_default=False)]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be used, and count them.")]
Normalise = Annotated[bool, typer.Option("--normalise", help=(
    "Transcripts in upper case, A to Z and the apostrophe only: what recognisers are trained on."))]
ManifestFile = Annotated[Path, typer.Argument(metavar="MANIFEST", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@import_app.command("librispeech")
def librispeech(src: Source, out: Out, skip_bad: SkipBad = False, normalise: Normalise = False,
                ids: Annotated[Path | None, typer.Option(metavar="LIST", help="Only these: a file with an id a line.",
                                                         show_default=False)] = None) -> None:
    """SPEAKER/CHAPTER/*.flac (or .opus, ...) with SPEAKER-CHAPTER.trans.txt beside them, below any subset folders."""
    _refuse_folder(out)
    wanted = _read_ids(ids) if ids is not None else None
    skipped: list[Problem] = []
    manifest = import_librispeech(src, wanted, skipped.append if skip_bad else None)
    _written(_normalised(manifest) if normalise else manifest, out, skipped)


@import_app.command("folder")
def folder(src: Source, out: Out, skip_bad: SkipBad = False, normalise: Normalise = False,
           table: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help=(
               "Transcripts: .tsv or .csv with the columns path (or file), text and, if you like, speaker and id."
           ))] = None) -> None:
    """Any audio; transcripts in a .txt beside each recording, in one table, or none."""
    _refuse_folder(out)
    skipped: list[Problem] = []
    manifest = import_folder(src, table, skipped.append if skip_bad else None)
    _written(_normalised(manifest) if normalise else manifest, out, skipped)


@app.command("check")
def check(manifest: ManifestFile, as_json: Json = False) -> None:
    """Decode everything; name what cannot be used (exit code 1 then) and what is worth knowing."""
    loaded = Manifest.load(manifest)
    problems = check_manifest(loaded)
    faults = [p for p in problems if not p.usable]
    if as_json:
        print(json.dumps([{"id": p.id, "path": str(p.path), "what": p.what, "usable": p.usable} for p in problems]))
    else:
        _print_problems(faults)
        for what, count in Counter(p.what for p in problems if p.usable).most_common():
            example = next(p for p in problems if p.usable and p.what == what)
            print(f"note: {what}: {count:,} utterances, first {example.id}")
    if faults:
        raise InputError(f"{manifest}: {len(faults):,} of {len(loaded):,} utterances cannot be used; "
                         "mend the files and import the corpus again, or import it with --skip-bad")
    if not as_json:
        print(f"{len(loaded):,} utterances, {loaded.seconds / 3600:.2f} h: all can be used")


@app.command("show")
def show(manifest: ManifestFile, as_json: Json = False) -> None:
    """Hours, speakers, words, and how long the utterances are."""
    loaded = Manifest.load(manifest)
    facts = describe(loaded)
    if as_json:
        print(json.dumps(facts))
        return
    bins = facts.pop("seconds_histogram")
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<18} {_cell(value)}")
    print("\n".join(_histogram(bins)))


def _normalised(manifest: Manifest) -> Manifest:
    """The same recordings with normalised transcripts; one of which nothing is left counts as none."""
    return Manifest.of((replace(u, text=normalise_text(u.text or "") or None) for u in manifest), manifest.source)


def describe(manifest: Manifest) -> dict[str, Any]:
    """What a manifest holds, as plain values."""
    seconds = manifest.lengths / SAMPLE_RATE
    speakers = Counter(s for s in manifest.speakers if s is not None)
    texts = [t for t in manifest.texts if t is not None]
    edges = _edges(seconds)
    counts, _ = np.histogram(seconds, edges)
    return {
        "utterances": len(manifest),
        "hours": round(manifest.seconds / 3600, 3),
        "speakers": len(speakers),
        "without_speaker": len(manifest) - sum(speakers.values()),
        "transcribed": len(texts),
        "words": sum(len(t.split()) for t in texts),
        "shortest_seconds": round(float(seconds.min()), 2) if len(seconds) else None,
        "median_seconds": round(float(np.median(seconds)), 2) if len(seconds) else None,
        "longest_seconds": round(float(seconds.max()), 2) if len(seconds) else None,
        "formats": manifest.formats,
        "source": manifest.source,
        "hash": manifest.hash,
        "seconds_histogram": [[float(a), float(b), int(n)] for a, b, n in zip(edges, edges[1:], counts)],
    }


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {count:,}" for name, count in value.items())
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _edges(seconds: np.ndarray) -> np.ndarray:
    """Edges of about ten bins of a round width that hold everything."""
    longest = float(seconds.max()) if len(seconds) else 1.0
    width = next((w for w in (0.5, 1, 2, 5, 10, 30, 60, 300, 600) if longest / w <= 12), longest / 12)
    return np.arange(0, int(longest // width) + 2) * width


def _histogram(bins: list[list[float]]) -> list[str]:
    most = max((count for _, _, count in bins), default=0)
    lines = []
    for first, last, count in bins:
        bar = "█" * int(np.ceil(HISTOGRAM_WIDTH * count / most)) if most else ""
        lines.append(f"{first:>7g} - {last:<6g} s {int(count):>9,} {bar}".rstrip())
    return lines


def _read_ids(path: Path) -> list[str]:
    try:
        ids = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the list of ids cannot be read ({error})") from error
    if not ids:
        raise UsageError(f"{path}: the list of ids is empty")
    return ids


def _refuse_folder(out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"{out}: a folder; --out names the manifest's file, such as {out / 'manifest.arrow'}")


def _written(manifest: Manifest, out: Path, skipped: list[Problem]) -> None:
    manifest.save(out)
    if skipped:
        say(f"{len(skipped):,} left out:")
        for problem in skipped[:LISTED]:
            say(f"  {problem.path}: {problem.what}")
        if len(skipped) > LISTED:
            say(f"  and {len(skipped) - LISTED:,} more")
    print(f"{out}: {len(manifest):,} utterances, {manifest.seconds / 3600:.2f} h"
          + (f", {len(skipped):,} left out" if skipped else ""))


def _print_problems(faults: list[Problem]) -> None:
    for problem in faults[:LISTED]:
        what = problem.what.removeprefix(f"{problem.path} ")
        print(f"{problem.id}: {problem.path}: {what}")
    if len(faults) > LISTED:
        print(f"and {len(faults) - LISTED:,} more")
