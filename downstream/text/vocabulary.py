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

from upstream.disk import read_json, write_json
from upstream.errors import FormatError, InputError

SEPARATOR = "|"  # between words
BLANK = "<pad>"  # the CTC blank, under the name that transformers gives it
BLANKS = (BLANK, "[PAD]", "<blank>", "-")  # as toolkits call it; of several in a vocabulary the first of these is it
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
        if self.blank not in range(len(self.symbols)) or self.symbols.count(SEPARATOR) != 1:
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
        """Blank, `|`, and every character of the texts in the order of their code points, an accent with its letter
        (`composed`); white space is the separator.

        Raises:
            InputError: a text with `|` in it, which could not be told from a space.
        """
        found: set[str] = set()
        for text in texts:
            found.update(composed(text))
            if SEPARATOR in found:
                raise InputError(f"{text[:60]!r} holds {SEPARATOR!r}, which stands for the space between words; take "
                                 "it out first")
        return Vocabulary((BLANK, SEPARATOR, *sorted(c for c in found if not c.isspace())))

    @cached_property
    def letters(self) -> frozenset[str]:
        """The characters that words can be spelled with."""
        single = (s for i, s in enumerate(self.symbols) if len(s) == 1 and i != self.blank)
        return frozenset(single) - {SEPARATOR}

    def encode(self, text: str, trailing: bool = False) -> list[int]:
        """Ids of a text, runs of spaces as one separator; with `trailing` one after the last word too, as fairseq does.

        Letters and their accents are taken in the form of Unicode that the symbols have (`spelled_as`).

        Raises:
            InputError: no text, or a character that is not in the vocabulary, with its code point and what to do.
        """
        if not isinstance(text, str):
            raise InputError(f"{text!r:.40}: expected text to encode")
        spelled = spelled_as(text, self.letters)
        if (odd := self._odd(spelled)) is not None:
            odd = self._odd(composed(text)) or odd
            raise InputError(f"{odd!r} (U+{ord(odd):04X}) in {text[:60]!r} is not in the vocabulary "
                             f"({self.shown()}); normalise the transcripts (case, digits, punctuation) first")
        spelled = SEPARATOR.join(spelled.split())
        return [self._ids[c] for c in spelled + (SEPARATOR if trailing and spelled else "")]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of symbol ids (not of frames); the blank and specials such as `<unk>` say nothing. Raises InputError
        for an id of no symbol."""
        ids = list(ids)
        odd = next((i for i in ids if not 0 <= i < len(self.symbols)), None)
        if odd is not None:
            raise InputError(f"id {odd}: the vocabulary has {len(self.symbols)} symbols, counted from 0")
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
        """Read `vocab.json`; the blank is `<pad>`, or `[PAD]`, `<blank>`, `-` in others' files.

        Raises:
            FormatError: not a mapping to the ids 0, 1, 2, ..., or no blank that we know.
        """
        content = read_json(path)
        if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
            raise FormatError(f"{path}: expected a mapping from symbols to the ids 0, 1, 2, ... without gaps")
        symbols = tuple(sorted(content, key=lambda s: int(content[s])))
        blank = named_blank(symbols)
        if blank is None:
            raise FormatError(f"{path}: no blank: expected one of {', '.join(BLANKS)} among the symbols")
        try:
            return Vocabulary(symbols, blank)
        except InputError as error:
            raise FormatError(f"{path}: {error}") from error

    def shown(self) -> str:
        """The letters in a row or, of many, their number."""
        single = [seen(s) for s in self.symbols if s in self.letters]
        return "".join(single) if len(single) <= 40 else f"{len(single)} characters"

    def _odd(self, text: str) -> str | None:
        """The first character of a text that no word can be spelled with."""
        return next((c for c in text if c not in self.letters and not c.isspace()), None)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}


def seen(character: str) -> str:
    """A character as it can be read: a mark on a circle, or it would sit on its neighbour; what is not seen by its
    number."""
    if hidden(character):
        return f"U+{ord(character):04X}"
    return f"\u25cc{character}" if unicodedata.category(character).startswith("M") else character


def named(character: str) -> str:
    """A character in a message: in quotes, with its number where it may look like another one."""
    return repr(character) if character.isascii() else f"{seen(character)!r} (U+{ord(character):04X})"


def hidden(character: str) -> bool:
    """Whether nothing is seen of a character, such as a mark of direction, though it is no white space."""
    return unicodedata.category(character) in ("Cf", "Cc", "Co", "Cn", "Cs")


def composed(text: str) -> str:
    """A text in Unicode's NFC: a letter and its accent are one character where there is one, whatever program wrote
    them."""
    return unicodedata.normalize("NFC", text)


def named_blank(symbols: Sequence[str]) -> int | None:
    """Which of the symbols is the blank, by its name; None if none has such a name."""
    return next((symbols.index(name) for name in BLANKS if name in symbols), None)


def spelled_as(text: str, letters: frozenset[str]) -> str:
    """The words of a text, joined by single spaces, in the form of Unicode that a recogniser spells them in.

    Files of macOS and Korean texts often have letters apart from their accents (NFD), where symbols have them as one.

    Args:
        text: of any form.
        letters: that the recogniser's words are made of.

    Returns:
        Each word in NFC or, where that does not consist of the letters, as it is or in NFD; as it is where none does.
    """
    return " ".join(spelled_word(word, letters) for word in text.split())


def spelled_word(word: str, letters: frozenset[str]) -> str:
    """As `spelled_as`, of a single word."""
    whole = composed(word)  # first: where some accents are symbols of their own, no letter has two spellings
    if letters.issuperset(whole):
        return whole
    return next((form for form in (word, unicodedata.normalize("NFD", word)) if letters.issuperset(form)), word)
