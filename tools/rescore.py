"""`hubertkit rescore` and `hubertkit rescore-tune`: n-best lists ranked again by a neural language model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from downstream.decode.hypothesis import Hypothesis, read_hypotheses, write_hypotheses
from downstream.decode.provenance import check_provenance_place, read_provenance
from downstream.decode.rescoring import TextModel, Weights, candidates_of, score_nbest, tune_weights
from downstream.decode.rescoring import rescore as reranked
from downstream.decode.tuned import noted_file, noted_model, same_model
from downstream.lm.character_model import CharacterModel
from downstream.lm.rescoring import CausalModel
from downstream.score.intervals import range_of
from downstream.score.rates import NO_SPACES, Unit, without_spaces
from downstream.score.references import read_references
from downstream.score.shared import refuse_shared
from tools.few import tell_few
from tools.outputs import check_file, own_command
from upstream.device import best_device
from upstream.disk import write_json
from upstream.errors import InputError, UsageError
from upstream.progress import progress, say
from upstream.stage import versions

Model = Annotated[str, typer.Option(help="Folder or name on the hub of a causal language model (extra hf), or folder "
                                         "of a model of `hubertkit lm train`.")]
Lower = Annotated[bool, typer.Option("--lower", help="Give it lower-case text.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(rescore)
    app.command("rescore-tune")(rescore_tune)


def rescore(
    hypotheses: Annotated[Path, typer.Argument(help="What `hubertkit decode --nbest` wrote.")],
    model: Model = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Hypotheses to write, one JSON object a line.")] = ...,  # type: ignore[assignment]
    tuned: Annotated[Path | None, typer.Option(help="Take the weights from what `rescore-tune` wrote.")] = None,
    lm_weight: Annotated[float | None, typer.Option(help="Of the neural model's natural logarithm; to be "
                                                             "given unless --tuned is.")] = None,
    word_score: Annotated[float | None, typer.Option(help="Added for each word, in nats; 0 beside an --lm-weight "
                                                              "alone.")] = None,
    ngram_weight: Annotated[float | None, typer.Option(help="Of the n-gram score in the lists; 0 beside an "
                                                                "--lm-weight alone: it then counts nothing.")] = None,
    lower: Lower = False,
) -> None:
    """Rank n-best lists again by a neural language model."""
    check_file(out, [hypotheses, Path(model), tuned])
    check_provenance_place(out)
    found = _lists(hypotheses)
    weights = _weights(tuned, lm_weight, word_score, ngram_weight, found, model, lower)
    scorer = _model(model, lower)
    digest = scorer.hash
    _tell_changed(tuned, model, digest)
    ranked = reranked(found, _scored(found, scorer), weights)
    write_hypotheses(out, ranked, {
        "model": noted_model(model, out), "model_hash": digest, "lower": lower,
        "weights": asdict(weights), "tuned": noted_file(tuned, out),
        "lists": noted_file(hypotheses, out), "lists_provenance": read_provenance(hypotheses), "versions": versions(),
        "command": own_command()})
    print(f"{out}: {sum(a.text != b.text for a, b in zip(found, ranked))} of {len(found)} hypotheses changed")


def rescore_tune(
    hypotheses: Annotated[Path, typer.Argument(help="N-best lists of a development set.")],
    references: Annotated[Path, typer.Option(help="Its manifest, or a file of `id text` lines.")] = ...,  # type: ignore[assignment]
    model: Model = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="JSON file for `hubertkit rescore --tuned`.")] = ...,  # type: ignore[assignment]
    lower: Lower = False,
    characters: Annotated[bool, typer.Option("--characters", help="Count errors in characters without spaces: for "
                                             "references of scripts without spaces between words.")] = False,
) -> None:
    """Find the weights of a neural language model on a development set's n-best lists."""
    check_file(out, [hypotheses, references, Path(model)])
    found, truth = _lists(hypotheses), read_references(references).texts
    missing = next((h.id for h in found if h.id not in truth), None)
    if missing is not None:
        raise InputError(f"{missing}: no reference; tuning needs the text of every utterance")
    unit: Unit = "character" if characters else "word"
    if unit == "word" and without_spaces([truth[h.id] for h in found], [h.text for h in found]):
        say(f"{hypotheses}: {NO_SPACES}")
    scorer = _model(model, lower)
    tuning = tune_weights(found, _scored(found, scorer), [truth[h.id] for h in found], unit=unit)
    weights = tuning.weights
    write_json(out, {**asdict(weights), **{k: v for k, v in asdict(tuning).items() if k != "weights"},
                     "model": noted_model(model, out), "model_hash": scorer.hash, "lower": lower,
                     "ids": [h.id for h in found]})
    for name in tuning.on_edge:
        say(f"{name}={getattr(weights, name):g} lies on the edge of what was tried; the best may lie beyond")
    tell_few(tuning.utterances)
    rate = "CER" if characters else "WER"
    print(f"{out}: lm_weight {weights.lm_weight:g}, word_score {weights.word_score:g}, ngram_weight "
          f"{weights.ngram_weight:g}, {rate} {tuning.wer:.2f} ({range_of(tuning.interval.ends)}) on "
          f"{tuning.utterances} utterances; {tuning.wer_before:.2f} before, {tuning.wer_oracle:.2f} at best")


def _lists(path: Path) -> list[Hypothesis]:
    found = read_hypotheses(path)
    if not found:
        raise InputError(f"{path}: no hypotheses")
    for hypothesis in found:
        candidates_of(hypothesis)  # says which has none, before a model is loaded
    return found


def _model(name: str, lower: bool) -> CharacterModel | CausalModel:
    if (Path(name) / "characters.json").is_file():
        if lower:
            raise UsageError("--lower is for models of the hub; a model of `lm train` knows the text it was trained on")
        return CharacterModel.load(Path(name), best_device())
    return CausalModel(name, best_device(), lower)


def _scored(found: Sequence[Hypothesis], model: TextModel) -> list[list[float]]:
    """Scores list by list, some lists at a time so that progress is seen."""
    scores: list[list[float]] = []
    with progress("scoring", len(found)) as report:
        for first in range(0, len(found), 8):
            scores += score_nbest(found[first:first + 8], model)
            report(len(scores))
    return scores


def _weights(tuned: Path | None, lm_weight: float | None, word_score: float | None, ngram_weight: float | None,
             found: Sequence[Hypothesis], model: str, lower: bool) -> Weights:
    """Raises UsageError where the weights are given twice or not at all, else as `_tuned_weights`."""
    given = {"lm_weight": lm_weight, "word_score": word_score, "ngram_weight": ngram_weight}
    given = {name: value for name, value in given.items() if value is not None}
    if tuned is None:
        if "lm_weight" not in given:
            raise UsageError("give --tuned, what `hubertkit rescore-tune` wrote, or --lm-weight")
        return Weights(**given)  # type: ignore[arg-type]
    if given:
        raise UsageError("--tuned gives all weights: leave out --lm-weight, --word-score and --ngram-weight")
    return _tuned_weights(tuned, found, model, lower)


def _tell_changed(tuned: Path | None, model: str, digest: str) -> None:
    """Say so where weights were tuned with a model of this name that had other weights of its own."""
    if tuned is None:
        return
    about = json.loads(tuned.read_text(encoding="utf-8"))
    if about.get("model_hash") not in (None, digest) and same_model(str(about.get("model")), model, tuned):
        say(f"{tuned}: the model {model} has changed since; its weights may not suit it")


def _tuned_weights(tuned: Path, found: Sequence[Hypothesis], model: str, lower: bool) -> Weights:
    """The weights in a file of `rescore-tune`; another model is told in a line.

    Raises:
        UsageError: no such file, weights out of range, or weights of scores with or without --lower where these are
            not.
        InputError: they were tuned on one of these utterances.
    """
    if not tuned.is_file():
        raise UsageError(f"{tuned}: no such file; `hubertkit rescore-tune` writes it")
    try:
        about: dict[str, Any] = json.loads(tuned.read_text(encoding="utf-8"))
        numbers = [float(about[name]) for name in ("lm_weight", "word_score", "ngram_weight")]
        own = set(about["ids"])
        its_model, its_case = about.get("model"), bool(about.get("lower", lower))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{tuned}: not what `hubertkit rescore-tune` writes") from error
    weights = Weights(*numbers)
    if its_case != lower:
        raise UsageError(f"{tuned}: tuned {'with' if its_case else 'without'} --lower, which changes the model's "
                         f"scores: {'give it too' if its_case else 'leave it out'}")
    refuse_shared([h.id for h in found], own, str(tuned), "are what these weights were tuned on")
    if its_model is not None and not same_model(str(its_model), model, tuned):
        say(f"{tuned}: tuned with the model {its_model}; its weights may not suit {model}")
    return weights
