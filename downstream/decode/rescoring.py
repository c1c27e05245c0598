"""N-best lists ranked again by a neural language model, and weights for it tuned on dev.

A candidate is ranked by `acoustic + lm_weight * log P(text) + ngram_weight * lm + word_score * words`, all natural
logarithms: P is the neural model's, `lm` what the n-gram model that made the list says of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from downstream.decode.hypothesis import Candidate, Hypothesis
from downstream.lm.rescoring import CausalModel
from downstream.score.rates import word_errors
from upstream.errors import InputError, UsageError


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


def score_nbest(hypotheses: Iterable[Hypothesis], model: CausalModel) -> list[list[float]]:
    """Natural-log probability of every candidate, list by list, to be computed once and weighed often.

    Raises:
        InputError: a hypothesis with a text and no n-best list, or as `CausalModel.scores`.
    """
    lists = [_candidates(hypothesis) for hypothesis in hypotheses]
    flat = iter(model.scores([candidate.text for row in lists for candidate in row]))
    return [[next(flat) for _ in row] for row in lists]


def rescore(hypotheses: Sequence[Hypothesis], scores: Sequence[Sequence[float]], weights: Weights) -> list[Hypothesis]:
    """Hypotheses with their candidates in the new order, best first; ties keep the old order.

    `lm` of a candidate becomes the neural model's, `score` the new one. Times and confidences of words are kept where
    the best text stays; otherwise there are none.
    """
    return [_rescored(h, row, weights) for h, row in zip(hypotheses, scores, strict=True)]


def tune_weights(hypotheses: Sequence[Hypothesis], scores: Sequence[Sequence[float]], references: Sequence[str],
                 grid: Iterable[Weights]) -> tuple[Weights, int]:
    """The weights of a grid with the fewest word errors on dev, the first of equals, and that number.

    Raises:
        UsageError: an empty grid.
    """
    best: tuple[Weights, int] | None = None
    for weights in grid:
        texts = (h.text for h in rescore(hypotheses, scores, weights))
        errors = sum(word_errors(wanted, text) for wanted, text in zip(references, texts, strict=True))
        if best is None or errors < best[1]:
            best = weights, errors
    if best is None:
        raise UsageError("no weights to try; the grid is empty")
    return best


def _candidates(hypothesis: Hypothesis) -> tuple[Candidate, ...]:
    if not hypothesis.nbest and hypothesis.text:
        raise InputError(f"{hypothesis.id}: no n-best list to rescore; decode with more than one candidate")
    return hypothesis.nbest


def _rescored(hypothesis: Hypothesis, scores: Sequence[float], weights: Weights) -> Hypothesis:
    found = []
    for candidate, lm in zip(_candidates(hypothesis), scores, strict=True):
        total = (candidate.acoustic + weights.lm_weight * lm + weights.ngram_weight * candidate.lm
                 + weights.word_score * len(candidate.text.split()))
        found.append(candidate._replace(score=total, lm=lm))
    if not found:
        return hypothesis
    found.sort(key=lambda candidate: -candidate.score)
    best = found[0]
    same = best.text == hypothesis.text
    return replace(hypothesis, text=best.text, score=best.score, acoustic=best.acoustic, lm=best.lm,
                   words=hypothesis.words if same else (), confidences=hypothesis.confidences if same else (),
                   nbest=tuple(found))
