"""Which columns of the emissions are blank, word separator and characters, and which never appear in text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from downstream.emissions import no_logprobs
from upstream.errors import InputError

SEPARATORS = ("|", " ")
_SPECIAL = re.compile(r"^(<.+>|\[.+\])$")  # <s>, </s>, <unk>, <pad>, [UNK]: no characters of a text


@dataclass(frozen=True)
class Alphabet:
    """The columns that a decoder may choose from.

    Attributes:
        width: V, columns of the emissions.
        columns: the usable ones, in ascending order: all but specials such as `<s>`, `</s>`, `<unk>`.
        characters: text of each usable column: "" for the blank, " " for the word separator, else one character.
    """

    width: int
    columns: tuple[int, ...]
    characters: tuple[str, ...]

    @property
    def letters(self) -> frozenset[str]:
        """Characters that words are spelt with."""
        return frozenset(self.characters) - {"", " "}

    def usable(self, logprobs: np.ndarray, id: str = "") -> np.ndarray:
        """Drop the columns that no text can hold.

        Args:
            logprobs: (T, V) natural-log probabilities.
            id: of the utterance, for errors.

        Returns:
            (T, usable columns) float32; rows are not renormalised, which is the same constant for every hypothesis.

        Raises:
            InputError: another number of columns than symbols, or values that are no logarithms of probabilities (NaN,
                plus infinity), with the first frame that has one.
        """
        try:
            logprobs = np.asarray(logprobs, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError) as error:  # text; tensors that numpy cannot see
            raise InputError(f"emissions of type {type(logprobs).__name__} are no array of numbers: "
                             f"{' '.join(str(error).split())}") from error
        if logprobs.ndim != 2 or logprobs.shape[1] != self.width:
            raise InputError(f"emissions of shape {logprobs.shape} do not fit {self.width} symbols; "
                             "expected (frames, symbols): give the vocabulary that the recogniser was trained with")
        wrong = no_logprobs(logprobs, id)
        if wrong is not None:
            raise InputError(f"{wrong}; the recogniser or the audio is broken")
        return logprobs if len(self.columns) == self.width else logprobs[:, self.columns]


def alphabet(symbols: Sequence[str], blank: int) -> Alphabet:
    """Check the symbols of a recogniser and say what each column means. The result is cached.

    Raises:
        InputError: no such blank, a symbol twice, no or two word separators, a symbol that is no single character.
    """
    return _alphabet(tuple(symbols), blank)


@lru_cache(maxsize=16)
def _alphabet(symbols: tuple[str, ...], blank: int) -> Alphabet:
    if blank not in range(len(symbols)):
        raise InputError(f"blank is column {blank} of {len(symbols)} symbols; it must be one of them")
    twice = sorted({s for s in symbols if symbols.count(s) > 1})
    if twice:
        raise InputError(f"symbols given twice: {' '.join(map(repr, twice))}; every column needs its own")
    separators = [s for i, s in enumerate(symbols) if s in SEPARATORS and i != blank]
    if len(separators) != 1:
        raise InputError(f"{len(separators)} word separators among the symbols; exactly one of '|' and ' ' is needed")
    columns, characters = [], []
    for column, symbol in enumerate(symbols):
        if column == blank:
            character = ""
        elif symbol in SEPARATORS:
            character = " "
        elif _SPECIAL.match(symbol):
            continue
        elif len(symbol) != 1 or symbol.isspace():
            raise InputError(f"symbol {symbol!r} in column {column} is neither one character nor a special like <unk>")
        else:
            character = symbol
        columns.append(column)
        characters.append(character)
    return Alphabet(len(symbols), tuple(columns), tuple(characters))
