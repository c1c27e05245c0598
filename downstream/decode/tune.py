"""Find the language model's weight and the word score on a development set.

Decoding is dear and rescoring is cheap, so each round decodes once, at one pair of weights, keeps the n-best lists, and
rescores all lists found so far on a grid, coarse first and then fine around its best; the next round decodes there. It
ends when the best pair has been decoded before (as minimum error rate training does: Och 2003). The weights returned
are those of the decoded pair with the fewest word errors; on a tie, the smaller language model weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from downstream.decode.alphabet import alphabet
from downstream.decode.beam import BeamDecoder
from downstream.decode.hypothesis import Candidate, Hypothesis
from downstream.decode.pool import decode_all
from downstream.decode.word_model import (
    LEAST_COVERAGE,
    LN10,
    UNKNOWN_LOG10,
    check_coverage,
    check_language_model,
    load_word_model,
)
from downstream.emissions import Emissions
from downstream.score.rates import word_errors
from upstream.errors import InputError, UsageError


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
        seconds: of speech to tune on; more is thinned out evenly along utterance lengths, to bound the time.
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
        if not ordered or min(*self.coarse, *self.fine, self.seconds) <= 0 or self.nbest < 2:
            raise UsageError(f"{self}: ranges go from low to high and lm_weight from 0, steps and seconds are over 0, "
                             "nbest is 2 or more")
        if not 1 <= len(self.starts) <= self.decodes:
            raise UsageError(f"decodes={self.decodes} must be at least the number of starts, {len(self.starts)}")


@dataclass(frozen=True)
class Point:
    """A pair of weights and the word error rate in percent with it: really decoded, or n-best lists rescored."""

    lm_weight: float
    word_score: float
    wer: float
    decoded: bool


@dataclass(frozen=True)
class Tuning:
    """The weights found, and what they were found on.

    Attributes:
        lm_weight, word_score: the best, in natural logarithms, as `BeamDecoder` takes them.
        wer: of decoding with them, in percent, on the utterances tuned on.
        on_edge: which of the two lie on the edge of what was tried; the best may lie beyond.
        surface: every pair decoded, and the last round's rescored ones.
        utterances, seconds: tuned on.
        utterances_given: in the emissions; more than `utterances` where they were thinned out.
        coverage: share of the references' words that the language model knows.
        emissions_hash, manifest_hash: of what was tuned on.
    """

    lm_weight: float
    word_score: float
    wer: float
    on_edge: tuple[str, ...]
    surface: tuple[Point, ...]
    utterances: int
    seconds: float
    utterances_given: int
    coverage: float
    emissions_hash: str
    manifest_hash: str | None


def tune(emissions: Emissions, references: Mapping[str, str], decoder: BeamDecoder, search: Search | None = None, *,
         forbidden_manifest_hash: str | None = None, workers: int | None = None,
         progress: Callable[[int, int], None] | None = None) -> Tuning:
    """Find `lm_weight` and `word_score` for a decoder.

    Args:
        emissions: of a development set.
        references: text of every utterance of it.
        decoder: the settings to tune for; its own two weights do not matter.
        search: what to try.
        forbidden_manifest_hash: of the set that the final score is made on; tuning on it is refused.
        workers: processes; all cores by default.
        progress: called with utterances decoded and the most that there may be to decode.

    Raises:
        UsageError: a decoder without a language model.
        InputError: the emissions are those of the final score, or do not say of what; an utterance without a
            reference; no words in them; a language model that does not fit the recogniser or the references.
    """
    search = search or Search()
    if decoder.lm is None:
        raise UsageError("nothing to tune without a language model: give one with --lm")
    _refuse_the_final_set(emissions, forbidden_manifest_hash)
    ids = evenly(emissions, search.seconds)
    texts = _texts(ids, references)
    known = load_word_model(decoder.lm)[1].words
    check_language_model(known, alphabet(decoder.symbols, decoder.blank))
    coverage = check_coverage(known, list(texts.values()), LEAST_COVERAGE)
    lists = _NBestLists(texts)
    decoded: dict[tuple[float, float], Point] = {}
    rescored: list[Point] = []
    pending = list(search.starts)
    while pending and len(decoded) < search.decodes:
        pair = pending.pop(0)
        settings = replace(decoder, lm_weight=pair[0], word_score=pair[1], nbest=search.nbest)
        before = len(decoded) * len(ids)
        hypotheses = decode_all(emissions, settings, ids, workers=workers, progress=None if progress is None else (
            lambda done, _, before=before: progress(before + done, search.decodes * len(ids))))  # type: ignore[misc]
        decoded[pair] = Point(*pair, lists.add(hypotheses), decoded=True)
        if not pending:
            rescored = lists.search(search)
            best = _best(rescored)
            pending = [] if (best.lm_weight, best.word_score) in decoded else [(best.lm_weight, best.word_score)]
    best = _best(list(decoded.values()))
    return Tuning(best.lm_weight, best.word_score, best.wer, _edges(best, search), (*decoded.values(), *rescored),
                  len(ids), round(sum(emissions.seconds(id) for id in ids), 2), len(emissions), coverage,
                  emissions.hash, emissions.manifest_hash)


def evenly(emissions: Emissions, seconds: float) -> list[str]:
    """Ids of about so many seconds of speech, spread evenly over utterance lengths, in the order of the emissions."""
    lengths = np.asarray([emissions.frames(id) for id in emissions.ids])
    total = lengths.sum() / emissions.rate
    if total <= seconds:
        return list(emissions.ids)
    count = max(1, int(len(lengths) * seconds / total))
    chosen = np.argsort(lengths, kind="stable")[((np.arange(count) + 0.5) * len(lengths) / count).astype(int)]
    return [emissions.ids[i] for i in sorted(chosen)]


class _NBestLists:
    """Every candidate that any decode found, with the numbers that its score is made of."""

    def __init__(self, references: Mapping[str, str]) -> None:
        self._references = references
        self._words = sum(len(text.split()) for text in references.values())
        self._found: dict[str, dict[str, tuple[float, float, int, int]]] = {id: {} for id in references}

    def add(self, hypotheses: Sequence[Hypothesis]) -> float:
        """Take in the lists of a decode; its word error rate in percent."""
        errors = 0
        for hypothesis in hypotheses:
            found = self._found[hypothesis.id]
            # an utterance without frames has no list, only its empty text
            for c in hypothesis.nbest or (Candidate(hypothesis.text, 0.0, hypothesis.acoustic, hypothesis.lm, 0),):
                old = found.get(c.text)
                wrong = word_errors(self._references[hypothesis.id], c.text) if old is None else old[3]
                # the sum over alignments that a narrow beam sees is too small, never too large
                acoustic = c.acoustic if old is None else max(c.acoustic, old[0])
                found[c.text] = (acoustic, c.lm + LN10 * UNKNOWN_LOG10 * c.unknown, len(c.text.split()), wrong)
            errors += found[hypothesis.text][3]
        return 100 * errors / self._words

    def search(self, search: Search) -> list[Point]:
        """Rescore on the coarse grid, then on the fine one around its best."""
        coarse = self._rescore(_grid(search.lm_weights, search.coarse[0]), _grid(search.word_scores, search.coarse[1]))
        best = _best(coarse)
        around = [(max(low, centre - step), min(high, centre + step)) for centre, step, (low, high) in (
            (best.lm_weight, search.coarse[0], search.lm_weights),
            (best.word_score, search.coarse[1], search.word_scores))]
        return coarse + self._rescore(_grid(around[0], search.fine[0]), _grid(around[1], search.fine[1]))

    def _rescore(self, lm_weights: np.ndarray, word_scores: np.ndarray) -> list[Point]:
        weights, scores = (axis.ravel() for axis in np.meshgrid(lm_weights, word_scores, indexing="ij"))
        errors = np.zeros(len(weights), dtype=np.int64)
        for candidates in self._found.values():
            acoustic, lm, words, wrong = np.asarray(list(candidates.values())).T[:, :, None]
            winners = (acoustic + lm * weights + words * scores).argmax(axis=0)
            errors += wrong[winners, 0].astype(np.int64)
        return [Point(float(w), float(s), 100 * int(e) / self._words, decoded=False)
                for w, s, e in zip(weights, scores, errors)]


def _grid(ends: tuple[float, float], step: float) -> np.ndarray:
    low, high = ends
    values = low + step * np.arange(int((high - low) / step + 1e-9) + 1)
    return np.unique(np.round(np.append(values, high), 6))


def _best(points: Sequence[Point]) -> Point:
    return min(points, key=lambda p: (p.wer, p.lm_weight, abs(p.word_score), p.word_score))


def _edges(best: Point, search: Search) -> tuple[str, ...]:
    return tuple(name for name, value, ends in (("lm_weight", best.lm_weight, search.lm_weights),
                                                ("word_score", best.word_score, search.word_scores)) if value in ends)


def _refuse_the_final_set(emissions: Emissions, forbidden: str | None) -> None:
    if forbidden is None:
        return
    if emissions.manifest_hash is None:
        raise InputError(f"{emissions.folder}: the emissions do not say which manifest they are of, so they may be "
                         "those of the final score; compute them again")
    if emissions.manifest_hash == forbidden:
        raise InputError(f"{emissions.folder}: emissions of the set that the final score is made on; weights tuned on "
                         "it make the score too good: tune on another set")


def _texts(ids: Sequence[str], references: Mapping[str, str]) -> dict[str, str]:
    missing = next((id for id in ids if id not in references), None)
    if missing is not None:
        raise InputError(f"{missing}: no reference; tuning needs the text of every utterance")
    texts = {id: references[id] for id in ids}
    if not any(text.split() for text in texts.values()):
        raise InputError(f"the references of all {len(ids)} utterances are empty: nothing to tune on")
    return texts
