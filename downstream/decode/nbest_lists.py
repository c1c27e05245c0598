"""N-best lists of many decodes, and what other weights would make of them without decoding again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.decode.hypothesis import Candidate, Hypothesis
from downstream.score.rates import Unit, compared_words, word_errors

Range = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A pair of weights and the word error rate in percent with it: really decoded, or n-best lists rescored."""

    lm_weight: float
    word_score: float
    wer: float
    decoded: bool


class NBestLists:
    """Every candidate that any decode found, with the numbers that its score is made of."""

    def __init__(self, references: Mapping[str, str], unknown_penalty: float, unit: Unit = "word") -> None:
        """
        Args:
            references: of every utterance.
            unknown_penalty: that the decoder adds for each unknown word, in nats before weighing.
            unit: that errors are counted in.
        """
        self._references = references
        self._unknown_penalty = unknown_penalty
        self._unit = unit
        self.words = np.asarray([len(compared_words(text, unit)) for text in references.values()])  # (N,)
        self._found: dict[str, dict[str, tuple[float, float, int, int]]] = {id: {} for id in references}

    def add(self, hypotheses: Sequence[Hypothesis]) -> np.ndarray:
        """Take in the lists of a decode of all utterances, in their order; (N,) int64 word errors of its texts."""
        errors = []
        for hypothesis in hypotheses:
            found = self._found[hypothesis.id]
            # an utterance without frames has no list, only its empty text
            for c in hypothesis.nbest or (Candidate(hypothesis.text, 0.0, hypothesis.acoustic, hypothesis.lm, 0,
                                                    len(hypothesis.words)),):
                old = found.get(c.text)
                wrong = word_errors(self._references[hypothesis.id], c.text, self._unit) if old is None else old[3]
                # the sum over alignments that a narrow beam sees is too small, never too large
                acoustic = c.acoustic if old is None else max(c.acoustic, old[0])
                found[c.text] = (acoustic, c.lm + self._unknown_penalty * c.unknown, c.word_count, wrong)
            errors.append(found[hypothesis.text][3])
        return np.asarray(errors, np.int64)

    def rate(self, errors: np.ndarray) -> float:
        """Word error rate in percent."""
        return 100 * int(errors.sum()) / int(self.words.sum())

    def search(self, lm_weights: Range, word_scores: Range, coarse: Range, fine: Range) -> list[Point]:
        """Rescore on a coarse grid, then on a fine one that reaches a coarse step to each side of its best point.

        Args:
            lm_weights, word_scores: lowest and highest.
            coarse, fine: steps along (lm_weight, word_score).
        """
        found = self._rescore(grid(lm_weights, coarse[0]), grid(word_scores, coarse[1]))
        top = best(found)
        around = [(max(low, centre - step), min(high, centre + step)) for centre, step, (low, high) in (
            (top.lm_weight, coarse[0], lm_weights), (top.word_score, coarse[1], word_scores))]
        return found + self._rescore(grid(around[0], fine[0]), grid(around[1], fine[1]))

    def _rescore(self, lm_weights: np.ndarray, word_scores: np.ndarray) -> list[Point]:
        weights, scores = (axis.ravel() for axis in np.meshgrid(lm_weights, word_scores, indexing="ij"))
        errors = np.zeros(len(weights), dtype=np.int64)
        for candidates in self._found.values():
            acoustic, lm, words, wrong = np.asarray(list(candidates.values())).T[:, :, None]
            winners = (acoustic + lm * weights + words * scores).argmax(axis=0)
            errors += wrong[winners, 0].astype(np.int64)
        total = int(self.words.sum())
        return [Point(float(w), float(s), 100 * int(e) / total, decoded=False)
                for w, s, e in zip(weights, scores, errors)]


def best(points: Sequence[Point]) -> Point:
    """The one with the fewest errors; of equals that with the smaller weight, then the word score nearer to 0."""
    return min(points, key=lambda p: (p.wer, p.lm_weight, abs(p.word_score), p.word_score))


def grid(ends: Range, step: float) -> np.ndarray:
    """From low to high, both included."""
    low, high = ends
    values = low + step * np.arange(int((high - low) / step + 1e-9) + 1)
    return np.unique(np.round(np.append(values, high), 6))
