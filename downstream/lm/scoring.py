"""Log-probabilities of sentences by KenLM. All of hubertkit's scores are natural logarithms; ARPA files are base 10."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from upstream.errors import FormatError, InputError, UsageError

LN10 = math.log(10.0)


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
    """Every word of a sentence and `</s>`, after `<s>`."""
    model = load_kenlm(Path(path))
    words = [*sentence.split(), "</s>"]
    scores = model.full_scores(sentence, bos=True, eos=True)
    return [WordScore(w, p * LN10, oov) for w, (p, _, oov) in zip(words, scores)]


def score_sentence(path: Path, sentence: str) -> float:
    """Natural-log probability of a sentence with its end; an unknown word counts as `<unk>`."""
    return sum(w.logprob for w in score_words(path, sentence))


def perplexity(path: Path, sentences: Iterable[str]) -> Perplexity:
    """Perplexity of a text, one sentence an item. Raises InputError where there is none."""
    total = known = 0.0
    tokens = unknown = 0
    for sentence in sentences:
        for word in score_words(path, sentence):
            tokens += 1
            total += word.logprob
            unknown += word.unknown
            known += 0.0 if word.unknown else word.logprob
    if not tokens:
        raise InputError("no sentence to score")
    return Perplexity(math.exp(-total / tokens), math.exp(-known / max(1, tokens - unknown)), tokens, unknown)


@lru_cache(maxsize=2)
def load_kenlm(path: Path) -> Any:
    """KenLM's model of a file, loaded once a process.

    Raises:
        UsageError: no such file.
        FormatError: an empty or broken file, or a model of order 1, which KenLM's Python package refuses.
    """
    import kenlm

    if not path.is_file():
        raise UsageError(f"{path}: no such language model")
    if not path.stat().st_size:
        raise FormatError(f"{path}: an empty file; build the model again")
    config = kenlm.Config()
    config.show_progress = False
    try:
        return kenlm.Model(str(path), config)
    except OSError as error:
        raise FormatError(f"{path}: KenLM cannot read it ({' '.join(str(error).split())[:300]})") from error
