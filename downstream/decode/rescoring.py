"""N-best lists ranked again by a neural language model, and weights for it tuned on dev.

A candidate is ranked by

    acoustic + lm_weight * log P(text) + ngram_weight * (lm - 23 * unknown) + word_score * words

all natural logarithms: P is the neural model's, `lm` what the n-gram model that made the list says of the text, with
the beam search's penalty of 10 ln 10 for each unknown word. So `Weights(0, word_score, lm_weight)` with the weights
that made a list of the beam search's ranks it as it was. The other decoders know no such penalty: a list of theirs is
ranked as it was where its words are all known to the n-gram model, as they are but with a lexicon of other words.
What was rescored is a list as the first was, and may be rescored again: its candidates keep the n-gram's `lm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from downstream.decode.hypothesis import Candidate, Hypothesis
from downstream.decode.word_model import UNKNOWN_LOG10
from downstream.lm.scoring import LN10
from downstream.score.intervals import ConfidenceInterval, bootstrap_interval
from downstream.score.rates import Unit, compared_words, word_errors
from upstream.errors import InputError, UsageError

PENALTY = LN10 * UNKNOWN_LOG10


class TextModel(Protocol):
    """What can score texts: `downstream.lm.rescoring.CausalModel`, `downstream.lm.character_model.CharacterModel`."""

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Natural-log probability of each text with its end."""


@dataclass(frozen=True)
class Weights:
    """What the parts of a candidate's score count; natural logarithms.

    Attributes:
        lm_weight: of the neural model.
        word_score: added for each word, in nats.
        ngram_weight: of the n-gram model's score that the list holds.
    """

    lm_weight: float = 0.5
    word_score: float = 0.0
    ngram_weight: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite([self.lm_weight, self.word_score, self.ngram_weight]).all() or self.lm_weight < 0:
            raise UsageError(f"lm_weight={self.lm_weight} must be at least 0, word_score={self.word_score} and "
                             f"ngram_weight={self.ngram_weight} finite")


def score_nbest(hypotheses: Iterable[Hypothesis], model: TextModel) -> list[list[float]]:
    """Natural-log probability of every candidate, list by list, to be computed once and weighed often.

    Raises:
        InputError: a hypothesis with a text and no n-best list, or as `model.scores`.
    """
    lists = [candidates_of(hypothesis) for hypothesis in hypotheses]
    flat = iter(model.scores([candidate.text for row in lists for candidate in row]))
    return [[next(flat) for _ in row] for row in lists]


def rescore(hypotheses: Sequence[Hypothesis], scores: Sequence[Sequence[float]], weights: Weights) -> list[Hypothesis]:
    """Hypotheses with their candidates in the new order, best first; ties keep the old order.

    `score` of a candidate becomes the new one; `acoustic` and the n-gram model's `lm`, of which it is made again by
    other weights, stay. Times and confidences of words are kept where the best text stays; otherwise there are none.
    `unfinished` stays: where a search has found no whole text, all texts of its list lack a piece.
    """
    return [_rescored(h, row, weights) for h, row in zip(hypotheses, scores, strict=True)]


@dataclass(frozen=True)
class RescoringSearch:
    """What is tried: a coarse grid over the whole ranges, then a fine one that reaches a coarse step around its best.

    Attributes:
        lm_weights, word_scores, ngram_weights: lowest and highest, of natural logarithms and in nats.
        coarse, fine: steps along the three.
    """

    lm_weights: tuple[float, float] = (0.0, 2.0)
    word_scores: tuple[float, float] = (-4.0, 6.0)
    ngram_weights: tuple[float, float] = (0.0, 2.0)
    coarse: tuple[float, float, float] = (0.2, 1.0, 0.2)
    fine: tuple[float, float, float] = (0.05, 0.25, 0.05)

    def __post_init__(self) -> None:
        ranges = (self.lm_weights, self.word_scores, self.ngram_weights)
        if any(low > high for low, high in ranges) or min(*self.coarse, *self.fine) <= 0:
            raise UsageError(f"{self}: ranges go from low to high, steps are over 0")


@dataclass(frozen=True)
class RescoringTuning:
    """The weights with the fewest word errors on dev.

    Attributes:
        weights: of equals those with the smallest `lm_weight`, then `ngram_weight`, then |word_score|.
        wer, interval: in percent, with them, and its 95% interval over utterances.
        wer_before, wer_oracle: of the lists' first candidates, and of each list's best.
        on_edge: which weights lie on the edge of what was tried; the best may lie beyond.
        tried: settings.
        utterances: tuned on.
        unit: that errors are counted in; with `character` every `wer` is a character error rate.
    """

    weights: Weights
    wer: float
    interval: ConfidenceInterval
    wer_before: float
    wer_oracle: float
    on_edge: tuple[str, ...]
    tried: int
    utterances: int
    unit: Unit = "word"


def tune_weights(hypotheses: Sequence[Hypothesis], scores: Sequence[Sequence[float]], references: Sequence[str],
                 search: RescoringSearch | None = None, unit: Unit = "word") -> RescoringTuning:
    """Find the three weights on dev.

    Args:
        hypotheses: with n-best lists.
        scores: of their candidates by the neural model, as `score_nbest` gives them.
        references: of each utterance.
        unit: that errors are counted in; `character` for references without spaces between words.

    Raises:
        InputError: no word in the references.
        UsageError: references by their ids.
    """
    if isinstance(references, Mapping):
        raise UsageError("references by id: give their texts in the order of the hypotheses, "
                         "[references[h.id] for h in hypotheses]")
    search = search or RescoringSearch()
    lists = [_Table.of(h, row, text, unit) for h, row, text in zip(hypotheses, scores, references, strict=True)]
    words = np.asarray([len(compared_words(text, unit)) for text in references], dtype=np.int64)
    if not words.sum():
        raise InputError(f"all {len(references)} references are empty: nothing to tune on")
    ends = (search.lm_weights, search.word_scores, search.ngram_weights)
    coarse = _grid(ends, search.coarse)
    centre, _ = _best(lists, coarse)
    near = tuple((max(low, c - step), min(high, c + step)) for c, step, (low, high) in zip(centre, search.coarse, ends))
    fine = np.concatenate([centre[None], _grid(near, search.fine)])
    best, errors = _best(lists, fine)
    weights = Weights(*(float(value) for value in best))
    names = ("lm_weight", "word_score", "ngram_weight")
    # a weight of 0 is no edge: below it there is nothing to look for
    edges = tuple(name for name, value, pair in zip(names, best, ends)
                  if value in pair and pair[0] != pair[1] and (value or name == "word_score"))
    percent = 100 / words.sum()
    return RescoringTuning(weights, percent * errors.sum(), bootstrap_interval(errors, words),
                           percent * sum(t.errors[0] for t in lists), percent * sum(t.errors.min() for t in lists),
                           edges, len(coarse) + len(fine), len(lists), unit)


@dataclass(frozen=True)
class _Table:
    """(C, 4) parts of the candidates' scores - acoustic, neural, words, n-gram - and (C,) word errors."""

    parts: np.ndarray
    errors: np.ndarray

    @staticmethod
    def of(hypothesis: Hypothesis, scores: Sequence[float], reference: str, unit: Unit) -> _Table:
        found = candidates_of(hypothesis)
        if not found:
            return _Table(np.zeros((1, 4)), np.asarray([word_errors(reference, hypothesis.text, unit)]))
        parts = [(c.acoustic, lm, c.word_count, c.lm + PENALTY * c.unknown)
                 for c, lm in zip(found, scores, strict=True)]
        return _Table(np.asarray(parts), np.asarray([word_errors(reference, c.text, unit) for c in found]))


def _best(lists: Sequence[_Table], grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of a grid of weights with the fewest errors, and (utterances,) errors with it."""
    weights = np.concatenate([np.ones((len(grid), 1)), grid], axis=1).T  # (4, settings)
    errors = np.stack([table.errors[(table.parts @ weights).argmax(axis=0)] for table in lists])
    totals = errors.sum(axis=0)
    place = min(range(len(grid)), key=lambda i: (totals[i], grid[i, 0], grid[i, 2], abs(grid[i, 1]), grid[i, 1]))
    return grid[place], errors[:, place]


def _grid(ends: Sequence[tuple[float, float]], steps: Sequence[float]) -> np.ndarray:
    """(settings, 3), every combination; both ends belong to it."""
    axes = [np.unique(np.round(np.append(np.arange(low, high, step), high), 6)) for (low, high), step in
            zip(ends, steps)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def candidates_of(hypothesis: Hypothesis) -> tuple[Candidate, ...]:
    """Its n-best list. Raises InputError where there is a text and no list."""
    if not hypothesis.nbest and hypothesis.text:
        raise InputError(f"{hypothesis.id}: no n-best list to rescore; decode with more than one candidate")
    return hypothesis.nbest


def _rescored(hypothesis: Hypothesis, scores: Sequence[float], weights: Weights) -> Hypothesis:
    found = []
    for candidate, lm in zip(candidates_of(hypothesis), scores, strict=True):
        ngram = candidate.lm + PENALTY * candidate.unknown
        total = (candidate.acoustic + weights.lm_weight * lm + weights.ngram_weight * ngram
                 + weights.word_score * candidate.word_count)
        found.append(candidate._replace(score=total))
    if not found:
        return hypothesis
    found.sort(key=lambda candidate: -candidate.score)
    best = found[0]
    same = best.text == hypothesis.text
    return replace(hypothesis, text=best.text, score=best.score, acoustic=best.acoustic, lm=best.lm,
                   words=hypothesis.words if same else (), confidences=hypothesis.confidences if same else (),
                   nbest=tuple(found))
