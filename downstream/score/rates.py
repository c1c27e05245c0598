"""Word and character error rates, pooled over utterances, with the counts of every utterance.

    score({"a": "THE CAT SAT"}, {"a": "THE BAT SAT DOWN"}).wer -> 66.7 (2 errors in 3 words)

Scripts without spaces between words have no word error rate: their characters are counted, and spaces are none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from downstream.text.vocabulary import composed
from upstream.errors import InputError, UsageError

Unit = Literal["word", "character"]  # that errors are counted in; of characters, white space is none
RATES = ("wer", "cer")  # of words, of characters

NO_SPACES = "where the references have no spaces between words, count characters (--characters, unit=character)"
_LONG_WORD = 12.0  # characters, longer than those of any language with spaces are on average
_PHRASE = 8.0  # characters, longer than words of scripts without spaces are on average where a text has been parted
_ONE_WORD = 2.0  # words of a text, on average, below which it may be one without spaces
# Scripts that are written without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana and hanzi.
_UNSPACED = re.compile("[\u0e01-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3\u3041-\u30ff\u31f0-\u31ff"
                       "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class UtteranceCounts:
    """Counts of every utterance, in the order of the references: (N,) int64 each.

    `words` and `characters` are those of the reference; a space between two words is a character. Where errors are
    counted in characters, words are characters, and spaces are not counted.
    """

    ids: tuple[str, ...]
    words: np.ndarray
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    characters: np.ndarray
    character_errors: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """(N,) int64 word errors."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Score:
    """Error rates in percent and the counts that they are made of.

    Attributes:
        words, characters: in the references.
        errors: substitutions + deletions + insertions of words.
        wer: 100 * errors / words, pooled over utterances, not rounded.
        cer: 100 * character_errors / characters, likewise.
        sentence_errors: utterances with any word error.
        per_utterance: what intervals and paired tests resample.
    """

    words: int
    errors: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float
    cer: float
    characters: int
    character_errors: int
    sentence_errors: int
    per_utterance: UtteranceCounts


def rates_of(unit: Unit) -> tuple[str, ...]:
    """The rates there are: of words and of characters, which are one where characters are what is counted."""
    return RATES if unit == "word" else ("cer",)


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], unit: Unit = "word") -> Score:
    """Score hypotheses against references, matched by id.

    With the unit `character` each character is a word, wherever texts have spaces: `wer` and `cer` are both the usual
    character error rate.

    The alignment has the fewest errors (jiwer: unit costs, case matters); texts are taken as they are but for runs of
    white space and Unicode's form: both sides are brought into NFC, so `é` is one character however it is written
    and equal to any other `é`. An utterance with an empty reference adds no words, and each word of its hypothesis is
    an insertion.

    Raises:
        UsageError: another unit.
        InputError: no references, or only empty ones; a reference without a hypothesis, or the other way round; no
            mapping of ids to texts.
    """
    _check_unit(unit)
    _check_texts("reference", references)
    _check_texts("hypothesis", hypotheses)
    ids = tuple(references)
    _check_ids(references, hypotheses)
    truth = [" ".join(compared_words(references[id], unit)) for id in ids]
    found = [" ".join(compared_words(hypotheses[id], unit)) for id in ids]
    counts = _count(ids, truth, found, unit)
    words, characters = int(counts.words.sum()), int(counts.characters.sum())
    if not words:
        raise InputError(f"all {len(ids)} references are empty: a word error rate needs words")
    errors, character_errors = int(counts.errors.sum()), int(counts.character_errors.sum())
    return Score(
        words=words, errors=errors, substitutions=int(counts.substitutions.sum()),
        deletions=int(counts.deletions.sum()), insertions=int(counts.insertions.sum()),
        wer=100 * errors / words, cer=100 * character_errors / characters, characters=characters,
        character_errors=character_errors, sentence_errors=int((counts.errors > 0).sum()), per_utterance=counts)


def word_errors(reference: str, hypothesis: str, unit: Unit = "word") -> int:
    """The fewest word errors that turn one text into the other: what `score` counts for one utterance. Raises as that,
    where one is no text."""
    _check_unit(unit)
    _check_texts("text", {"reference": reference, "hypothesis": hypothesis})
    from rapidfuzz.distance import Levenshtein  # what jiwer aligns with

    return Levenshtein.distance(compared_words(reference, unit), compared_words(hypothesis, unit))


def compared_words(text: str, unit: Unit = "word") -> list[str]:
    """The words of a text as they are compared: in Unicode's form NFC, in which equal letters are equal code points.

    As many as `text.split()` gives, or its characters.
    """
    return units_of(composed(text), unit)


def units_of(text: str, unit: Unit) -> list[str]:
    """The words of a text, or its characters but white space."""
    words = text.split()
    return words if unit == "word" else list("".join(words))


def without_spaces(texts: Iterable[str], spaced: Iterable[str]) -> bool:
    """Whether texts look as if they had no spaces between words: by their script (`of_phrases`), or beside texts (or
    words) that have them: their words are more than twice as long on average, and long, or hardly any text has two."""
    texts = list(texts)
    mean, count = mean_word(texts)
    beside = (mean >= _LONG_WORD or count < _ONE_WORD * len(texts)) and mean > 2 * mean_word(spaced)[0] > 0
    return beside or of_phrases(texts)


def of_phrases(texts: Iterable[str]) -> bool:
    """Whether texts are of a script without spaces between words, and what spaces part in them are phrases: they are
    long on average, or hardly any text has two of them."""
    texts = [text for text in texts if text]
    mean, count = mean_word(texts)
    if mean < _PHRASE and count >= _ONE_WORD * len(texts):
        return False
    return 2 * sum(len(_UNSPACED.findall(text)) for text in texts) > mean * count > 0


def mean_word(texts: Iterable[str]) -> tuple[float, int]:
    """Characters of a word on average, 0 where there is none, and the number of words."""
    words = [word for text in texts for word in text.split()]
    return sum(map(len, words)) / max(1, len(words)), len(words)


def _check_unit(unit: str) -> None:
    if unit not in get_args(Unit):
        raise UsageError(f"unit={unit!r}: expected {' or '.join(get_args(Unit))}")


def _check_texts(what: str, texts: object) -> None:
    """Raise InputError for anything but a mapping of ids to texts."""
    if not isinstance(texts, Mapping):
        raise InputError(f"{texts!r:.40}: expected {{id: text}}, the {what} of each utterance")
    odd = next((id for id, text in texts.items() if not isinstance(text, str)), None)
    if odd is not None:
        raise InputError(f"{odd}: the {what} is {texts[odd]!r:.40}; expected text, empty where nothing was said")


def _check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise InputError("no references to score against")
    missing = [id for id in references if id not in hypotheses]
    if missing:
        raise InputError(f"{missing[0]}: no hypothesis ({_of(missing, references)} references have none); "
                         + (_apart(missing[0], hypotheses) or "decode all utterances, or score against the references "
                            "of those decoded"))
    unknown = [id for id in hypotheses if id not in references]
    if unknown:
        raise InputError(f"{unknown[0]}: no reference ({_of(unknown, hypotheses)} hypotheses have none); "
                         "give the references of what was decoded")


def _apart(id: str, others: Iterable[str]) -> str:
    """What to do where one of the other ids looks the same."""
    alike = any(composed(other) == composed(id) for other in others)
    return "one of the same looks is in another form of Unicode: write ids in NFC on both sides" * alike


def _of(some: Sequence[str], whole: Mapping[str, str]) -> str:
    return f"{len(some)} of {len(whole)}"


def _count(ids: tuple[str, ...], truth: list[str], found: list[str], unit: Unit) -> UtteranceCounts:
    import jiwer

    edits = _edits(jiwer.process_words(truth, found).alignments)
    words = np.asarray([len(text.split()) for text in truth], dtype=np.int64)
    characters, character_errors = words, edits.sum(axis=1)  # where each word is a character
    if unit == "word":
        characters = np.asarray([len(text) for text in truth], dtype=np.int64)
        character_errors = _edits(jiwer.process_characters(truth, found).alignments).sum(axis=1)
    return UtteranceCounts(ids=ids, words=words, substitutions=edits[:, 0], deletions=edits[:, 1],
                           insertions=edits[:, 2], characters=characters, character_errors=character_errors)


def _edits(alignments: Sequence[Sequence[Any]]) -> np.ndarray:
    """(N, 3) int64 substitutions, deletions and insertions of each utterance."""
    return np.asarray([_operations(a) for a in alignments], dtype=np.int64).reshape(-1, 3)


def _operations(alignment: Sequence[Any]) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions of one utterance's alignment chunks."""
    counts = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for chunk in alignment:
        counts[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return counts["substitute"], counts["delete"], counts["insert"]
