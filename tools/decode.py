"""`hubertkit decode` and `hubertkit tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from downstream.decode.beam import BeamDecoder
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import write_hypotheses
from downstream.decode.pool import Decoder, decode_all
from downstream.decode.tune import Search
from downstream.decode.tune import tune as run_tuning
from downstream.emissions import Emissions
from downstream.score.references import read_references
from upstream.errors import UsageError
from upstream.progress import progress, say
from upstream.stage import write_json

Workers = Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")]
Beam = Annotated[int, typer.Option(min=1, help="Hypotheses kept after each frame.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="Symbols tried in a frame; 5 to 10 halve the time on weak "
                                                        "recognisers. All likely ones by default.")]

LmWeight = Annotated[float | None, typer.Option(help="Of natural logarithms; needs --lm. "
                                                     f"{BeamDecoder.lm_weight:g} by default.")]
WordScore = Annotated[float | None, typer.Option(help="Added for each word, in nats; needs --lm. "
                                                      f"{BeamDecoder.word_score:g} by default.")]
Tuned = Annotated[Path | None, typer.Option(help="Take both weights from what `hubertkit tune` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(decode)
    app.command()(tune)


def decode(
    emissions: Annotated[Path, typer.Argument(help="Folder of emissions, as `hubertkit emit` writes it.")],
    out: Annotated[Path, typer.Option(help="Hypotheses to write, one JSON object a line.")] = ...,  # type: ignore[assignment]
    lm: Annotated[Path | None, typer.Option(help="ARPA file, may be gzipped; decodes by beam search with it.")] = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    tuned: Tuned = None,
    beam: Annotated[int | None, typer.Option(min=1, help="Hypotheses kept after each frame; decodes by beam search "
                                                         "even without --lm. 50 by default.")] = None,
    tokens: Tokens = None,
    nbest: Annotated[int, typer.Option(min=1, help="Candidates to write of each utterance, in beam search.")] = 1,
    workers: Workers = None,
) -> None:
    """Turn emissions into text: greedily, or by beam search with a language model."""
    stored = Emissions.load(emissions)
    weight, score = language_weights(lm, lm_weight, word_score, tuned)
    decoder: Decoder
    if lm is None and beam is None:
        if nbest > 1 or tokens is not None:
            raise UsageError("--nbest and --tokens belong to beam search: give --lm or --beam")
        decoder = GreedyDecoder(stored.symbols, stored.blank)
    else:
        decoder = BeamDecoder(stored.symbols, stored.blank, lm, lm_weight=weight, word_score=score, beam=beam or 50,
                              tokens_per_frame=tokens, nbest=nbest)
    with progress("decoding", len(stored)) as report:
        hypotheses = decode_all(stored, decoder, workers=workers, progress=report)
    write_hypotheses(out, hypotheses)
    print(f"{out}: {len(hypotheses)} hypotheses, {sum(len(h.text.split()) for h in hypotheses)} words")


def tune(
    emissions: Annotated[Path, typer.Argument(help="Folder of emissions of a development set.")],
    references: Annotated[Path, typer.Option(help="Its manifest, or a file of `id text` lines.")] = ...,  # type: ignore[assignment]
    lm: Annotated[Path, typer.Option(help="ARPA file, may be gzipped.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="JSON file for `hubertkit decode --tuned`.")] = ...,  # type: ignore[assignment]
    final: Annotated[Path | None, typer.Option(help="Manifest of the final score's set: refuse to tune on it.")] = None,
    beam: Beam = 50,
    tokens: Tokens = None,
    seconds: Annotated[float, typer.Option(help="Speech to tune on; more is thinned out evenly.")] = 300.0,
    decodes: Annotated[int, typer.Option(min=2, help="Pairs of weights to decode with at most.")] = 6,
    workers: Workers = None,
) -> None:
    """Find the weights of a language model on a development set."""
    stored, search = Emissions.load(emissions), Search(seconds=seconds, decodes=decodes)
    forbidden = None if final is None else _manifest_hash(final)
    decoder = BeamDecoder(stored.symbols, stored.blank, lm, beam=beam, tokens_per_frame=tokens)
    with progress("tuning", decodes * len(stored)) as report:
        found = run_tuning(stored, read_references(references).texts, decoder, search,
                           forbidden_manifest_hash=forbidden, workers=workers, progress=report)
    write_json(out, {**asdict(found), "beam": beam, "tokens_per_frame": tokens, "lm": str(lm)})
    for name in found.on_edge:
        say(f"{name}={getattr(found, name):g} lies on the edge of what was tried; the best may lie beyond")
    print(f"{out}: lm_weight {found.lm_weight:g}, word_score {found.word_score:g}, WER {found.wer:.2f} on "
          f"{found.utterances} of {found.utterances_given} utterances ({found.seconds:.0f} s)")


def language_weights(lm: Path | None, lm_weight: float | None, word_score: float | None,
                     tuned: Path | None) -> tuple[float, float]:
    """`lm_weight` and `word_score` of a beam search, from the options of a command.

    Raises:
        UsageError: weights without a language model, given twice, or a file that is not of `hubertkit tune`.
    """
    if lm is None and (tuned is not None or lm_weight is not None or word_score is not None):
        raise UsageError("weights without a language model have no effect: give one with --lm")
    if tuned is None:
        return (BeamDecoder.lm_weight if lm_weight is None else lm_weight,
                BeamDecoder.word_score if word_score is None else word_score)
    if lm_weight is not None or word_score is not None:
        raise UsageError("--tuned gives both weights: leave out --lm-weight and --word-score")
    if not tuned.is_file():
        raise UsageError(f"{tuned}: no such file; `hubertkit tune` writes it")
    try:
        found = json.loads(tuned.read_text(encoding="utf-8"))
        return float(found["lm_weight"]), float(found["word_score"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{tuned}: not what `hubertkit tune` writes") from error


def _manifest_hash(path: Path) -> str:
    found = read_references(path).manifest_hash
    if found is None:
        raise UsageError(f"{path}: --final needs a manifest; plain text does not say which set it is")
    return found
