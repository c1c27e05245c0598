"""`hubertkit demo`: the whole way on speech synthesised on the spot, in minutes.

Voices and sentences of the test set are unseen in training. One low-resource comparison (`benchmarks.low_resource`):
few labels, two rounds of pretraining on many more unlabelled recordings; scratch, round 1 and round 2 get the same
number of fine-tuning updates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.low_resource import check_out, run
from benchmarks.low_resource_recipe import SHIPPED, LowResourceRecipe, micro_batches, most_ranks
from benchmarks.report import making
from benchmarks.report.reading import read_all
from benchmarks.results import table
from tools.launch import AUTO, RanksOption, launched
from tools.outputs import own_command
from tools.synthesise import VOICES_TEST, VOICES_TRAIN, sentences, synthesise
from upstream import ranks as processes
from upstream.audio.manifest import Manifest
from upstream.disk import writing
from upstream.keyed import keyed
from upstream.locks import locked
from upstream.progress import say
from upstream.recipe import as_settings, load_recipe
from upstream.stage import run_stage

ROWS = ["encoder", "decoder", "wer", "cer", "words", "errors"]
REPORT = "report"  # the folder of its page, in the demo's
NOISE_DB = (-36.0, -18.0)  # a noisy room: clean synthetic speech is so regular that MFCC clusters are nearly phones
TEACHERS = {"phone_purity": "phone purity", "cluster_purity": "cluster purity", "pnmi": "PNMI"}


@dataclass(frozen=True)
class Size:
    """Sentences of each part. An utterance lasts about three seconds; `labelled` and `dev` are parts of the training
    voices' speech."""

    recipe: str
    train: int
    labelled: int
    dev: int
    test: int
    lm: int


FULL = Size("demo", train=760, labelled=90, dev=50, test=100, lm=20_000)
QUICK = Size("demo-quick", train=120, labelled=60, dev=12, test=24, lm=5_000)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on.")] = Path("demo-out"),
    quick: Annotated[bool, typer.Option(help="The same stages in a minute or three; the scores say little.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of voices, sentences, weights, batches and masks; 0 by "
                                                  "default.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of benchmarks/recipes/demo.yaml")] = None,
    ranks: RanksOption = AUTO,
) -> None:
    """Synthesise speech, pretrain two rounds, fine-tune, decode with an LM, and report: ten minutes on two cores."""
    began = time.monotonic()
    size = QUICK if quick else FULL
    recipe = load_recipe(LowResourceRecipe, size.recipe, overrides or [], SHIPPED)
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    check_out(out)  # before speech is made
    making.check_place(out / REPORT)
    with launched(ranks, micro_batches(recipe), recipe.device, most_ranks(recipe)):
        with locked(out):  # the speech of a demo that is running is not replaced
            speech_stage(size, recipe.seed, out / "speech")
        results = run(recipe, out / "speech", out, own_command())
        page = processes.alone(lambda: making.write(making.report(read_all([out / "results.json"])), out / REPORT)[-1])
    show(results, Console())
    if quick:
        print("--quick only shows that every stage runs: with so few updates the rates mean nothing")
    print(f"{time.monotonic() - began:.0f} s; everything is in {out}, the numbers in {out / 'results.json'}, a page of "
          f"them in {page}")


def speech_stage(size: Size, seed: int, folder: Path) -> None:
    """The corpus of the demo, as a data folder of `bench low-resource`."""

    def work(target: Path) -> dict[str, Any]:
        whole = _corpus(size, seed, target)
        _split(whole, size, seed, target / "splits")
        _lm_text(size, seed, target / "lm-text")
        return {"hash": whole.hash, "minutes": whole.seconds / 60, "utterances": len(whole)}

    run_stage(folder, "speech", version=1, settings=as_settings(size) | {"seed": seed}, inputs={}, work=work, say=say)


def show(results: dict[str, Any], console: Console) -> None:
    """The closing tables: error rates, and the teachers' quality by the synthesiser's own phone times, where the recipe
    has it measured."""
    rows = results["rows"]
    labels, seeds = {r["labelled"] for r in rows}, {r.get("seed") for r in rows}
    columns = [*(["labelled"] if len(labels) > 1 else []), *(["seed"] if len(seeds) > 1 else []), *ROWS]
    console.print(table(rows, columns, f"{', '.join(sorted(labels))} of labels; unseen voices and sentences"))
    judged = [r for r in results["rounds"] if TEACHERS.keys() <= r["units"].keys()]
    teachers = Table("teacher of", *TEACHERS.values(), title="units against the phones of the synthesiser")
    for r in judged:
        streams = r["units"].get("streams", [r["units"]])
        for number, figures in enumerate(streams, 1):
            which = f", stream {number} of {len(streams)}" * (len(streams) > 1)
            teachers.add_row(f"round {r['round']}{which}", *(f"{figures[name]:.3f}" for name in TEACHERS))
    if judged:
        console.print(teachers)
    for base in dict.fromkeys(c["against"] for c in results["comparisons"]):
        console.print(_differences([c for c in results["comparisons"] if c["against"] == base], base,
                                   ["labelled"] if len(labels) > 1 else [], len(seeds) > 1))


def _differences(comparisons: list[dict[str, Any]], base: str, more: list[str], of_means: bool) -> Table:
    """Of all encoders from one."""
    found = Table(*more, "encoder", "decoder", "rate", f"difference from {base} [95%]",
                  title="paired on the same utterances" + ", means over seeds" * of_means)
    for c in comparisons:
        low, high = c["interval"]
        found.add_row(*(c[name] for name in more), c["encoder"], c["decoder"], c["rate"].upper(),
                      f"{c['difference']:+.1f} [{low:+.1f}, {high:+.1f}]")
    return found


def _corpus(size: Size, seed: int, folder: Path) -> Manifest:
    """Training and test speech under one manifest, alignments under one folder."""
    train = synthesise(folder / "train", sentences(size.train, seed), VOICES_TRAIN, seed, NOISE_DB)
    test = synthesise(folder / "test", sentences(size.test, seed, part="test"), VOICES_TEST, seed, NOISE_DB)
    whole = Manifest.of([*train, *test], f"espeak-ng, seed {seed}")
    whole.save(folder / "manifest.arrow")
    return whole


def _split(whole: Manifest, size: Size, seed: int, folder: Path) -> None:
    """`unlabelled`, `labelled` within it, `dev` apart from both, by keyed draw; `test` is the unseen voices."""
    known = {voice.name for voice in VOICES_TRAIN}
    train = [u.id for u in whole if u.speaker in known]
    order = [train[i] for i in keyed(seed, "demo splits").permutation(len(train))]
    dev, rest = order[:size.dev], order[size.dev:]
    for name, ids in (("dev", dev), ("unlabelled", rest), ("labelled", rest[:size.labelled]),
                      ("test", [u.id for u in whole if u.speaker not in known])):
        with writing(folder / f"{name}.txt") as temporary:
            temporary.write_text("".join(f"{i}\n" for i in sorted(ids)), encoding="utf-8")


def _lm_text(size: Size, seed: int, folder: Path) -> None:
    """Sentences of the training part of the grammar: no test sentence is among them."""
    with writing(folder / "sentences.txt") as temporary:
        temporary.write_text("".join(f"{s}\n" for s in sentences(size.lm, seed + 1)), encoding="utf-8")
