"""`hubertkit teacher`: fit teachers, import those of others, and say how good their units are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tools.gate import pass_gate
from tools.outputs import check_file, check_folder
from tools.sweep import Cmn, sweep_layers, whole_numbers
from tools.units import load_teacher, source_of
from upstream.audio.caching import AudioCache
from upstream.audio.manifest import Manifest
from upstream.device import best_device
from upstream.errors import InputError, UsageError
from upstream.features.centred import with_cmn
from upstream.features.mix import MixSource
from upstream.features.source import LayerSource, Source
from upstream.features.streaming import check_hours, draw_hours
from upstream.locks import locked
from upstream.model import load_encoder
from upstream.progress import progress, say
from upstream.teacher.alignments import find_alignments
from upstream.teacher.gate import check_coverage
from upstream.teacher.heat_map import plot_heat_map
from upstream.teacher.importing import import_centroids
from upstream.teacher.kept_sample import forget_sample
from upstream.teacher.matching import named_source
from upstream.teacher.proxies import Change, label_stability, runs, speaker_information
from upstream.teacher.quality import Quality, quality
from upstream.teacher.quantiser import kind_of
from upstream.teacher.sampling import heard_little
from upstream.teacher.teacher import SAMPLE_FRAMES, SAMPLE_WITHIN, Teacher, refuse_others
from upstream.teacher.units import Units

Features = Annotated[str | None, typer.Option(help="Without an encoder: mfcc, the default, or fbank.")]

app = typer.Typer(no_args_is_help=True)
app.command("sweep")(sweep_layers)
app.command("gate")(pass_gate)


@app.callback()
def teacher() -> None:
    """Teachers: fit, import, how good are their units, which layer."""


@app.command("quality")
def show_quality(
    units: Annotated[Path, typer.Argument(help="Folder of units.")],
    alignments: Annotated[Path | None, typer.Option(help="Folder of TextGrid or CTM files named for the utterances, "
                                                         "or a CTM of many.")] = None,
    proxies: Annotated[Path | None, typer.Option(help="Manifest of the units, for figures without "
                                                      "alignments.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="With --proxies: the units' teacher, for their stability under "
                                                      "noise and other speeds.")] = None,
    encoder: Annotated[list[Path] | None, typer.Option(help="With --teacher: the encoder that it reads; once for each "
                                                            "where it reads several.")] = None,
    snr: Annotated[float, typer.Option(help="Of the noise, in dB of each utterance's power.")] = 10.0,
    speed: Annotated[float, typer.Option(help="0.5 to 2; above 1 is faster.")] = 1.1,
    hours: Annotated[float, typer.Option(help="Of recordings to change, at most.")] = 1.0,
    stream: Annotated[int, typer.Option(help="Which labels, where units have several streams.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="With --alignments: a PNG of phones against clusters.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, and of which recordings are changed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Phone purity, cluster purity and PNMI of units against phone alignments, or proxies without any."""
    encoders = encoder or []
    _check_what_for(alignments, proxies, teacher, encoders, plot)
    check_hours(hours)
    changes = (Change("noise", snr), Change("speed", speed))
    if plot is not None:
        check_file(plot, [units, proxies, teacher, *encoders])
    stored = Units.load(units)
    if alignments is not None and not alignments.exists():
        raise UsageError(f"--alignments {alignments}: no such folder, nor a CTM file")
    if not 0 <= stream < len(stored.classes):
        raise UsageError(f"--stream {stream}: {units} has streams 0 to {len(stored.classes) - 1}")
    if len(stored.classes) > 1:
        say(f"these are the figures of stream {stream}; --stream names another of 0 to {len(stored.classes) - 1}")
    result: dict[str, Any] = {}
    found = None
    if alignments is not None:
        with progress("reading alignments", len(stored)) as report:
            found = quality(stored, find_alignments(alignments), stream=stream, progress=report)
        result |= found.as_json()
        if plot is not None:
            plot_heat_map(found, plot)
    if proxies is not None:
        result["proxies"] = _proxies(stored, proxies, teacher, encoders, changes, hours, stream, seed)
    if as_json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        if found is not None:
            _print(found)
        if proxies is not None:
            _print_proxies(result["proxies"])
    if found is not None and found.missing:
        say(f"{found.missing} of {found.missing + found.utterances} utterances have no alignment and are left out")


@app.command("fit")
def fit_teacher(
    manifest: Annotated[Path, typer.Argument(help="Recordings.")],
    clusters: Annotated[str, typer.Option(help="Clusters; one number for each stream, e.g. 50,100,500.")],
    out: Annotated[Path, typer.Option(help="Folder of the teacher.")],
    kind: Annotated[str | None, typer.Option(help="single, ensemble, product, residual or random; by default single "
                                                  "for one number and ensemble for several.")] = None,
    encoder: Annotated[list[Path] | None, typer.Option(help="Cluster a layer of this encoder; several side by side "
                                                            "where it is given more than once.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="That layer, of each encoder; may be given more than "
                                                         "once.")] = None,
    features: Features = None,
    stacked: Annotated[bool, typer.Option("--stacked", help="fbank: both windows of a frame.")] = False,
    cmn: Cmn = False,
    pca: Annotated[int, typer.Option(min=0, help="Cluster so many principal components; 0 for the frames "
                                                 "themselves.")] = 0,
    whiten: Annotated[bool, typer.Option("--whiten", help="Give the components unit variance.")] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames to cluster, drawn at random.")] = SAMPLE_FRAMES,
    within: Annotated[float, typer.Option(min=0, help="Read so many times as many frames, of utterances drawn first; "
                                                      "0 to draw from all.")] = SAMPLE_WITHIN,
    seed: Annotated[int, typer.Option(help="Of the draw and the starts.")] = 0,
) -> None:
    """Fit a teacher of any kind on recordings."""
    check_folder(out, [manifest, *(encoder or [])], own="teacher.json")
    numbers = whole_numbers("--clusters", clusters)
    if 0 < within < 1:
        raise UsageError(f"--within {within:g}: must be at least 1, or 0 to draw from all utterances")
    refuse_others(out, len(numbers), bool(pca or whiten or kind == "random"))
    source = with_cmn(_source(encoder or [], layer or [], features, stacked), cmn)
    recordings = Manifest.load(manifest)
    if kind != "random" and (little := heard_little(recordings, np.arange(len(recordings)), frames, seed, within)):
        say(f"warning: the sample hears {little}; raise --frames or --within (0 draws from all)")
    with locked(out):
        with progress("reading frames", len(recordings)) as report:
            made = Teacher.fit(source, recordings, numbers[0] if len(numbers) == 1 and kind is None else numbers,
                               seed=seed, read=AudioCache(recordings).wave, sample_frames=frames, sample_within=within,
                               kind=kind_of(kind), pca=pca, whiten=whiten, progress=report, keep=out)
        made.save(out)
        forget_sample(out)
    print(f"{out}: {made.kind} teacher of {'+'.join(map(str, made.classes))} classes, "
          + (f"inertia {made.inertia:.4g}, " if made.inertia is not None else "") + f"hash {made.hash[:12]}")


@app.command("import")
def import_teacher(
    centroids: Annotated[Path, typer.Argument(help=".npy, or a k-means of scikit-learn (joblib or pickle).")],
    out: Annotated[Path, typer.Option(help="Folder of the teacher.")] = ...,  # type: ignore[assignment]
    encoder: Annotated[list[Path] | None, typer.Option(help="The encoder whose layer was clustered; several as for "
                                                            "fit.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="That layer.")] = None,
    features: Features = None,
    cmn: Cmn = False,
) -> None:
    """Make a teacher of centroids that somebody published. Nothing in the file is run."""
    check_folder(out, [centroids, *(encoder or [])], own="teacher.json")
    refuse_others(out, 1)
    made = import_centroids(centroids, with_cmn(_source(encoder or [], layer or [], features), cmn).describe())
    with locked(out):
        made.save(out)
    print(f"{out}: {made.clusters} centroids of {made.features['dim']} dimensions, hash {made.hash[:12]}")


def _check_what_for(alignments: Path | None, proxies: Path | None, teacher: Path | None, encoders: list[Path],
                    plot: Path | None) -> None:
    """Raise UsageError where no figure of quality is asked for, or an option has none to change."""
    if alignments is None and proxies is None:
        raise UsageError("give --alignments DIR, or --proxies MANIFEST for figures that need none")
    first = encoders[0] if encoders else None
    _refuse_alone({"--teacher": teacher, "--encoder": first}, "--proxies", proxies)
    _refuse_alone({"--encoder": first}, "--teacher", teacher)
    _refuse_alone({"--plot": plot}, "--alignments", alignments)


def _refuse_alone(given: dict[str, Path | None], needed: str, there: Path | None) -> None:
    """Raise UsageError for an option that has no effect without another."""
    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None and there is None:
        raise UsageError(f"{name} has no effect without {needed}: give it too, or leave {name} out")


def _source(encoders: list[Path], layers: list[int], features: str | None, stacked: bool = False) -> Source:
    """The layers of each encoder, as in a round; features where no encoder is named.

    Raises UsageError for options without an effect, and a layer that is given twice.
    """
    if bool(encoders) != bool(layers):
        raise UsageError("--encoder and --layer go together")
    if len(set(layers)) < len(layers):
        raise UsageError(f"--layer {' --layer '.join(map(str, layers))}: one of them twice; give each once")
    if not encoders:
        if stacked and features != "fbank":
            raise UsageError("--stacked is for fbank alone: give --features fbank too, or leave it out")
        return named_source(features or "mfcc", stacked)
    if features is not None or stacked:
        raise UsageError("--features and --stacked have no effect beside --encoder: leave them out")
    device = best_device()
    loaded = [load_encoder(encoder, device) for encoder in encoders]
    if len(loaded) == len(layers) == 1:
        return LayerSource(loaded[0], layers[0], device)
    return MixSource([LayerSource(encoder, layers, device) for encoder in loaded])


def _proxies(stored: Units, manifest_path: Path, teacher: Path | None, encoders: list[Path],
             changes: tuple[Change, ...], hours: float, stream: int, seed: int) -> dict[str, Any]:
    """Runs and speakers of the stored units and, with their teacher, what changed recordings do to them."""
    manifest = Manifest.load(manifest_path)
    ids = [i for i in manifest.ids if i in stored]
    if not ids:
        raise InputError(f"{stored.folder}: no units of any utterance of {manifest_path}")
    check_coverage(stored, manifest.only(ids))  # the same ids may be of other audio
    classes = stored.classes[stream]
    owners = [s for i, s in zip(manifest.ids, manifest.speakers) if i in stored]
    speakers = speaker_information(lambda i: stored.labels(i, stream), ids, owners, classes, seed)
    found: dict[str, Any] = {"utterances": len(ids), "classes": classes,
                             "runs": asdict(runs((stored.labels(i, stream) for i in ids), classes, stored.rate)),
                             "speakers": asdict(speakers) if speakers else None}
    if teacher is None:
        return found
    known = load_teacher(teacher)
    if known.hash != stored.teacher_hash:
        raise InputError(f"{stored.folder}: units of teacher {str(stored.teacher_hash)[:12]}, {teacher} is "
                         f"{known.hash[:12]}; give the teacher that made them")
    source = source_of(known, encoders)
    chosen = manifest.only(ids)
    chosen = chosen.select(draw_hours(chosen.lengths, hours, seed))
    for change in changes:
        with progress(f"labelling with {change.kind} {change.amount:g}", len(chosen)) as report:
            stable = label_stability(stored, known.quantiser, source, chosen, change, read=AudioCache(chosen).wave,
                                     seed=seed, stream=stream, progress=report)
        found[change.kind] = {"amount": change.amount, **asdict(stable)}
    return found


def _print_proxies(found: dict[str, Any]) -> None:
    table = Table("without alignments", "", "by chance", "corrected")
    for kind, unit in (("noise", "dB"), ("speed", "times")):
        if kind in found:
            row = found[kind]
            table.add_row(f"same label with {kind} ({row['amount']:g} {unit})", f"{row['agreement']:.4f}",
                          f"{row['by_chance']:.4f}", f"{row['kappa']:.4f}")
    row = found["runs"]
    table.add_row("neighbours agree", f"{row['neighbours']:.4f}", f"{row['by_chance']:.4f}", "-")
    if found["speakers"]:
        row = found["speakers"]
        table.add_row(f"says about {row['speakers']} speakers", f"{row['normalised']:.4f}", f"{row['by_chance']:.4f}",
                      f"{row['excess']:.4f}")
    console = Console(highlight=False)
    console.print(table)
    row = found["runs"]
    console.print(f"a unit lasts {row['mean']:.2f} frames, half of them {row['median']:g} or less, {row['single']:.0%} "
                  f"a single one; {row['per_second']:.1f} runs a second; {found['utterances']} utterances")


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
                  f"{found.units_per_second:.1f} units a second, equal neighbours as one; {found.utterances} "
                  "utterances")
