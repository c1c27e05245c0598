"""Lexicons: how words are spelled in a recogniser's symbols; lines `WORD<tab>W O R D |`, as flashlight reads them.

A list of words, one a line, is read as a lexicon too: each word is spelled by its characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from downstream.given_files import check_readable
from downstream.text.vocabulary import SEPARATOR, Vocabulary, composed, spelled_word
from upstream.disk import writing
from upstream.errors import FormatError, InputError, some_of

Spelling = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Words and their spellings.

    Attributes:
        spellings: of every word, in the order of the file; a word may have several. Each ends with the word separator.
    """

    spellings: dict[str, tuple[Spelling, ...]]

    def __len__(self) -> int:
        return len(self.spellings)

    @property
    def words(self) -> list[str]:
        """In the order of the file."""
        return list(self.spellings)

    @staticmethod
    def spelled(words: Iterable[str], vocabulary: Vocabulary) -> Lexicon:
        """Every word by its characters and the separator, in the form of Unicode that the symbols have; a word given
        twice stands there once.

        Raises:
            InputError: words with characters that the vocabulary lacks, empty ones, or none at all.
        """
        unique = list(dict.fromkeys(spelled_word(word, vocabulary.letters) for word in words))
        bad = [word for word in unique if not word or not vocabulary.letters.issuperset(word)]
        if bad:
            raise InputError(f"{len(bad)} of {len(unique)} words cannot be spelled in the recogniser's symbols: "
                             f"{some_of([_named(word, vocabulary) for word in bad])}; normalise them or leave them out")
        if not unique:
            raise InputError("no words to make a lexicon of")
        return Lexicon({word: ((*word, SEPARATOR),) for word in unique})

    def save(self, path: Path) -> None:
        """Write the lexicon, UTF-8, atomically."""
        lines = (f"{word}\t{' '.join(spelling)}\n" for word, all_ in self.spellings.items() for spelling in all_)
        with writing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)

    @property
    def by_characters(self) -> bool:
        """Whether every word has one spelling, by its characters."""
        return all(each == ((*word, SEPARATOR),) for word, each in self.spellings.items())

    @staticmethod
    def load(path: Path, vocabulary: Vocabulary | None = None) -> Lexicon:
        """Read a lexicon or a list of words for the recogniser that has this vocabulary. Empty lines are passed over.

        Without a vocabulary any symbol will do, and spellings may lack the separator, so that a file can be looked at.

        Raises:
            UsageError: no such file.
            InputError: as `spelled`, of a list of words.
            FormatError: naming the line: no tab, no spelling, a symbol that the vocabulary lacks, no separator at the
                end, a spelling twice.
        """
        path = Path(path)
        check_readable(path, "no such lexicon")
        lines = _read(path).split("\n")
        if _is_list(path, lines):
            return _of_list(path, {n: line.strip() for n, line in enumerate(lines, 1) if line.strip()}, vocabulary)
        known = None if vocabulary is None else frozenset(vocabulary.symbols)
        found: dict[str, tuple[Spelling, ...]] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            word, spelling = _entry(f"{path}, line {number}", line.rstrip("\r"), known)
            if spelling in found.get(word, ()):
                raise FormatError(f"{path}, line {number}: {word!r} has this spelling already; take the line out")
            found[word] = (*found.get(word, ()), spelling)
        if not found:
            raise FormatError(f"{path}: no words; expected lines such as WORD<tab>W O R D {SEPARATOR}")
        return Lexicon(found)


def _is_list(path: Path, lines: list[str]) -> bool:
    """Whether lines are a list of words and no lexicon: most are one word. Raises FormatError where others are not."""
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    longer = [(number, line) for number, line in filled if " " in line or "\t" in line]
    if len(filled) <= 2 * len(longer):
        return False
    if longer:
        number, line = longer[0]
        raise FormatError(f"{path}, line {number}: {line[:60]!r}, expected one word, as most lines have")
    return True


def _of_list(path: Path, words: dict[int, str], vocabulary: Vocabulary | None) -> Lexicon:
    """Of words by the numbers of their lines."""
    if vocabulary is None:
        return Lexicon({word: ((*word, SEPARATOR),) for word in words.values()})
    try:
        return Lexicon.spelled(list(words.values()), vocabulary)
    except InputError as error:
        letters = vocabulary.letters
        number = next((n for n, word in words.items() if not letters.issuperset(spelled_word(word, letters))), None)
        raise InputError(f"{path}{'' if number is None else f', line {number}'}: {error}") from error


def _entry(where: str, line: str, known: frozenset[str] | None) -> tuple[str, Spelling]:
    if known is not None and not known.issuperset(line.partition("\t")[2].split()):  # as files of macOS may be
        line = composed(line)
    word, tab, spelled = line.partition("\t")
    spelling = tuple(spelled.split())
    if not (word and tab and spelling) or word != word.strip() or " " in word:
        raise FormatError(f"{where}: {line[:60]!r}, expected WORD<tab>W O R D {SEPARATOR}")
    unknown = [] if known is None else [symbol for symbol in spelling if symbol not in known]
    if unknown:
        raise FormatError(f"{where}: the recogniser has no symbol {unknown[0]!r}; is the lexicon another recogniser's?")
    if known is not None and spelling[-1] != SEPARATOR:
        raise FormatError(f"{where}: the spelling of {word!r} does not end with the word separator; write {SEPARATOR} "
                          "behind every spelling")
    return word, spelling


def _named(word: str, vocabulary: Vocabulary) -> str:
    odd = next((c for c in word if c not in vocabulary.letters), None)
    return repr(word) if odd is None else f"{word!r} (no {odd!r}, U+{ord(odd):04X})"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
