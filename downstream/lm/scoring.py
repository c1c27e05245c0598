"""Log-probabilities of sentences by KenLM. All of hubertkit's scores are natural logarithms; ARPA files are base 10."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from downstream.lm.arpa import ngram_counts
from upstream.errors import FormatError, InputError, UsageError

LN10 = math.log(10.0)
_BINARY = b"mmap lm http://kheafield.com/code"  # what KenLM's own binary files begin with


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
        UsageError, FormatError: as `load_kenlm`.
    """
    words = sentence.split()
    scores = load_kenlm(path).full_scores(" ".join(words), bos=True, eos=True)
    return [WordScore(word, log10 * LN10, oov) for word, (log10, _, oov) in zip([*words, "</s>"], scores, strict=True)]


def score_sentence(path: Path, sentence: str) -> float:
    """Natural-log probability of a sentence with its end; an unknown word counts as `<unk>`. As `score_words`."""
    return sum(word.logprob for word in score_words(path, sentence))


def perplexity(path: Path, sentences: Iterable[str]) -> Perplexity:
    """Perplexity of a text, one sentence an item. Raises InputError where there is none, else as `score_words`."""
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


def load_kenlm(path: Path) -> Any:
    """KenLM's model of a file, loaded once a process as long as the file stays as it is.

    Raises:
        UsageError: no such file.
        FormatError: an empty, broken or truncated file, or a model of order 1, which KenLM's Python package refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such language model; `hubertkit lm build` makes one")
    about = path.stat()
    if not about.st_size:
        raise FormatError(f"{path}: an empty file; build the model again")
    return _load(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2)
def _load(path: Path, modified: int, size: int) -> Any:
    import kenlm

    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE  # it would advise to build a binary
    try:
        return kenlm.Model(str(path), config)
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(_reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    """Why KenLM refused a file. Our own reader names the line of a broken ARPA file."""
    with open(path, "rb") as file:
        binary = file.read(len(_BINARY)) == _BINARY
    if not binary and len(ngram_counts(path)) == 1:
        return f"{path}: a model of order 1; KenLM reads models of order 2 and more: build it with --order 2"
    return f"{path}: KenLM cannot read it ({' '.join(str(error).split())[-300:]})"
