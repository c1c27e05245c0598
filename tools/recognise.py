"""`hubertkit finetune`, `hubertkit emit` and `hubertkit transcribe`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from downstream.emissions import Emissions
from downstream.finetune import finetune as run_finetuning
from downstream.finetune import refuse_own_encoder
from downstream.finetune_recipe import SHIPPED, FinetuneRecipe
from downstream.recogniser import compute_emissions
from downstream.transcribe import Settings
from downstream.transcribe import transcribe as run_transcription
from tools.decode import LmWeight, Tuned, WordScore, language_weights
from tools.launch import AUTO, RanksOption, launched
from upstream.audio.manifest import Manifest
from upstream.recipe import load_recipe
from upstream.stage import locked


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(finetune)
    app.command()(emit)
    app.command()(transcribe)


def finetune(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (ctc-tiny, ctc-base-10h) or a YAML file.")],
    overrides: Annotated[list[str] | None,
                         typer.Argument(help="key=value, e.g. data=train.arrow dev=dev.arrow encoder=DIR")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the recogniser; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
) -> None:
    """Train a recogniser on an encoder (encoder=DIR) or from scratch."""
    loaded = load_recipe(FinetuneRecipe, recipe, overrides or [], SHIPPED)
    refuse_own_encoder(loaded, out)  # before the lock, which is a file in the folder
    with launched(ranks, [loaded.training.accumulate]), locked(out):
        result = run_finetuning(loaded, out)
    print(f"{out}: encoder={loaded.encoder} " + " ".join(f"{k}={v}" for k, v in result.items() if k != "hash"))


def emit(
    recogniser: Annotated[Path, typer.Argument(help="Folder of a recogniser.")],
    manifest: Annotated[Path, typer.Argument(help="What to recognise.")],
    out: Annotated[Path, typer.Option(help="Folder of the emissions, which decoders read.")] = ...,  # type: ignore[assignment]
) -> None:
    """Compute a recogniser's log-probabilities once, for `decode` and `tune`."""
    compute_emissions(recogniser, Manifest.load(manifest), out)
    found = Emissions.load(out)
    print(f"{out}: {len(found.ids)} utterances, hash {found.hash[:12]}")


def transcribe(
    recogniser: Annotated[Path, typer.Argument(help="Folder of a recogniser, as `finetune` writes it.")],
    files: Annotated[list[Path], typer.Argument(help="Audio files.")],
    lm: Annotated[Path | None, typer.Option(help="ARPA file (.arpa, .arpa.gz); without it decoding is greedy.")] = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    tuned: Tuned = None,
    beam: Annotated[int, typer.Option(min=1, help="Hypotheses kept.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, with word times.")] = False,
) -> None:
    """Write what is said in audio files: one line a file."""
    weight, score = language_weights(lm, lm_weight, word_score, tuned)
    settings = Settings(lm=lm, lm_weight=weight, word_score=score, beam=beam)
    for path, hypothesis in run_transcription(recogniser, files, settings):
        if as_json:
            print(json.dumps({"file": str(path), **asdict(hypothesis)}, ensure_ascii=False), flush=True)
        else:
            print(hypothesis.text if len(files) == 1 else f"{path}\t{hypothesis.text}", flush=True)
