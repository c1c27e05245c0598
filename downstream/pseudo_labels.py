"""Which of a teacher's texts are good enough to be learnt from: filters, each with its source in `FilterRecipe`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.decode.hypothesis import Hypothesis
from downstream.score.rates import Unit, units_of
from downstream.selftrain_recipe import FilterRecipe, Measure
from upstream.errors import InputError

LEAST_TEXTS = 3  # that a line is drawn of
KEPT = ""
EMPTY, SLOW, SLOW_CHARACTERS, FAST, FAST_CHARACTERS, LOOP, DISAGREEMENT, CONFIDENCE, REST = REASONS = (
    "empty", "too few words a second", "too few characters a second", "too many words a second",
    "too many characters a second", "a loop", "greedy decoding disagrees", "low confidence", "not among the best")


@dataclass(frozen=True)
class PseudoLabel:
    """What a teacher heard in an utterance.

    Attributes:
        id: of the utterance.
        text: decoded, by whatever decoder.
        greedy: of greedy decoding.
        seconds: of audio.
        confidence: the higher the better (`confidence`).
    """

    id: str
    text: str
    greedy: str
    seconds: float
    confidence: float


@dataclass(frozen=True)
class ScoreLine:
    """How a decoder's scores go with the length of texts: about `slope * length + offset`, and further from it by
    `spread * sqrt(length)` (one standard deviation)."""

    slope: float
    offset: float
    spread: float


def judge(labels: Sequence[PseudoLabel], filters: FilterRecipe, unit: Unit = "word") -> dict[str, str]:
    """Of each utterance, in the order given, why its label is dropped, one of `REASONS`; `KEPT` where it is not.

    With a `keep` below 1, the best by confidence of those that all other filters leave are kept, rounded up to whole
    utterances; of equals the first.

    Args:
        unit: that texts are counted in; with `character` every limit of words is one of characters, and spaces do not
            count.
    """
    filters = filters.counting(unit)
    found = {label.id: _reason(label, filters, unit) for label in labels}
    left = [label for label in labels if found[label.id] == KEPT]
    best_first = sorted(left, key=lambda label: -label.confidence)  # stable
    for label in best_first[share_of(len(left), filters.keep):]:
        found[label.id] = REST
    return found


def share_of(count: int, share: float) -> int:
    """So much of a number, rounded up; a share that is written in decimals counts as it is written (0.07 of 100 is 7).
    """
    return max(math.ceil(round(count * share, 6)), min(count, 1))


def _reason(label: PseudoLabel, filters: FilterRecipe, unit: Unit) -> str:
    words = units_of(label.text, unit)
    if not words:
        return EMPTY
    rate = len(words) / max(label.seconds, 1e-9)
    if filters.least_words_a_second is not None and rate < filters.least_words_a_second:
        return SLOW if unit == "word" else SLOW_CHARACTERS
    if filters.most_words_a_second is not None and rate > filters.most_words_a_second:
        return FAST if unit == "word" else FAST_CHARACTERS
    if filters.loop_times is not None and filters.loop_words is not None and (
            most_repeats(words, filters.loop_words) > filters.loop_times):
        return LOOP
    limit = filters.most_disagreement
    if limit is not None and disagreement(label.text, label.greedy, unit) > limit:
        return DISAGREEMENT
    if filters.least_confidence is not None and label.confidence < filters.least_confidence:
        return CONFIDENCE
    return KEPT


def most_repeats(words: Sequence[str], size: int) -> int:
    """How often the commonest run of `size` words comes, overlaps counted; 0 where there is none."""
    runs = Counter(tuple(words[first:first + size]) for first in range(len(words) - size + 1))
    return max(runs.values(), default=0)


def disagreement(text: str, greedy: str, unit: Unit = "word") -> float:
    """CER in percent of greedy decoding against a label: edits over the label's characters; spaces count unless
    characters are the unit.

    Infinite for an empty label beside a greedy text, 0 where both are empty.
    """
    from rapidfuzz.distance import Levenshtein

    if unit == "character":
        text, greedy = ("".join(units_of(one, unit)) for one in (text, greedy))
    edits = Levenshtein.distance(text, greedy)
    return 100 * edits / len(text) if text else math.inf if edits else 0.0


def confidence(hypothesis: Hypothesis, measure: Measure, line: ScoreLine | None = None) -> float:
    """How sure a decoder is of its text; minus infinity of an empty one.

    Args:
        hypothesis: with `confidences`, for the measure `words`.
        measure: `acoustic`: natural logarithm of the emissions' probability of the text over its characters, spaces
            counted, at most 0 (Kahn et al. 2020, log P(Y | X) / |Y|); `score`: likewise of the decoder's score, with
            language model and word score, which may be above 0; `normalised`: standard deviations by which the score
            lies above that of dev's texts of that length, (S - slope * l - offset) / (spread * sqrt(l)) (Park et al.
            2020); `words`: mean of the words' confidences, from 0 to 1 (`decode.confidence`).
        line: for the measure `normalised`, see `fit_line`.

    Raises:
        InputError: the measure `normalised` without a line, `words` without confidences.
    """
    length = len(hypothesis.text)
    if not length:
        return -math.inf
    if measure == "acoustic":
        return hypothesis.acoustic / length
    if measure == "score":
        return hypothesis.score / length
    if measure == "words":
        if not hypothesis.confidences:
            raise InputError(f"{hypothesis.id}: no confidences of its words; decode it with them")
        return float(np.mean(hypothesis.confidences))
    if line is None:
        raise InputError("normalised confidence needs the line of dev's scores over the lengths of their texts")
    return (hypothesis.score - line.slope * length - line.offset) / (line.spread * math.sqrt(length))


def fit_line(hypotheses: Sequence[Hypothesis]) -> ScoreLine:
    """The line of scores over the lengths of texts, least squares, and the standard deviation of what is left over the
    square root of the length (Park et al. 2020). Empty texts are left out.

    Raises:
        InputError: fewer than three texts, all of one length, or scores without any spread.
    """
    said = [(len(h.text), h.score) for h in hypotheses if h.text]
    lengths, scores = (np.array(column, np.float64) for column in (zip(*said) if said else ((), ())))
    if len(said) < LEAST_TEXTS or np.ptp(lengths) == 0:
        raise InputError(too_few_texts(len(said)))
    slope, offset = np.polyfit(lengths, scores, 1)
    spread = float(np.std((scores - slope * lengths - offset) / np.sqrt(lengths)))
    if not spread > 1e-9:
        raise InputError("filter.confidence=normalised: the scores of dev's texts have no spread; give "
                         "confidence=acoustic")
    return ScoreLine(float(slope), float(offset), spread)


def too_few_texts(count: int) -> str:
    """What is said where dev has so few texts that no line can be drawn."""
    return (f"filter.confidence=normalised: dev has {count} texts, of too few lengths for a line; give more of dev, or "
            "confidence=acoustic")


def counts(labels: Sequence[PseudoLabel], reasons: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Utterances and hours that are kept, and that each filter dropped, those that dropped none left out."""
    found: dict[str, dict[str, float]] = {}
    for reason in (KEPT, *REASONS):
        seconds = [label.seconds for label in labels if reasons[label.id] == reason]
        if seconds or reason == KEPT:
            found[reason or "kept"] = {"utterances": len(seconds), "hours": round(sum(seconds) / 3600, 4)}
    return found
