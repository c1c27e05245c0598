"""Where word errors come from: the search, the emissions, the language model, or words that nobody could find.

The ladder. Word errors of greedy decoding, of the beam search without a language model, with it, and of the best
candidate of each n-best list (the oracle), which is what a perfect rescoring of these lists would leave.

Blame (after Chase 1997, "Blame assignment for errors made by large vocabulary speech recognizers"). Reference and
found text are weighed by the decoder's own score `S = acoustic + language`, both whole: acoustic is the natural log of
the CTC probability summed over all alignments, language is the weighted language model with its word score. All word
errors of an utterance are put down to one of

- `vocabulary`: the vocabulary is closed and the reference holds a word outside it. No weights could find it;
- `search`: S(reference) > S(found). The decoder would have preferred the reference and did not meet it, or summed too
  few of its alignments: a wider beam helps;
- else it is a model error, S(found) >= S(reference), and a wider beam does not help:
  - `acoustic`: the emissions prefer what was found, the language model does not. A better recogniser helps, or more
    weight on the language model;
  - `language`: the language model prefers what was found, the emissions do not. A better language model helps, or less
    weight on it;
  - `both`: each of them prefers what was found, or the two texts are worth the same.

Every wrong utterance has exactly one blame, so the parts add up to the word errors.

Where errors are counted in characters, since references have no spaces between words, only unspaced decoding can be
blamed, whose words need no separators (`decode.parting` finds those of a reference). Of any other what the language
model says of a reference depends on where its words end, which nothing tells, and nobody is blamed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, get_args

import numpy as np

from downstream.decode.objective import Weighed
from downstream.score.intervals import ConfidenceInterval, bootstrap_interval
from downstream.score.rates import Unit, compared_words, word_errors
from downstream.score.significance import PairedDifference, paired_difference
from downstream.text.vocabulary import composed
from upstream.errors import InputError

Blame = Literal["vocabulary", "search", "acoustic", "language", "both"]
BLAMES: tuple[Blame, ...] = get_args(Blame)

_SAME = 1e-6  # nats; a smaller difference is rounding


@dataclass(frozen=True)
class Step:
    """A step of the ladder: word errors, their rate in percent, and its 95% interval over utterances.

    Attributes:
        change: from the step before, on the same utterances; None of the first.
    """

    name: str
    errors: int
    wer: float
    interval: ConfidenceInterval
    change: PairedDifference | None


@dataclass(frozen=True)
class Part:
    """Utterances with one blame, and all the word errors in them."""

    utterances: int
    errors: int


@dataclass(frozen=True)
class WordCounts:
    """Words of the references of one kind, and how many of them were substituted or deleted."""

    words: int
    errors: int

    @property
    def rate(self) -> float:
        """Errors in percent of the words; 0 where there are none."""
        return 100 * self.errors / max(1, self.words)


@dataclass(frozen=True)
class Decomposition:
    """Word errors taken apart in three ways.

    Attributes:
        words: in the references.
        ladder: in the order in which the steps were given, then the oracle.
        blamed: the word errors of the last step before the oracle, by blame; the parts add up to them. Empty where
            nobody could be blamed.
        known, unknown: the words of the references inside and outside of the vocabulary. Their errors and `insertions`
            add up to the same number.
        insertions: words found where the reference has none.
        unit: that errors are counted in; with `character` words are characters, inside of the vocabulary where any word
            of it has them.
    """

    words: int
    ladder: tuple[Step, ...]
    blamed: dict[Blame, Part]
    known: WordCounts
    unknown: WordCounts
    insertions: int
    unit: Unit = "word"


def blame(reference: Weighed, found: Weighed, reachable: bool = True, unit: Unit = "word") -> Blame | None:
    """Whose fault a wrong text is; None where it is right.

    Args:
        reference, found: under the score of the decoder that found it.
        reachable: whether the decoder's vocabulary holds every word of the reference.
        unit: that texts are compared in.
    """
    if compared_words(reference.text, unit) == compared_words(found.text, unit):
        return None
    if not reachable:
        return "vocabulary"
    if reference.score > found.score + _SAME:
        return "search"
    acoustic, language = found.acoustic > reference.acoustic, found.language > reference.language
    if acoustic != language:
        return "acoustic" if acoustic else "language"
    return "both"


def decompose(references: Mapping[str, str], steps: Mapping[str, Mapping[str, str]],
              nbest: Mapping[str, Sequence[str]], weighed: Mapping[str, tuple[Weighed, Weighed]],
              vocabulary: Collection[str], closed: bool = False, unit: Unit = "word",
              words_of: Callable[[str], Sequence[str]] = str.split) -> Decomposition:
    """Take the word errors of a decoding apart.

    Args:
        references: {id: text}.
        steps: {name: {id: text}} from the simplest decoding to the one that is taken apart, the last.
        nbest: {id: texts} that the last one listed; the text it chose counts as listed.
        weighed: {id: (reference, found)} by the score of the last one; nothing where characters are counted of words
            that separators part: what a model says of a reference depends on where its words end.
        vocabulary: words that the language model (or the lexicon) knows.
        closed: whether the decoder can find no other words.
        unit: that errors are counted in; with `character` every number of words here is one of characters, and those
            of any word of the vocabulary are known.
        words_of: the words of a reference, as the vocabulary has them.

    Raises:
        InputError: no words in the references, or an utterance without a hypothesis, a list or scores.
    """
    ids = tuple(references)
    blaming = bool(weighed) or unit == "word"
    for what, there in (*steps.items(), ("n-best", nbest), *([("weighed", weighed)] if blaming else [])):
        missing = next((id for id in ids if id not in there), None)
        if missing is not None:
            raise InputError(f"{missing}: nothing from {what!r}; decode every utterance that has a reference")
    words = np.asarray([len(compared_words(references[id], unit)) for id in ids], dtype=np.int64)
    if not words.sum():
        raise InputError(f"all {len(ids)} references are empty: a word error rate needs words")
    found = list(steps.values())[-1]
    errors = {name: [word_errors(references[id], texts[id], unit) for id in ids] for name, texts in steps.items()}
    errors["oracle"] = [oracle_errors(references[id], (found[id], *nbest[id]), unit) for id in ids]
    known, counts = frozenset(vocabulary), [np.asarray(each, dtype=np.int64) for each in errors.values()]
    lost = {id for id in ids if closed and not known.issuperset(words_of(references[id]))}
    blamed = _blamed(ids, lost, errors[list(steps)[-1]], weighed, unit) if blaming else {}
    return Decomposition(int(words.sum()), tuple(map(_step, errors, counts, [None, *counts], repeat(words))),
                         blamed,
                         *_by_vocabulary(references, found, known, unit), unit)


def oracle_errors(reference: str, texts: Iterable[str], unit: Unit = "word") -> int:
    """Word errors of the text of a list that has the fewest."""
    return min(word_errors(reference, text, unit) for text in texts)


def _step(name: str, errors: np.ndarray, before: np.ndarray | None, words: np.ndarray) -> Step:
    change = None if before is None else paired_difference(errors, before, words)
    return Step(name, int(errors.sum()), 100 * float(errors.sum()) / float(words.sum()),
                bootstrap_interval(errors, words), change)


def _blamed(ids: Sequence[str], lost: Collection[str], errors: Sequence[int],
            weighed: Mapping[str, tuple[Weighed, Weighed]], unit: Unit) -> dict[Blame, Part]:
    """`lost`: utterances whose reference the vocabulary does not hold, where it is closed."""
    parts: dict[Blame, list[int]] = {name: [] for name in BLAMES}
    for id, wrong in zip(ids, errors):
        whose = blame(*weighed[id], reachable=id not in lost, unit=unit)
        if whose is not None:
            parts[whose].append(wrong)
    return {name: Part(len(each), sum(each)) for name, each in parts.items()}


def _by_vocabulary(references: Mapping[str, str], found: Mapping[str, str], known: frozenset[str],
                   unit: Unit) -> tuple[WordCounts, WordCounts, int]:
    from rapidfuzz.distance import Levenshtein  # what jiwer aligns with

    known = known if unit == "word" else frozenset(composed("".join(known)))
    words, errors, insertions = [0, 0], [0, 0], 0  # unknown, known
    for id, text in references.items():
        truth = text.split() if unit == "word" else compared_words(text, unit)  # words as the vocabulary may have them
        for word in truth:
            words[word in known] += 1
        for edit in Levenshtein.editops(compared_words(text, unit), compared_words(found[id], unit)):
            if edit.tag == "insert":
                insertions += 1
            else:
                errors[truth[edit.src_pos] in known] += 1
    return WordCounts(words[1], errors[1]), WordCounts(words[0], errors[0]), insertions
