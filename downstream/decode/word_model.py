"""An n-gram language model as the beam search sees it: words, their beginnings, and whether it suits the recogniser."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from downstream.decode.alphabet import Alphabet
from downstream.given_files import check_lasting
from downstream.lm.arpa import read_unigrams
from downstream.lm.scoring import LN10, load_kenlm
from downstream.score.rates import NO_SPACES, Unit, units_of, without_spaces
from downstream.text.vocabulary import named
from upstream.disk import path_given
from upstream.errors import FormatError, InputError
from upstream.progress import say

UNKNOWN_LOG10 = -10.0  # on top of the model's own <unk>; pyctcdecode's default
MODEL, LEXICON = "the language model", "the lexicon"
LEAST_COVERAGE = 0.8
_MEAN_WORD = 6  # characters; a beginning that no word has costs more once it is longer (pyctcdecode's AVG_TOKEN_LEN)


@dataclass(frozen=True, eq=False)  # compared by identity: there are hundreds of thousands of words
class KnownWords:
    """The words of a language model and every beginning of them."""

    words: frozenset[str]
    beginnings: frozenset[str]

    @staticmethod
    def of(words: Iterable[str]) -> KnownWords:
        """From the words alone."""
        whole = frozenset(words)
        return KnownWords(whole, frozenset(word[:i] for word in whole for i in range(1, len(word) + 1)))


class WordModel:
    """Scores words for pyctcdecode, in the place of its `LanguageModel`.

    The same scores (language_model.py of pyctcdecode 0.5), but for an utterance that ends with a word separator or
    holds no word: there the original scores the empty word as an unknown one, which costs 23 nats at weight 1.
    """

    def __init__(self, model: Any, vocabulary: KnownWords) -> None:
        """`model`: a `kenlm.Model`. Weights are set by `weigh` before each utterance."""
        import kenlm

        self._model = model
        self._vocabulary = vocabulary
        self._new_state = kenlm.State
        self._lm_weight = 0.0
        self._word_score = 0.0

    def weigh(self, lm_weight: float, word_score: float) -> None:
        """Set the weight of the natural-log probability, and what each word adds."""
        self._lm_weight, self._word_score = lm_weight, word_score

    @property
    def order(self) -> int:
        """Words that an n-gram holds."""
        return int(self._model.order)

    def get_start_state(self) -> Any:
        """The state at the beginning of a sentence."""
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score_partial_token(self, partial_token: str) -> float:
        """Nothing for the beginning of a known word, a penalty in nats for any other."""
        if partial_token in self._vocabulary.beginnings:
            return 0.0
        return UNKNOWN_LOG10 * max(1.0, len(partial_token) / _MEAN_WORD)

    def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> tuple[float, Any]:
        """Weighted score of a word (and of the sentence's end) after a state, and the state after it."""
        if not word:
            return self._lm_weight * LN10 * self._end(prev_state) if is_last_word else 0.0, prev_state
        state = self._new_state()
        log10 = self._model.BaseScore(prev_state, word, state)
        if word not in self._vocabulary.words:
            log10 += UNKNOWN_LOG10
        if is_last_word:
            log10 += self._end(state)
        return self._lm_weight * LN10 * log10 + self._word_score, state

    def text_score(self, text: str) -> tuple[float, int]:
        """Natural-log probability of a whole sentence, unweighted, and the number of unknown words in it."""
        unknown = sum(word not in self._vocabulary.words for word in text.split())
        return float(self._model.score(text, bos=True, eos=True)) * LN10, unknown

    def _end(self, state: Any) -> float:
        return float(self._model.BaseScore(state, "</s>", self._new_state()))


def load_word_model(path: Path) -> tuple[Any, KnownWords]:
    """The KenLM model and the vocabulary of an ARPA file (`.arpa`, `.arpa.gz`), loaded once per process.

    Raises:
        UsageError: there is no such file.
        FormatError: not an ARPA file, or of order 1, which KenLM does not read.
    """
    path = path_given(path, "path")
    check_lasting(path, "no such file; language models are made by `hubertkit lm build`")
    about = path.stat()  # a file that changed is another model
    return load_kenlm(path), _vocabulary(path.resolve(), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4)
def _vocabulary(path: Path, modified: int, size: int) -> KnownWords:
    words = read_unigrams(path)
    if not words:
        raise FormatError(f"{path}: a language model without words; build it from text")
    return KnownWords.of(words)


def check_language_model(unigrams: Collection[str], alphabet: Alphabet) -> float:
    """Whether the recogniser can spell the words of a language model. Words that it can spell in another form of
    Unicode alone, which decoders never find, are told.

    Returns:
        The share of words that it can spell.

    Raises:
        InputError: less than 80 %; with the reason where it is upper against lower case.
    """
    share = spelt_share(unigrams, alphabet.letters)
    apart = "" if share == 1 else other_form(unigrams, alphabet.letters)
    if share >= LEAST_COVERAGE:
        if apart:
            _say_once(f"warning: {apart}; those words are never found")
        return share
    if apart:
        raise InputError(apart)
    found = f"the recogniser can spell {share:.0%} of the {len(unigrams)} words of the language model"
    for name, other in (("upper", str.upper), ("lower", str.lower)):
        if spelt_share([other(word) for word in unigrams], alphabet.letters) >= LEAST_COVERAGE:
            raise InputError(f"{found}: its symbols are {name} case; build the language model from {name}-case text")
    odd = next(character for word in unigrams for character in word if character not in alphabet.letters)
    raise InputError(f"{found}, at least {LEAST_COVERAGE:.0%} are needed and it has no symbol {named(odd)} for "
                     "instance; build it from text normalised as the transcripts were, or is it of another language?")


def other_form(words: Collection[str], letters: frozenset[str]) -> str:
    """What to do where some words of a language model can be spelled in another form of Unicode; "" where none can."""
    lost = [word for word in words if not letters.issuperset(word)]
    forms: tuple[tuple[Literal["NFC", "NFD"], str], ...] = (
        ("NFC", "build it again with `hubertkit lm build`, which writes NFC, or convert the ARPA file, "
                "e.g. with `uconv -x any-nfc`"),
        ("NFD", "convert the ARPA file, e.g. with `uconv -x any-nfd`"))
    for form, way in forms:
        apart = sum(letters.issuperset(unicodedata.normalize(form, word)) for word in lost)
        if apart:
            return (f"{apart} of the {len(words)} words of the language model are not in the form of Unicode that the "
                    f"recogniser's symbols have, {form}: {way}")
    return ""


@lru_cache(maxsize=16)
def _say_once(line: str) -> None:
    """Decoders of other weights look at the same model again."""
    say(line)


def check_coverage(whose: str, known: Collection[str], texts: Collection[str], least: float = LEAST_COVERAGE,
                   unit: Unit = "word") -> float:
    """The share of the words of transcripts that are among the known ones. Raises InputError under `least`.

    Args:
        whose: MODEL or LEXICON.
        unit: `character`: the share of the transcripts' characters that any of the known words has; whether transcripts
            without spaces consist of known words, nothing says.
    """
    there = frozenset(known if unit == "word" else "".join(known))
    words = [word for text in texts for word in units_of(text, unit)]
    share = sum(word in there for word in words) / max(1, len(words))
    if words and share < least:
        example = next(word for word in words if word not in there)
        spaces = f"; {NO_SPACES}" if unit == "word" and without_spaces(texts, known) else ""
        raise InputError(f"{whose} has {share:.0%} of the {len(words)} {unit}s of the references, not {example!r} for "
                         f"instance; at least {least:.0%} are needed: "
                         f"{'add the words to it' if whose == LEXICON else 'add text of the same kind'}{spaces}")
    return share


def spelt_share(words: Collection[str], letters: frozenset[str]) -> float:
    """The share of words that consist of these letters alone; 0 of none."""
    return sum(letters.issuperset(word) for word in words) / max(1, len(words))
