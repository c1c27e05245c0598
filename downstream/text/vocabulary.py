"""The symbols of a recogniser: which column of the emissions stands for which character.

Two standard sets differ in order and size, so a vocabulary always travels with its recogniser (`vocab.json`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from upstream.errors import FormatError, InputError
from upstream.stage import read_json, write_json

SEPARATOR = "|"  # between words
BLANK = "<pad>"  # the CTC blank, under the name that transformers gives it
_SPECIAL = re.compile(r"<.+>|\[.+\]")  # <unk>, [UNK]: never part of a text
LETTERS = tuple("ETAONIHSRDLUMWCFGYPBVK'XJQZ")  # fairseq's order: by frequency in LibriSpeech


@dataclass(frozen=True)
class Vocabulary:
    """Symbols in the order of their ids.

    Attributes:
        symbols: unique; `|` separates words.
        blank: id of the CTC blank.

    Raises:
        InputError: a symbol that stands there twice, no separator, or a blank outside the symbols.
    """

    symbols: tuple[str, ...]
    blank: int = 0

    def __post_init__(self) -> None:
        twice = {s for s in self.symbols if self.symbols.count(s) > 1}
        if twice:
            raise InputError(f"vocabulary: {min(twice)!r} stands there twice; every symbol has one id")
        if not 0 <= self.blank < len(self.symbols) or self.symbols.count(SEPARATOR) != 1:
            raise InputError(f"vocabulary of {len(self.symbols)} symbols: it needs the word separator {SEPARATOR!r} "
                             f"and a blank within it, not {self.blank}")

    @staticmethod
    def characters() -> Vocabulary:
        """29 symbols: blank, `|`, then letters by frequency (torchaudio's ASR bundles)."""
        return Vocabulary((BLANK, SEPARATOR, *LETTERS))

    @staticmethod
    def transformers() -> Vocabulary:
        """32 symbols, as `hubert-large-ls960-ft` has them: four specials before `|`; `<pad>` is the blank."""
        return Vocabulary((BLANK, "<s>", "</s>", "<unk>", SEPARATOR, *LETTERS))

    @staticmethod
    def of(texts: Iterable[str]) -> Vocabulary:
        """Blank, `|`, and every character of the texts in the order of their code points; white space is the separator.

        Raises:
            InputError: a text with `|` in it, which could not be told from a space.
        """
        found = {c for text in texts for c in text if not c.isspace()}
        if SEPARATOR in found:
            raise InputError(f"a text holds {SEPARATOR!r}, which stands for the space between words; take it out first")
        return Vocabulary((BLANK, SEPARATOR, *sorted(found)))

    @cached_property
    def letters(self) -> frozenset[str]:
        """The characters that words can be spelled with."""
        single = (s for i, s in enumerate(self.symbols) if len(s) == 1 and i != self.blank)
        return frozenset(single) - {SEPARATOR}

    def encode(self, text: str, trailing: bool = False) -> list[int]:
        """Ids of a text, runs of spaces as one separator; with `trailing` one after the last word too, as fairseq does.

        Raises:
            InputError: a character that is not in the vocabulary, with its code point and what to do.
        """
        for character in text:
            if character not in self.letters and not character.isspace():
                raise InputError(f"{character!r} (U+{ord(character):04X}) in {text[:60]!r} is not in the vocabulary "
                                 f"({self._shown()}); normalise the transcripts (case, digits, punctuation) first")
        spelled = SEPARATOR.join(text.split())
        return [self._ids[c] for c in spelled + (SEPARATOR if trailing and spelled else "")]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of symbol ids (not of frames); the blank and specials such as `<unk>` say nothing."""
        said = (self.symbols[i] for i in ids if i != self.blank)
        return " ".join("".join(" " if s == SEPARATOR else s for s in said if not _SPECIAL.fullmatch(s)).split())

    def collapse(self, frames: Sequence[int]) -> list[int]:
        """CTC: join equal neighbours, then drop blanks."""
        return [i for i, _ in groupby(frames) if i != self.blank]

    def save(self, path: Path) -> None:
        """Write `vocab.json` as transformers has it: symbol -> id."""
        write_json(path, {symbol: i for i, symbol in enumerate(self.symbols)})

    @staticmethod
    def load(path: Path) -> Vocabulary:
        """Read `vocab.json`; the blank is `<pad>`, or `[PAD]`, `-`, `<blank>` in others' files.

        Raises:
            FormatError: not a mapping to the ids 0, 1, 2, ..., or no blank that we know.
        """
        content = read_json(path)
        if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
            raise FormatError(f"{path}: expected a mapping from symbols to the ids 0, 1, 2, ... without gaps")
        symbols = tuple(sorted(content, key=lambda s: int(content[s])))
        blanks = [s for s in (BLANK, "[PAD]", "<blank>", "-") if s in content]
        if not blanks:
            raise FormatError(f"{path}: no blank: expected one of {BLANK}, [PAD], <blank>, - among the symbols")
        try:
            return Vocabulary(symbols, symbols.index(blanks[0]))
        except InputError as error:
            raise FormatError(f"{path}: {error}") from error

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def _shown(self) -> str:
        single = [s for s in self.symbols if s in self.letters]
        return "".join(single) if len(single) <= 40 else f"{len(single)} characters"


def spelled_as(text: str, letters: frozenset[str]) -> str:
    """The words of a text, joined by single spaces, in the form of Unicode that a recogniser spells them in.

    Files of macOS and Korean texts often have letters apart from their accents (NFD), where symbols have them as one.

    Args:
        text: of any form.
        letters: that the recogniser's words are made of.

    Returns:
        Each word as it is, or in NFC or NFD where only that consists of the letters; as it is where none does.
    """
    found = []
    for word in text.split():
        forms = (word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word))
        found.append(next((form for form in forms if letters.issuperset(form)), word))
    return " ".join(found)
