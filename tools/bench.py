"""`hubertkit bench`: comparisons that write results.json."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.curves import CURVES, MANIFEST, SENTENCES
from benchmarks.curves import record as record_curve
from benchmarks.decoding import QUICK as QUICK_DECODING
from benchmarks.decoding import Plan as DecodingPlan
from benchmarks.decoding import check_file as check_model
from benchmarks.decoding import check_out as check_decoding_folder
from benchmarks.decoding import run as run_decoding
from benchmarks.decoding import shown as shown_decoding
from benchmarks.feeding import run as run_feeding
from benchmarks.front_ends import FRONT_ENDS
from benchmarks.front_ends import Plan as FrontEndPlan
from benchmarks.front_ends import run as run_front_ends
from benchmarks.kmeans import Plan as KmeansPlan
from benchmarks.kmeans import run as run_kmeans
from benchmarks.lm import run as run_lm
from benchmarks.low_resource import run
from benchmarks.low_resource_outlook import Ways
from benchmarks.low_resource_outlook import outlook as low_resource_outlook
from benchmarks.low_resource_recipe import SHIPPED, LowResourceRecipe, micro_batches, most_ranks
from benchmarks.low_resource_table import WIDTH, tables
from benchmarks.posteriors import Sets, import_posteriors
from benchmarks.ranks import Plan as RanksPlan
from benchmarks.ranks import run as run_ranks
from benchmarks.results import read_results, refuse_other_results, table, write_results
from benchmarks.scale import HOURS, UTTERANCES
from benchmarks.scale import run as run_scale
from benchmarks.seams import run as run_seams
from benchmarks.speed import plan_for
from benchmarks.speed import run as run_speed
from benchmarks.teachers import recordings_of
from benchmarks.teachers import run as run_teachers
from downstream.decode.choice import check_device
from downstream.decode.tuned import choice_of, tell_other_recogniser
from downstream.recogniser import load_recogniser, recogniser_hash
from downstream.recognition_outlook import Trials
from downstream.transcribe import Settings
from tools.decoder_options import Tuned
from tools.demo import NOISE_DB
from tools.dry_run import show_parts, tried_emissions, tried_lm, tried_round, tried_teacher, tried_training
from tools.launch import AUTO, RanksOption, check_ranks, launched
from tools.outputs import check_file, check_manifest_file, check_place, own_command
from tools.sweep import whole_numbers
from tools.synthesise import VOICES_TRAIN, sentences, synthesise
from upstream.audio.corpora.folder import import_folder
from upstream.audio.manifest import Manifest
from upstream.device import best_device, chosen_device
from upstream.disk import disk_errors
from upstream.errors import UsageError
from upstream.locks import locked
from upstream.progress import say
from upstream.recipe import load_recipe

app = typer.Typer(no_args_is_help=True)
SCALE_COLUMNS = ["what", "utterances", "seconds", "limit_seconds", "peak_memory", "limit_memory"]
SPEED_COLUMNS = ["system", "model", "precision", "seconds", "share_of_peak", "peak_memory"]
KMEANS_COLUMNS = ["what", "system", "seconds", "inertia", "held_out_inertia", "share_of_matmul",
                  "audio_seconds_per_second", "hours_960"]
TEACHER_COLUMNS = ["teacher", "stream", "round", "layer", "classes", "pnmi", "phone_purity", "cluster_purity"]
FEEDING_COLUMNS = ["what", "source", "threads", "audio_seconds_per_second", "goal"]
SEAM_COLUMNS = ["decoder", "recordings", "count", "longest_seconds", "errors", "wer", "difference"]
RANKS_COLUMNS = ["what", "processes", "threads", "audio_seconds_per_second", "times_one", "goal"]
LM_COLUMNS = ["what", "order", "prune", "words", "seconds", "cpu_seconds", "peak_memory", "ngrams"]
FRONT_END_COLUMNS = ["what", "model", "front_end", "seconds", "audio_seconds_per_second", "share_of_conv", "best"]
DECODING_COLUMNS = ["decoder", "beam", "threads", "wer", "speed", "memory_mb", "difference"]


@app.callback()
def group() -> None:
    """Comparisons that write results.json."""


@app.command("low-resource")
def low_resource(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (librispeech-mini, ...) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    data: Annotated[Path, typer.Option(help="Folder with the corpus, the splits and the text for the LM.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why, how long it would "
                                                            "take and how much disk it would need.")] = False,
) -> None:
    """Encoders beside scratch on several amounts of labels and seeds, decoded greedily and with an n-gram."""
    loaded = load_recipe(LowResourceRecipe, recipe, overrides or [], SHIPPED)
    loaded.check_given()
    check_place(out)
    if dry_run:
        count = check_ranks(ranks, micro_batches(loaded), loaded.device, most_ranks(loaded))
        show_parts(low_resource_outlook(loaded, data, out, _ways(loaded, count)))
        return
    with launched(ranks, micro_batches(loaded), loaded.device, most_ranks(loaded)):
        results = run(loaded, data, out, own_command())
    console = Console()
    if not console.is_terminal:  # a file has no width of its own
        console.width = max(WIDTH, console.width)
    console.print(*tables(results))
    print(out / "results.json")


@app.command("speed")
def speed(
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("speed.json"),
    device: Annotated[str, typer.Option(help="cpu or cuda; the GPU if there is one.")] = "",
    quick: Annotated[bool, typer.Option(help="A tiny model, to see that it runs; the figures say nothing.")] = False,
) -> None:
    """An update of pretraining beside torchaudio's and transformers', against the rate of a large matrix product."""
    _check_file(out, "speed")
    chosen = device or best_device().type
    if chosen not in ("cpu", "cuda") or (chosen == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"--device {chosen}: must be cpu or cuda, and a GPU must be there for cuda")
    command = {"command": own_command()}
    results = run_speed(plan_for(chosen, quick), say, lambda content: write_results(out, command | content))
    _show(results, SPEED_COLUMNS, out)


@app.command("feeding")
def feeding(
    recordings: Annotated[Path, typer.Argument(help="A manifest, or a folder of audio.")],
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("feeding.json"),
    minutes: Annotated[float, typer.Option(help="Of audio to read.")] = 30.0,
) -> None:
    """Decoding, caching and cropping: audio seconds a second, from FLAC, WAV, Opus, memory and disk."""
    _check_file(out, "feeding", [recordings])
    if not minutes > 0:
        raise UsageError(f"--minutes {minutes}: must be above 0")
    results = {"command": own_command(), **run_feeding(_manifest(recordings), minutes, say)}
    write_results(out, results)
    _show(results, FEEDING_COLUMNS, out)


@app.command("seams")
def seams(
    recogniser: Annotated[Path, typer.Argument(help="Folder of a recogniser, as `finetune` writes it.")],
    test: Annotated[Path, typer.Argument(help="Manifest of utterances with texts.")],
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("seams.json"),
    lm: Annotated[Path | None, typer.Option(help="ARPA file; without it decoding is greedy only.")] = None,
    tuned: Tuned = None,
    minutes: Annotated[float, typer.Option(help="Of a joined recording at most.")] = 30.0,
    pause: Annotated[float, typer.Option(help="Seconds of digital silence between two utterances.")] = 0.0,
    parted: Annotated[float | None, typer.Option(help="Pause at which recordings are parted, as `transcribe --pause`; "
                                                      "0: they are heard in windows only.")] = None,
    characters: Annotated[bool, typer.Option("--characters", help="Count errors in characters: of scripts without "
                                             "spaces. So with weights of unspaced decoding.")] = False,
) -> None:
    """Utterances transcribed one by one, and joined to long recordings: what the seams cost."""
    _check_file(out, "seams", [recogniser, test, lm, tuned])
    choice = choice_of(lm=lm, tuned=tuned)
    tell_other_recogniser(tuned, lambda: recogniser_hash(load_recogniser(recogniser)[0]))
    settings = {"greedy": Settings(pause_seconds=parted)}
    if lm is not None:
        settings[f"{choice.chosen.value} + LM"] = Settings(choice, pause_seconds=parted)
    results = {"command": own_command(),
               **run_seams(recogniser, Manifest.load(test), settings, minutes, pause, say,
                           "character" if characters or choice.unspaced else "word")}
    write_results(out, results)
    _show(results, SEAM_COLUMNS, out, seams_caption(results))


def seams_caption(results: dict[str, Any]) -> str:
    """What is the same in all rows of the table."""
    first = results["rows"][0]
    return (f"of {first['words']:,} {results['unit']}s; the goal is a difference of at most "
            f"{next(row['goal'] for row in results['rows'] if 'goal' in row):g}")


@app.command("curves")
def curves(
    name: Annotated[str, typer.Argument(help="A recipe whose beginning is kept: " + ", ".join(CURVES))],
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("curve.json"),
    run: Annotated[Path, typer.Option(help="Folder of speech and run; the same command again goes on there.")] = Path(
        "curve-run"),
    updates: Annotated[int, typer.Option(help="To make; 0: the curve's own number.")] = 0,
    recordings: Annotated[Path | None, typer.Option(help="A manifest, or a folder of audio, instead of synthesised "
                                                         "speech.")] = None,
) -> None:
    """Loss and masked accuracy of a pretraining on synthesised speech, update by update: a reference for others."""
    _check_file(out, "curves", [recordings])
    if name not in CURVES:
        raise UsageError(f"{name}: no such curve; those there are: {', '.join(CURVES)}")
    if updates < 0:
        raise UsageError(f"--updates {updates}: at least 0")
    check_manifest_file(run / MANIFEST, [recordings])
    with locked(run):
        if recordings is None:
            speech = synthesise(run / "speech", sentences(SENTENCES, 0), VOICES_TRAIN, 0, NOISE_DB)
        else:
            speech = _manifest(recordings)
    write_results(out, {"command": own_command(), **record_curve(name, speech, run, updates)})
    print(out)


@app.command("scale")
def scale(
    out: Annotated[Path, typer.Option(help="The results file; the manifest is made beside it and removed.")] = Path(
        "scale.json"),
    utterances: Annotated[int, typer.Option(help="Of the synthetic manifest; 15.4 s each.")] = UTTERANCES,
) -> None:
    """Open a manifest of 14 million utterances (60,000 h) and plan an epoch: seconds and peak memory."""
    _check_file(out, "scale")
    if utterances < 1:
        raise UsageError(f"--utterances {utterances}: at least 1")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        results = {"command": own_command(),
                   **run_scale(utterances, HOURS * utterances / UTTERANCES, out.absolute().parent)}
    write_results(out, results)
    _show(results, SCALE_COLUMNS, out)


@app.command("teachers")
def teachers(
    data: Annotated[Path, typer.Option(help="Manifest to fit teachers on; needs no alignments.")],
    aligned: Annotated[Path, typer.Option(help="Manifest to judge them on.")],
    alignments: Annotated[Path, typer.Option(help="Folder of TextGrid or CTM files of --aligned.")],
    out: Annotated[Path, typer.Option(help="Folder of the measurement; the same command again goes on there.")],
    rounds: Annotated[Path | None, typer.Option("--run", help="Folder of a pretraining run: every layer of every "
                                                              "round is judged as well.")] = None,
    encoder: Annotated[list[Path] | None, typer.Option(help="Another encoder whose layers are judged, named for its "
                                                            "folder; may be given more than once.")] = None,
    cmn: Annotated[bool, typer.Option("--cmn", help="Judge teachers of one stream also on frames less the mean over "
                                                    "their utterance.")] = False,
    clusters: Annotated[str, typer.Option(help="Of each layer: one number, or several with commas.")] = "100",
    hours: Annotated[float, typer.Option(help="Of --data to sample frames from.")] = 2.0,
    sample_frames: Annotated[int, typer.Option(help="Frames to fit on.")] = 300_000,
    seed: Annotated[int, typer.Option(help="Of the sample and of k-means.")] = 0,
) -> None:
    """PNMI and purities of MFCC, ensemble, product, residual and random teachers, and of the layers of encoders."""
    recordings = recordings_of(data, aligned, alignments, hours, sample_frames, seed)
    results = run_teachers(recordings, rounds, whole_numbers("--clusters", clusters), out, own_command(), say,
                           others=encoder or [], cmn=cmn)
    _show(results, TEACHER_COLUMNS, out / "results.json")


@app.command("kmeans")
def kmeans(
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("kmeans.json"),
    points: Annotated[int, typer.Option(help="Frames to cluster.")] = KmeansPlan.points,
    device: Annotated[str, typer.Option(help="Where ours runs: cpu or cuda.")] = "cpu",
) -> None:
    """k-means and labelling beside scikit-learn, as fairseq sets it, and faiss alone."""
    _check_file(out, "kmeans")
    chosen = chosen_device(device) if device in ("cpu", "cuda") else None
    if chosen is None:
        raise UsageError(f"--device {device}: cpu or cuda")
    if points < KmeansPlan.clusters:
        raise UsageError(f"--points {points}: at least {KmeansPlan.clusters}, the number of clusters")
    results = {"command": own_command(),
               **run_kmeans(KmeansPlan(points=points, device=chosen), say)}
    write_results(out, results)
    _show(results, KMEANS_COLUMNS, out)


@app.command("ranks")
def ranks_together(
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("ranks.json"),
    updates: Annotated[int, typer.Option(help="Of each training.")] = RanksPlan.updates,
    repeats: Annotated[int, typer.Option(help="Turns of all trainings.")] = RanksPlan.repeats,
) -> None:
    """Two ranks of one thread beside one, and beside two trainings apart: audio seconds a second of `hubert-tiny`."""
    _check_file(out, "ranks")
    if repeats < 1 or updates < 2 * RanksPlan.log_every:
        raise UsageError(f"--updates {updates} --repeats {repeats}: at least {2 * RanksPlan.log_every} and 1")
    plan = RanksPlan(updates=updates, repeats=repeats)
    write_results(out, {"command": own_command(), **run_ranks(plan, say)})
    _show(read_results(out), RANKS_COLUMNS, out)


@app.command("lm")
def lm(
    text: Annotated[Path, typer.Argument(help="Plain or .gz text, one sentence a line.")],
    out: Annotated[Path, typer.Option(help="The results file; the same command again goes on with it.")] = Path(
        "lm.json"),
) -> None:
    """Estimating n-gram models of a text, in memory and within 2 GiB: seconds and peak memory."""
    _check_file(out, "lm", [text])
    with disk_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        results = run_lm(text, out, own_command(), say)
    _show(results, LM_COLUMNS, out)


@app.command("front-ends")
def front_ends(
    data: Annotated[Path, typer.Option(help="Manifest to train on.")],
    aligned: Annotated[Path, typer.Option(help="Manifest to judge on.")],
    alignments: Annotated[Path, typer.Option(help="Folder of TextGrid or CTM files of --aligned.")],
    out: Annotated[Path, typer.Option(help="Folder of the measurement; the same command again goes on there.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of hubert-tiny, for the trainings")] = None,
    updates: Annotated[int, typer.Option(help="Of each training.")] = FrontEndPlan.updates,
    only: Annotated[str | None, typer.Option(help="Train these alone, for instance fbank,fbank-40ms, and measure no "
                                                  "cost.")] = None,
) -> None:
    """Cost of conv, light and filterbank front ends, at 20 and 40 ms, and the PNMI of what they learn."""
    if updates < 1:
        raise UsageError(f"--updates {updates}: at least 1")
    plan = FrontEndPlan(updates=updates, overrides=tuple(overrides or ()))
    if only is not None:
        names = tuple(only.split(","))
        if unknown := [name for name in names if name not in FRONT_ENDS]:
            raise UsageError(f"--only {unknown[0]}: one of {', '.join(FRONT_ENDS)}")
        plan = replace(plan, trained=names, sizes=())
    results = run_front_ends(plan, data, aligned, alignments, out, own_command(), say)
    _show(results, FRONT_END_COLUMNS, out / "results.json")


@app.command("decoding")
def decoding(
    lm: Annotated[Path, typer.Option(help="ARPA file (.arpa, .arpa.gz); all decoders use it.")],
    out: Annotated[Path, typer.Option(help="Folder of the measurement; the same command again goes on there.")],
    emissions: Annotated[Path | None, typer.Option(help="Folder of a recogniser's emissions `dev` and `test`, with the "
                                                        "references `dev.txt`, `test.txt` (or .arrow) beside.")] = None,
    posteriors: Annotated[Path | None, typer.Option(help="Folder of simulated posteriors instead.")] = None,
    dev_references: Annotated[Path | None, typer.Option(help="A manifest, or a file of `id text` lines.")] = None,
    test_references: Annotated[Path | None, typer.Option(help="Likewise.")] = None,
    device: Annotated[str | None, typer.Option(help="Of torch, cuda for instance: measure our own decoder there as "
                                                    "well.")] = None,
    workers: Annotated[str, typer.Option(help="1, or all: measure the best points over all cores as well.")] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Decodes of which the median counts; fewer if they are "
                                                     "long.")] = DecodingPlan.repeats,
    quick: Annotated[bool, typer.Option(help="The narrowest beams, hardly tuned, to see that it runs.")] = False,
) -> None:
    """Word error rate against speed of every decoder and beam, tuned on dev, on the same emissions."""
    if (emissions is None) == (posteriors is None):
        raise UsageError("give either --emissions or --posteriors")
    if workers not in ("1", "all"):
        raise UsageError(f"--workers {workers}: 1 or all")
    if device is not None:
        check_device(device)
    check_model(lm)
    check_decoding_folder(out)
    if posteriors is not None:
        import_posteriors(posteriors, emissions := out / "emissions")
    assert emissions is not None  # one of the two is given
    plan = replace(QUICK_DECODING if quick else DecodingPlan(repeats=repeats), device=device,
                   all_cores=workers == "all")
    results = run_decoding(plan, Sets.load(emissions, dev_references, test_references), lm, out,
                           own_command(), say)
    Console().print(table(shown_decoding(results["rows"]), DECODING_COLUMNS, digits={"wer": 2, "difference": 2}))
    for goal in results["goals"]:
        if goal["goal"] is not None:
            fast = "never as good" if goal["times_as_fast"] is None else f"{goal['times_as_fast']:g} times as fast"
            print(f"{goal['decoder']} against {goal['against']}: {fast} (goal {goal['goal']:g})")
    print(out / "results.json", out / "frontier.png", sep="\n")


def _ways(recipe: LowResourceRecipe, count: int) -> Ways:
    """What a dry run tries, in so many ranks of a pretraining."""
    cells = chosen_device(recipe.finetune.device)
    device = chosen_device(recipe.pretrain.device) if recipe.rounds_wanted else cells
    together = count if device.type == "cuda" else 1  # on CPUs one process has all the cores that ranks share
    return Ways(partial(tried_round, device=device, together=together),
                partial(tried_teacher, device=device, probe=recipe.pretrain.probe, together=together),
                Trials(partial(tried_training, device=cells), partial(tried_emissions, device=cells)), tried_lm)


def _manifest(recordings: Path) -> Manifest:
    return import_folder(recordings) if recordings.is_dir() else Manifest.load(recordings)


def _show(results: dict[str, Any], columns: list[str], file: Path, caption: str | None = None) -> None:
    shown = table(results["rows"], columns)
    shown.caption = caption
    Console().print(shown)
    print(file)


def _check_file(out: Path, benchmark: str, inputs: Iterable[Path | None] = ()) -> None:
    """Raise UsageError unless the results of a benchmark may be written to a file."""
    check_file(out, inputs)
    refuse_other_results(out, benchmark)
