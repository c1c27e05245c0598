"""flashlight-text's parts of a search: the lexicon as a tree, KenLM's model, options. Loaded once a process."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from downstream.decode.alphabet import Alphabet
from downstream.decode.word_model import check_language_model
from downstream.lm.arpa import read_unigrams
from downstream.lm.kenlm_file import is_binary, load_kenlm, quickest_file, refusal
from downstream.lm.scoring import LN10
from downstream.text.lexicon import Lexicon
from downstream.text.vocabulary import SEPARATOR
from upstream.errors import FormatError, InputError, UsageError, some_of
from upstream.progress import say

UNKNOWN = "<unk>"
WORDS_OF_A_SPELLING = 6  # at most, in flashlight's tree (kTrieMaxLabel); it drops the others without a word

Spellings = Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, eq=False)
class SpelledWords:
    """A lexicon with a language model, as flashlight takes them.

    Attributes:
        names: of the words by index; the last one is the unknown word.
        strange: indices of the words that the language model does not know, the unknown word among them.
        tree: of the spellings, each with the model's score of its word at the beginning of a sentence.
        model: scores words in log10; without a language model 0.
    """

    names: tuple[str, ...]
    strange: frozenset[int]
    tree: Any
    model: Any

    @property
    def unknown(self) -> int:
        """Index of the unknown word."""
        return len(self.names) - 1

    def sentence(self, words: list[int]) -> float:
        """Natural-log probability of a whole sentence."""
        state, total = self.model.start(False), 0.0
        for word in words:
            state, log10 = self.model.score(state, word)
            total += log10
        return LN10 * (total + self.model.finish(state)[1])


# flashlight's score of words outside of the lexicon. Any finite one makes it end words that have no letters yet.
NO_UNKNOWN_WORDS = -math.inf


@dataclass(frozen=True)
class Options:
    """Settings in flashlight's own units: `lm_weight` is of log10, all else in nats."""

    lm_weight: float
    word_score: float
    silence_score: float
    beam: int
    beam_threshold: float
    tokens_per_frame: int
    log_add: bool


def spelled_words(words: tuple[str, ...], columns: Alphabet) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Each word by the columns of its characters and of the separator. Raises InputError for words that have none."""
    return _columns_of({word: ((*word, SEPARATOR),) for word in words}, columns)


def spelled_lexicon(lexicon: Lexicon, columns: Alphabet) -> dict[str, tuple[tuple[int, ...], ...]]:
    """A lexicon's spellings as columns of the emissions.

    Raises:
        InputError: naming words with a symbol that no column has, or whose spelling has no separator at its end.
    """
    return _columns_of(lexicon.spellings, columns)


def words_of_model(lm: Path, columns: Alphabet) -> tuple[str, ...]:
    """The words of a language model that can be spelled.

    Raises:
        UsageError: no such file, or a KenLM binary, which does not tell its words.
        FormatError: not an ARPA file, a broken one, or one without words.
        InputError: less than 80 % of them can be spelled.
    """
    if Path(lm).is_file() and is_binary(lm):
        raise UsageError(f"{lm}: a KenLM binary does not tell its words: give a lexicon, or the ARPA file")
    words = _unigrams(lm)
    check_language_model(words, columns)
    return tuple(word for word in words if columns.letters.issuperset(word))


def load_words(spellings: Spellings, lm: Path | None, columns: Alphabet) -> SpelledWords:
    """The tree and the model. Not cached: a tree of 200 000 words takes a second.

    Of words of one spelling the tree holds the `WORDS_OF_A_SPELLING` that are likeliest at the beginning of a sentence;
    how many others there are is said.

    Raises:
        UsageError: no such file.
        FormatError: a language model that KenLM cannot read.
    """
    from flashlight.lib.text.decoder import SmearingMode, Trie, ZeroLM
    from flashlight.lib.text.dictionary import Dictionary

    names = (*(word for word in spellings if word != UNKNOWN), UNKNOWN)
    numbers = Dictionary(list(names))
    model = ZeroLM() if lm is None else _model(lm, numbers)
    start = model.start(False)
    by_spelling: dict[tuple[int, ...], list[tuple[float, int]]] = {}
    for index, word in enumerate(names[:-1]):
        score = model.score(start, index)[1]
        for spelling in spellings[word]:
            by_spelling.setdefault(spelling, []).append((-score, index))
    tree = Trie(len(columns.characters), columns.characters.index(" "))
    left_out: list[int] = []
    for spelling, found in by_spelling.items():
        likeliest = sorted(found)
        for negative, index in likeliest[:WORDS_OF_A_SPELLING]:
            tree.insert(list(spelling), index, -negative)
        left_out += [index for _, index in likeliest[WORDS_OF_A_SPELLING:]]
    tree.smear(SmearingMode.MAX)
    if left_out:
        others = "six likelier ones" if lm is not None else "six that come before them"
        say(f"warning: {len(set(left_out))} words of the lexicon, {names[left_out[0]]!r} for instance, have a spelling "
            f"in common with {others} and are not found by it: flashlight holds six words of one spelling")
    strange = frozenset() if lm is None else _strange(names, lm)
    return SpelledWords(names, strange, tree, model)


@lru_cache(maxsize=4)
def make_search(words: SpelledWords, options: Options, columns: Alphabet) -> Any:
    """flashlight's decoder; cheap beside `load_words`."""
    from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions

    settings = LexiconDecoderOptions(
        beam_size=options.beam, beam_size_token=options.tokens_per_frame, beam_threshold=options.beam_threshold,
        lm_weight=options.lm_weight, word_score=options.word_score, unk_score=NO_UNKNOWN_WORDS,
        sil_score=options.silence_score, log_add=options.log_add, criterion_type=CriterionType.CTC)
    return LexiconDecoder(settings, words.tree, words.model, columns.characters.index(" "),
                          columns.characters.index(""), words.unknown, [], False)


def run_search(search: Any, rows: np.ndarray) -> list[Any]:
    """flashlight's results for (T, V) rows, T >= 1, the best first."""
    rows = np.ascontiguousarray(rows, np.float32)
    return list(search.decode(rows.ctypes.data, *rows.shape))


def _columns_of(spellings: Mapping[str, tuple[tuple[str, ...], ...]],
                columns: Alphabet) -> dict[str, tuple[tuple[int, ...], ...]]:
    places = {character: i for i, character in enumerate(columns.characters) if character not in ("", " ")}
    end = columns.characters.index(" ")
    found: dict[str, tuple[tuple[int, ...], ...]] = {}
    bad: list[str] = []
    for word, each in spellings.items():
        inside = [[places.get(symbol, -1) for symbol in spelling[:-1]] for spelling in each]
        if all(letters and min(letters) >= 0 and spelling[-1] in (SEPARATOR, " ")
               for letters, spelling in zip(inside, each)):
            found[word] = tuple((*letters, end) for letters in inside)
        else:
            bad.append(word)
    if bad:
        raise InputError(f"{len(bad)} of {len(spellings)} words of the lexicon cannot be spelled in the recogniser's "
                         f"symbols with {SEPARATOR!r} at the end: {some_of([*map(repr, bad)])}; normalise them or "
                         "leave them out")
    if not found:
        raise InputError("a lexicon without words; expected at least one")
    return found


def _model(lm: Path, numbers: Any) -> Any:
    from flashlight.lib.text.decoder.kenlm import KenLM

    try:
        with _silence():
            return KenLM(str(quickest_file(lm)), numbers)
    except (RuntimeError, UnicodeDecodeError) as error:  # KenLM's message may hold bytes of the file
        raise refusal(lm, error) from error


def _unigrams(lm: Path) -> list[str]:
    words = read_unigrams(lm)
    if not words:
        raise FormatError(f"{lm}: a language model without words; build it from text")
    return words


def _strange(names: tuple[str, ...], lm: Path) -> frozenset[int]:
    known: Any = load_kenlm(lm) if is_binary(lm) else frozenset(read_unigrams(lm))
    return frozenset(i for i, name in enumerate(names) if name == UNKNOWN or name not in known)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the bar that KenLM draws on standard error whatever that is."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
