"""Log-probabilities of sentences by KenLM. All of hubertkit's scores are natural logarithms; ARPA files are base 10."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from downstream.lm.arpa_lines import LN10
from downstream.lm.kenlm_file import load_kenlm
from downstream.lm.reading import split_words
from upstream.errors import InputError, UsageError

__all__ = ["LN10", "Perplexity", "WordScore", "load_kenlm", "perplexity", "perplexity_of", "score_sentence",
           "score_words"]


class WordScore(NamedTuple):
    """Natural-log probability of a word after what stands before it, and whether the model does not know it."""

    word: str
    logprob: float
    unknown: bool


@dataclass(frozen=True)
class Perplexity:
    """Of a text, `</s>` counted as a token.

    Attributes:
        with_unknown: all tokens.
        without_unknown: words that the model does not know left out, the words after them kept (KenLM's `query`).
        tokens, unknown: how many.
    """

    with_unknown: float
    without_unknown: float
    tokens: int
    unknown: int


def score_words(path: Path, sentence: str) -> list[WordScore]:
    """Every word of a sentence and `</s>`, after `<s>`.

    Args:
        path: an ARPA file, plain or gzipped, or a KenLM binary, of order 2 or more.
        sentence: normalised as the model's text was; an empty one has its end alone.

    Raises:
        UsageError: the sentence is no text.
        UsageError, FormatError: as `load_kenlm`.
    """
    if not isinstance(sentence, str):
        raise UsageError(f"{sentence!r:.40}: expected a sentence as text")
    words = split_words(sentence)
    scores = load_kenlm(path).full_scores(" ".join(words), bos=True, eos=True)
    return [WordScore(word, log10 * LN10, oov) for word, (log10, _, oov) in zip([*words, "</s>"], scores, strict=True)]


def score_sentence(path: Path, sentence: str) -> float:
    """Natural-log probability of a sentence with its end; an unknown word counts as `<unk>`. As `score_words`."""
    return sum(word.logprob for word in score_words(path, sentence))


def perplexity(path: Path, sentences: Iterable[str]) -> Perplexity:
    """Perplexity of a text, one sentence an item. Raises InputError where there is none, UsageError for a string,
    whose items are letters, else as `score_words`."""
    if isinstance(sentences, str):
        raise UsageError(f"{sentences[:40]!r}: one string; give a list of sentences")
    return perplexity_of(score_words(path, sentence) for sentence in sentences)


def perplexity_of(scored: Iterable[Sequence[WordScore]]) -> Perplexity:
    """Perplexity from the words' scores. Raises InputError where there are none."""
    total = known = 0.0
    tokens = unknown = 0
    for word in (word for sentence in scored for word in sentence):
        tokens += 1
        total += word.logprob
        unknown += word.unknown
        known += 0.0 if word.unknown else word.logprob
    if not tokens:
        raise InputError("no sentence to score")
    return Perplexity(math.exp(-total / tokens), math.exp(-known / max(1, tokens - unknown)), tokens, unknown)
