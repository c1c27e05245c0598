"""`hubertkit errors`: whether the search, the emissions or the language model is to blame for word errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from downstream.decode.alphabet import alphabet
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import AnyDecoder, Name, WeightedDecoder
from downstream.decode.decomposition import Decomposition, Step, decompose
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis, read_hypotheses
from downstream.decode.objective import Objective, Weighed, without_language_model
from downstream.decode.pool import decode_all
from downstream.decode.tuned import choice_of, tell_other_recogniser
from downstream.emissions import Emissions
from downstream.score.intervals import range_of
from downstream.score.rates import NO_SPACES, Unit, without_spaces
from downstream.score.references import read_references
from downstream.text.vocabulary import spelled_as
from tools.decode import Workers
from tools.decoder_options import Beam, Device, LexiconFile, Lm, LmWeight, Tokens, Tuned, Unspaced, WordScore
from tools.few import tell_few
from upstream.errors import InputError, UsageError
from upstream.progress import progress, say

_MEANING = {
    "vocabulary": "a reference word is outside the closed vocabulary",
    "search": "the reference scores higher and was not found: a wider beam",
    "acoustic": "the emissions prefer what was found: a better recogniser",
    "language": "the language model prefers what was found: a better model",
    "both": "emissions and language model prefer what was found",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(errors)


def errors(
    emissions: Annotated[Path, typer.Argument(help="Folder of emissions.")],
    references: Annotated[Path, typer.Option(help="Their manifest, or a file of `id text` lines.")] = ...,  # type: ignore[assignment]
    lm: Lm = ...,  # type: ignore[assignment]
    decoder: Annotated[Name | None, typer.Option(help="As `hubertkit decode` has them, but not greedy.")] = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    tuned: Tuned = None,
    beam: Beam = None,
    tokens: Tokens = None,
    lexicon: LexiconFile = None,
    device: Device = None,
    unspaced: Unspaced = False,
    nbest: Annotated[int, typer.Option(min=2, help="Candidates of an utterance that the oracle chooses from.")] = 50,
    hypotheses: Annotated[Path | None, typer.Option(help="Take apart these, decoded with the same settings, instead of "
                                                         "decoding with the language model again.")] = None,
    characters: Annotated[bool, typer.Option("--characters", help="Count errors in characters, not words: of scripts "
                                             "without spaces. Nobody is blamed but with --unspaced.")] = False,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the tables.")] = False,
) -> None:
    """Greedy, beam, language model and oracle side by side, and the errors by whose fault they are."""
    stored = Emissions.load(emissions)
    truth = _with_reference(stored, read_references(references).texts)
    choice = choice_of(decoder=decoder, lm=lm, lm_weight=lm_weight, word_score=word_score, tuned=tuned, beam=beam,
                       tokens=tokens, lexicon=lexicon, device=device, nbest=nbest, unspaced=unspaced)
    if choice.chosen is Name.greedy:  # before it is made, which would blame --lm
        raise UsageError("greedy decoding has no search and no language model to blame: take another --decoder")
    unit: Unit = "character" if characters else "word"
    tell_other_recogniser(tuned, lambda: stored.meta.get("recogniser_hash"))
    whole = choice.make(stored.symbols, stored.blank)
    assert not isinstance(whole, GreedyDecoder)  # refused above
    given = None if hypotheses is None else _chosen(read_hypotheses(hypotheses), list(truth), hypotheses)
    objective = Objective.of(whole)
    steps = _steps_below(whole, objective)
    if given is None:
        found = _decoded(stored, {**steps, "+ lm": whole}, workers)
    else:
        found = {**_decoded(stored, steps, workers), "+ lm": given}
    if not characters and without_spaces(truth.values(), [h.text for h in found["+ lm"]]):
        say(f"{references}: words are counted, and those of the references look like whole phrases; {NO_SPACES}")
    result = _taken_apart(stored, truth, found, objective, unit, choice.unspaced)
    tell_few(result.ladder[0].interval.clusters, tested=as_json)
    if as_json:
        longest = max((len(hypothesis.nbest) for hypothesis in found["+ lm"]), default=0)
        print(json.dumps({"lm": str(lm), "decoder": choice.chosen.value, "lm_weight": whole.lm_weight,
                          "word_score": whole.word_score, "beam": whole.beam,
                          "nbest": nbest if given is None else max(1, longest), **as_plain(result)}, indent=1))
    else:
        _show(result)


def as_plain(result: Decomposition) -> dict[str, Any]:
    """A decomposition as JSON values."""
    return {**asdict(result), "ladder": [_plain_step(step) for step in result.ladder],
            "known": {**asdict(result.known), "rate": result.known.rate},
            "unknown": {**asdict(result.unknown), "rate": result.unknown.rate}}


def _plain_step(step: Step) -> dict[str, Any]:
    change = None if step.change is None else {"points": step.change.points, "interval": step.change.interval.ends,
                                               "p_value": step.change.p_value}
    return {"name": step.name, "errors": step.errors, "wer": step.wer, "wer_interval": step.interval.ends,
            "change": change}


def _with_reference(stored: Emissions, truth: dict[str, str]) -> dict[str, str]:
    missing = next((id for id in stored.ids if id not in truth), None)
    if missing is not None:
        raise InputError(f"{missing}: no reference; give the references of what was recognised")
    letters = alphabet(stored.symbols, stored.blank).letters
    return {id: spelled_as(truth[id], letters) for id in stored.ids}


def _steps_below(whole: WeightedDecoder, objective: Objective) -> dict[str, AnyDecoder]:
    """The decoders that a search with a language model is compared with, each with a part of what it has."""
    steps: dict[str, AnyDecoder] = {"greedy": GreedyDecoder(whole.symbols, whole.blank),
                                    "beam": BeamDecoder(whole.symbols, whole.blank, beam=whole.beam)}
    if (words_alone := without_language_model(whole, objective.vocabulary)) is not None:
        steps["+ lexicon"] = words_alone
    return steps


def _decoded(stored: Emissions, steps: dict[str, AnyDecoder], workers: int | None) -> dict[str, list[Hypothesis]]:
    for decoder in steps.values():
        decoder.prepare()  # says what is wrong before anything is decoded
    with progress("decoding", len(steps) * len(stored)) as report:
        return {name: decode_all(stored, decoder, workers=workers, progress=lambda done, _, before=number: (
            report(before * len(stored) + done))) for number, (name, decoder) in enumerate(steps.items())}  # type: ignore[misc]


def _chosen(found: Sequence[Hypothesis], ids: Sequence[str], path: Path) -> list[Hypothesis]:
    by_id = {hypothesis.id: hypothesis for hypothesis in found}
    missing = next((id for id in ids if id not in by_id), None)
    if missing is not None:
        raise InputError(f"{path}: no hypothesis for {missing}; decode the same emissions")
    single = [id for id in ids if by_id[id].text and not by_id[id].nbest]
    if single:
        say(f"{path}: no n-best list for {len(single)} of {len(ids)} utterances, {single[0]} for instance, so the "
            "oracle has nothing to choose from there; decode with --nbest")
    return [by_id[id] for id in ids]


def _taken_apart(stored: Emissions, truth: dict[str, str], found: dict[str, list[Hypothesis]], objective: Objective,
                 unit: Unit, unspaced: bool) -> Decomposition:
    best = {h.id: h for h in found["+ lm"]}
    weighed = _weighed(stored, truth, best, objective) if unit == "word" or unspaced else {}
    steps = {name: {h.id: h.text for h in each} for name, each in found.items()}
    nbest = {id: [candidate.text for candidate in h.nbest] for id, h in best.items()}
    return decompose(truth, steps, nbest, weighed, objective.vocabulary, objective.closed, unit, objective.words_of)


def _weighed(stored: Emissions, truth: dict[str, str], best: dict[str, Hypothesis],
             objective: Objective) -> dict[str, tuple[Weighed, Weighed]]:
    """Reference and found text of each utterance by the decoder's score."""
    columns, weighed = alphabet(stored.symbols, stored.blank), {}
    with progress("weighing", len(truth)) as report:
        for done, (id, text) in enumerate(truth.items(), 1):
            reference, chosen = objective.weigh([text, best[id].text], stored.logprobs(id), columns)
            weighed[id] = (reference, chosen)
            report(done)
    return weighed


def _show(result: Decomposition) -> None:
    console, rate = Console(), "WER %" if result.unit == "word" else "CER %"
    ladder = Table("decoding", rate, "95%", "errors", "against the step before", "95%")
    for step in result.ladder:
        change = ("", "") if step.change is None else (
            f"{step.change.points:+.2f}", range_of(step.change.interval.ends, "+"))
        ladder.add_row(step.name, f"{step.wer:.2f}", range_of(step.interval.ends), str(step.errors), *change)
    console.print(ladder)
    total = max(1, result.ladder[-2].errors)
    parts = Table("blame", "utterances", "errors", "share", "")
    for name, part in result.blamed.items():
        parts.add_row(name, str(part.utterances), str(part.errors), f"{part.errors / total:.0%}", _MEANING[name])
    if result.blamed:
        console.print(parts)
    words = Table(f"{result.unit}s of the references", "number", "errors", "rate %")
    words.add_row("in the vocabulary", str(result.known.words), str(result.known.errors),
                  f"{result.known.rate:.2f}")
    words.add_row("not in it", str(result.unknown.words), str(result.unknown.errors), f"{result.unknown.rate:.2f}")
    words.add_row("inserted", "", str(result.insertions), "")
    console.print(words)
