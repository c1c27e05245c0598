"""`hubertkit corpus`: make a manifest of a corpus, check its audio, show what it holds, cut it, split it."""

from __future__ import annotations

import enum
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tools import corpus_export, corpus_import
from tools.corpus_export import ManifestFile
from tools.corpus_import import LISTED, Out
from tools.outputs import check_manifest_file
from upstream.audio.checking import check as check_manifest
from upstream.audio.corpora.probing import Problem
from upstream.audio.manifest import MANIFESTS, Manifest
from upstream.audio.segmenting import Pieces
from upstream.audio.segmenting import segment as segment_manifest
from upstream.audio.splitting import parse_amounts
from upstream.audio.splitting import split as split_manifest
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.progress import say

HISTOGRAM_WIDTH = 40

app = typer.Typer(no_args_is_help=True)
app.add_typer(corpus_import.app, name="import", help="Make a manifest of a corpus on disk.")
app.add_typer(corpus_export.app, name="export", help="A manifest, and units, for other programs.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Group(str, enum.Enum):
    """What `split` keeps together."""

    speaker = "speaker"
    evenly = "evenly"
    utterance = "utterance"


@app.command("check")
def check(manifest: ManifestFile, as_json: Json = False,
          out: Annotated[Path | None, typer.Option("--out", metavar="FILE", show_default=False, help=(
              "Write a manifest without what cannot be used."))] = None) -> None:
    """Decode everything; name what cannot be used (exit code 1 then, unless --out) and what is worth knowing."""
    if out is not None:
        check_manifest_file(out, [manifest])
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
    if out is not None:
        _write_good(loaded, {p.id for p in faults}, manifest, out)
    elif faults:
        raise InputError(f"{manifest}: {len(faults):,} of {len(loaded):,} utterances cannot be used; mend the files "
                         "and import the corpus again, or leave them out: hubertkit corpus check "
                         f"{manifest} --out GOOD")
    if not as_json and not faults:
        print(f"{len(loaded):,} utterances, {loaded.seconds / 3600:.2f} h: all can be used")


@app.command("segment")
def segment(manifest: ManifestFile, out: Out,
            min_seconds: Annotated[float, typer.Option(help="Shorter pieces are left out.")] = Pieces.min_seconds,
            max_seconds: Annotated[float, typer.Option(help="Longer recordings are cut.")] = Pieces.max_seconds,
            edge_seconds: Annotated[float, typer.Option(
                help="Of silence kept at each end of a piece.")] = Pieces.edge_seconds) -> None:
    """Cut long recordings at pauses, for pretraining: a manifest of spans, no audio is copied."""
    check_manifest_file(out, [manifest])
    pieces = Pieces(min_seconds, max_seconds, edge_seconds)
    loaded = Manifest.load(manifest)
    found = segment_manifest(loaded, pieces)
    if not len(found):
        raise InputError(f"{manifest}: no piece of {min_seconds:g} s or more that is not silent")
    found.save(out)
    print(f"{out}: {len(found):,} utterances, {found.seconds / 3600:.2f} h of {loaded.seconds / 3600:.2f} h; the rest "
          "is silence and scraps")


@app.command("split")
def split(manifest: ManifestFile,
          hours: Annotated[str, typer.Option(metavar="HOURS", show_default=False, help=(
              "1, 0.5h or 10min; several with commas (10min,1h,10h) lie within each other."))],
          out: Annotated[Path, typer.Option("--out", metavar="PATH", show_default=False, help=(
              "Manifest to write, or a folder, where each is named for its hours."))],
          by: Annotated[Group, typer.Option(help=(
              "speaker: one after the other, no speaker of a subset in the rest; evenly: the same time of every "
              "speaker; utterance: whoever speaks."))] = Group.speaker,
          seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
          transcribed: Annotated[bool, typer.Option("--transcribed", help=(
              "Draw only what has a transcript; the rest may hold what has none."))] = False,
          rest: Annotated[Path | None, typer.Option("--rest", metavar="FILE", show_default=False, help=(
              "Manifest of what is left beside the largest."))] = None) -> None:
    """Subsets by hours, each within the next."""
    amounts = parse_amounts(hours)
    single = out.suffix in MANIFESTS
    if single and len(amounts) > 1:
        raise UsageError(f"{out}: one file for {len(amounts)} subsets; --out names a folder for several")
    parts = [out if single else out / f"{name}.arrow" for name, _ in amounts]
    if rest is not None and rest.resolve() in {path.resolve() for path in (out, *parts)}:
        raise UsageError(f"{rest}: --out and --rest are the same file; give the rest another")
    for path in (*parts, *([rest] if rest is not None else [])):
        check_manifest_file(path, [manifest])
    loaded = Manifest.load(manifest)
    found = split_manifest(loaded, [amount for _, amount in amounts], by.value, seed, transcribed)
    if rest is not None and not len(found.rest):
        raise InputError(f"{manifest}: nothing is left beside {hours}; leave out --rest")
    for path, rows in [*zip(parts, found.subsets), *([(rest, found.rest)] if rest is not None else [])]:
        part = loaded.select(rows)
        part.save(path)
        speakers = len({s for s in part.speakers if s is not None})
        print(f"{path}: {len(part):,} utterances, {part.seconds / 3600:.2f} h, {speakers} speakers"
              + (_transcribed(part) if any(loaded.texts) else ""))


def _transcribed(part: Manifest) -> str:
    """How much of a part has transcripts, where some has none."""
    there = np.array(list(map(bool, part.texts)), bool)
    if there.all():
        return ""
    hours = float(part.lengths[there].sum()) / SAMPLE_RATE / 3600
    return f", {there.sum():,} of them transcribed ({hours:.2f} h)"


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


def _write_good(manifest: Manifest, faults: set[str], source: Path, out: Path) -> None:
    good = [i for i, name in enumerate(manifest.ids) if name not in faults]
    if not good:
        raise InputError(f"{source}: none of {len(manifest):,} utterances can be used; {out} is not written")
    kept = manifest.select(good)
    kept.save(out)
    say(f"{out}: {len(kept):,} utterances, {kept.seconds / 3600:.2f} h, {len(faults):,} left out")


def _print_problems(faults: list[Problem]) -> None:
    for problem in faults[:LISTED]:
        what = problem.what.removeprefix(f"{problem.path} ")
        print(f"{problem.id}: {problem.path}: {what}")
    if len(faults) > LISTED:
        print(f"and {len(faults) - LISTED:,} more")
