"""Find the language model's weight and the word score on a development set.

Decoding is dear and rescoring is cheap, so each round decodes once, at one pair of weights, keeps the n-best lists, and
rescores all lists found so far on a grid, coarse first and then fine around its best; the next round decodes there. It
ends when the best pair has been decoded before (as minimum error rate training does: Och 2003). The weights returned
are those of the decoded pair with the fewest word errors; on a tie, the smaller language model weight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from downstream.decode.alphabet import alphabet
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import WeightedDecoder, name_of
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.nbest_lists import NBestLists, Point, best
from downstream.decode.pool import decode_all, processes
from downstream.decode.word_model import LEAST_COVERAGE, LEXICON, MODEL, UNKNOWN_LOG10, check_coverage
from downstream.emissions import Emissions
from downstream.lm.arpa import read_unigrams
from downstream.lm.array_file import holds_arrays
from downstream.lm.arrays import NgramArrays
from downstream.lm.scoring import LN10
from downstream.score.intervals import bootstrap_interval
from downstream.score.rates import Unit, word_errors
from downstream.score.shared import refuse_shared
from downstream.text.lexicon import Lexicon
from downstream.text.vocabulary import spelled_as
from upstream.errors import InputError, UsageError
from upstream.places import spread


@dataclass(frozen=True)
class Search:
    """What is tried, and how much work it may be.

    Attributes:
        lm_weights: lowest and highest; of natural logarithms.
        word_scores: lowest and highest, in nats.
        coarse: steps of the first grid along (lm_weight, word_score).
        fine: steps of the second grid, which reaches one coarse step to each side of the first one's best.
        starts: pairs decoded before any rescoring.
        decodes: real decodes at most, the starts among them.
        seconds: of speech to tune on, about; more is thinned out evenly along utterance lengths, to bound the time.
        nbest: candidates of an utterance kept from each decode.
    """

    lm_weights: tuple[float, float] = (0.0, 3.0)
    word_scores: tuple[float, float] = (-5.0, 5.0)
    coarse: tuple[float, float] = (0.25, 1.0)
    fine: tuple[float, float] = (0.05, 0.25)
    starts: tuple[tuple[float, float], ...] = ((0.5, 0.0), (1.5, 0.0))
    decodes: int = 6
    seconds: float = 300.0
    nbest: int = 50

    def __post_init__(self) -> None:
        ordered = 0 <= self.lm_weights[0] <= self.lm_weights[1] and self.word_scores[0] <= self.word_scores[1]
        if not ordered or not min(*self.coarse, *self.fine) > 0 or not 0 < self.seconds < math.inf or self.nbest < 2:
            raise UsageError(f"{self}: ranges go from low to high and lm_weight from 0, steps and seconds are over 0, "
                             "nbest is 2 or more")
        if not 1 <= len(self.starts) <= self.decodes:
            raise UsageError(f"decodes={self.decodes} must be at least the number of starts, {len(self.starts)}")

    @classmethod
    def for_weak(cls, decodes: int, seconds: float) -> Search:
        """With starts that suit weak recognisers too: they leave words out, so a high word score may be what they
        need. Raises UsageError as the class itself: `decodes` must be 3 at least, one for each start."""
        return cls(word_scores=(-5.0, 8.0), starts=((0.5, 1.0), (0.75, 4.0), (1.0, 2.0)), decodes=decodes,
                   seconds=seconds)


@dataclass(frozen=True)
class BeamPoint:
    """Decoding with the weights found and one beam: word error rate in percent, and seconds of audio a second.

    The time is that of all processes together from their start on, so a short set makes a fast decoder look slower.
    """

    beam: int
    wer: float
    audio_seconds_per_second: float
    processes: int


@dataclass(frozen=True)
class Tuning:
    """The weights found, and what they were found on.

    Attributes:
        decoder: its name.
        lm_weight, word_score: the best, in natural logarithms, as decoders take them.
        beam: hypotheses kept; the best of those asked for.
        wer: of decoding with them, in percent, on the utterances tuned on; for n-best lists, but where `beams` were
            tried.
        greedy_wer: of greedy decoding on the same utterances: where it is lower, something does not fit.
        wer_interval: 95 % of it, by resampling utterances; None of one. A rate on what was tuned on is too good all the
            same.
        on_edge: which of the two weights lie on the edge of what was tried; the best may lie beyond. No `lm_weight`
            does not: none is below it.
        surface: every pair decoded, and the last round's rescored ones.
        beams: those tried with the weights found; empty where only one was asked for.
        utterances, seconds: tuned on.
        utterances_given: in the emissions; more than `utterances` where they were thinned out.
        coverage: share of the references' words that can be found, or of their characters that any word has: of all
            utterances given.
        emissions_hash, manifest_hash: of what was tuned on.
        unit: that errors are counted in; with `character` every `wer` is a character error rate.
    """

    decoder: str
    lm_weight: float
    word_score: float
    beam: int
    wer: float
    greedy_wer: float
    wer_interval: tuple[float, float] | None
    on_edge: tuple[str, ...]
    surface: tuple[Point, ...]
    beams: tuple[BeamPoint, ...]
    utterances: int
    seconds: float
    utterances_given: int
    coverage: float
    emissions_hash: str
    manifest_hash: str | None
    unit: Unit = "word"


Errors = dict[tuple[float, float], np.ndarray]  # (N,) word errors of each pair that was decoded


def tune(emissions: Emissions, references: Mapping[str, str], decoder: WeightedDecoder, search: Search | None = None, *,
         beams: Sequence[int] = (), forbidden_manifest_hash: str | None = None, forbidden_ids: Collection[str] = (),
         unit: Unit = "word", workers: int | None = None,
         progress: Callable[[int, int], None] | None = None) -> Tuning:
    """Find `lm_weight` and `word_score` for a decoder, and perhaps its beam.

    Args:
        emissions: of a development set.
        references: text of every utterance of it.
        decoder: the settings to tune for; its own two weights do not matter. They are tuned with its beam.
        search: what to try.
        beams: to decode with once the weights are found; that with the fewest errors is chosen, the smallest of equals.
        forbidden_manifest_hash: of the set that the final score is made on; tuning on it is refused.
        forbidden_ids: utterances of that set; tuning on any of them is refused.
        unit: that errors are counted in; `character` for references without spaces between words.
        workers: processes; all cores by default.
        progress: called with utterances decoded and the most that there may be to decode.

    Raises:
        UsageError: a decoder without a language model, or a beam below 1.
        InputError: the emissions are those of the final score, hold utterances of it, or do not say of what they are;
            an utterance without a reference; no words in them; a language model that does not fit the recogniser or
            the references.
    """
    search = search or Search()
    if decoder.lm is None:
        raise UsageError("nothing to tune without a language model: give one as lm (--lm)")
    if min(beams, default=1) < 1:
        raise UsageError(f"beams {', '.join(map(str, beams))}: each must be at least 1")
    _refuse_the_final_set(emissions, forbidden_manifest_hash, forbidden_ids)
    ids = evenly(emissions, search.seconds)
    letters = alphabet(decoder.symbols, decoder.blank).letters
    texts = _texts(ids, references, letters)
    decoder.prepare()  # what is wrong with its files is said now
    whole = [spelled_as(references[id], letters) for id in emissions.ids if id in references]  # as is known beforehand
    coverage = check_coverage(*findable(decoder), whole, LEAST_COVERAGE, unit)
    lists = NBestLists(texts, _unknown_penalty(decoder), unit)
    decode = _Decoding(emissions, ids, search.decodes + len(beams), workers, progress)
    errors, rescored = _search(decoder, search, lists, decode)
    decoded = [Point(*pair, lists.rate(wrong), decoded=True) for pair, wrong in errors.items()]
    top = best(decoded)
    tuned = replace(decoder, lm_weight=top.lm_weight, word_score=top.word_score)
    wrong, tried = errors[top.lm_weight, top.word_score], list[BeamPoint]()
    if beams:
        tried, wrong = _try_beams(tuned, sorted(set(beams)), lists, decode)
        tuned = replace(tuned, beam=min(tried, key=lambda point: (point.wer, point.beam)).beam)
    ends = bootstrap_interval(wrong, lists.words).ends
    greedy = decode_all(emissions, GreedyDecoder(decoder.symbols, decoder.blank), ids, workers=workers)
    plain = np.asarray([word_errors(texts[hypothesis.id], hypothesis.text, unit) for hypothesis in greedy])
    return Tuning(name_of(tuned).value, tuned.lm_weight, tuned.word_score, tuned.beam, lists.rate(wrong),
                  lists.rate(plain), ends, _edges(top, search), (*decoded, *rescored), tuple(tried), len(ids),
                  round(decode.seconds, 2), len(emissions), coverage, emissions.hash, emissions.manifest_hash, unit)


def findable(decoder: WeightedDecoder) -> tuple[str, Collection[str]]:
    """What says which words a decoder can find, MODEL or LEXICON, and those words; of a model no more is read.

    Raises:
        UsageError, FormatError: as `read_unigrams`.
    """
    lexicon = None if isinstance(decoder, BeamDecoder) else decoder.lexicon
    if lexicon is not None:
        return LEXICON, lexicon.words if isinstance(lexicon, Lexicon) else lexicon
    lm = Path(decoder.lm or "")
    return MODEL, NgramArrays.load(lm).words.own if holds_arrays(lm) else read_unigrams(lm)


class _Decoding:
    """Decodes of the same utterances one after another."""

    def __init__(self, emissions: Emissions, ids: list[str], most: int, workers: int | None,
                 progress: Callable[[int, int], None] | None) -> None:
        self.seconds = sum(emissions.seconds(id) for id in ids)
        self._emissions, self._ids, self._most, self._done = emissions, ids, most, 0
        self._workers, self._progress = workers, progress

    def __call__(self, decoder: WeightedDecoder) -> list[Hypothesis]:
        before = self._done * len(self._ids)
        report = self._progress
        found = decode_all(self._emissions, decoder, self._ids, workers=self._workers, progress=None if report is None
                           else lambda done, _: report(before + done, self._most * len(self._ids)))
        self._done += 1
        return found

    def processes(self, decoder: WeightedDecoder) -> int:
        return min(processes(decoder, self._workers), len(self._ids))


def _search(decoder: WeightedDecoder, search: Search, lists: NBestLists,
            decode: _Decoding) -> tuple[Errors, list[Point]]:
    """Decode and rescore in turns: errors of each pair decoded, and the last round's rescored points."""
    errors: Errors = {}
    rescored: list[Point] = []
    pending = list(search.starts)
    while pending and len(errors) < search.decodes:
        pair = pending.pop(0)
        errors[pair] = lists.add(decode(replace(decoder, lm_weight=pair[0], word_score=pair[1], nbest=search.nbest)))
        if not pending:
            rescored = lists.search(search.lm_weights, search.word_scores, search.coarse, search.fine)
            top = best(rescored)
            pending = [] if (top.lm_weight, top.word_score) in errors else [(top.lm_weight, top.word_score)]
    return errors, rescored


def _try_beams(tuned: WeightedDecoder, beams: Sequence[int], lists: NBestLists,
               decode: _Decoding) -> tuple[list[BeamPoint], np.ndarray]:
    """A point for each beam, and the errors of the best one. One candidate is asked for, as in use."""
    points, errors = [], []
    for beam in beams:
        decoder = replace(tuned, beam=beam, nbest=1)
        decoder.prepare()  # loading counts for nothing
        began = time.perf_counter()
        found = decode(decoder)
        seconds = time.perf_counter() - began
        errors.append(lists.add(found))
        points.append(BeamPoint(beam, lists.rate(errors[-1]), round(decode.seconds / seconds, 1),
                                decode.processes(decoder)))
    return points, min(errors, key=lambda wrong: int(wrong.sum()))


def evenly(emissions: Emissions, seconds: float) -> list[str]:
    """Ids of about so many seconds of speech, spread evenly over utterance lengths, in the order of the emissions."""
    lengths = np.asarray([emissions.frames(id) for id in emissions.ids])
    total = lengths.sum() / emissions.rate
    if total <= seconds:
        return list(emissions.ids)
    count = max(1, int(len(lengths) * seconds / total))
    return [emissions.ids[i] for i in spread(lengths, count)]


def _edges(best: Point, search: Search) -> tuple[str, ...]:
    # no weight is no edge: below it there is nothing to look for
    return tuple(name for name, value, ends in (("lm_weight", best.lm_weight, search.lm_weights),
                                                ("word_score", best.word_score, search.word_scores))
                 if value in ends and (value or name == "word_score"))


def _refuse_the_final_set(emissions: Emissions, forbidden: str | None, ids: Collection[str]) -> None:
    refuse_shared(emissions.ids, ids, str(emissions.folder), "are of the set that the final score is made on")
    if forbidden is None:
        return
    if emissions.manifest_hash is None:
        raise InputError(f"{emissions.folder}: the emissions do not say which manifest they are of, so they may be "
                         "those of the final score; compute them again")
    if emissions.manifest_hash == forbidden:
        raise InputError(f"{emissions.folder}: emissions of the set that the final score is made on; weights tuned on "
                         "it make the score too good: tune on another set")


def _unknown_penalty(decoder: WeightedDecoder) -> float:
    """What a decoder adds for a word that the language model does not know, in nats before weighing."""
    if isinstance(decoder, BeamDecoder):
        return LN10 * UNKNOWN_LOG10
    return 0.0 if isinstance(decoder, LexiconDecoder) else decoder.unknown_penalty or 0.0


def _texts(ids: Sequence[str], references: Mapping[str, str], letters: frozenset[str]) -> dict[str, str]:
    """The references in the form of Unicode of the decoder's words."""
    missing = next((id for id in ids if id not in references), None)
    if missing is not None:
        raise InputError(f"{missing}: no reference; tuning needs the text of every utterance")
    texts = {id: spelled_as(references[id], letters) for id in ids}
    if not any(texts.values()):
        raise InputError(f"the references of all {len(ids)} utterances are empty: nothing to tune on")
    return texts
