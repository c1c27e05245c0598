"""Texts as word ids: by first appearance after `<unk>` 0, `<s>` 1, `</s>` 2, as in KenLM."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from downstream.given_files import check_readable
from downstream.text.vocabulary import composed
from upstream.errors import InputError
from upstream.progress import say

UNK, BOS, EOS = 0, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
RESERVED = (*SPECIALS, "<UNK>")  # what a text may not hold: lmplz takes <UNK>, but to KenLM it is then a second <unk>
_RESERVED = frozenset(word.encode() for word in RESERVED)
_SPACES = bytes.maketrans(b"\t\r\0", b"   ")
_WORD = re.compile(r"[^ \t\n\v\f\r\0]+")
_NO_WIDTH = "\u200b"  # ends words of Thai and Khmer, and is no white space
_READ = 1 << 20  # bytes at a time
_TOKENS = 1 << 20  # handed on at a time
_LINES = 10_000  # between reports of progress

Progress = Callable[[float, float], None]


class _Ids(dict[bytes, int]):
    """Ids of words as they stand in a text. A new word gets the next id when it is looked up, and one that is not in
    Unicode's NFC that of the word that it looks like.

    Attributes:
        words: of every id.
        spaced: those that hold white space.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words: list[bytes] = []
        self.spaced: list[str] = []

    def __missing__(self, word: bytes) -> int:
        plain = word if word.isascii() else self._composed(word)
        if plain == word:
            self.words.append(word)
        self[word] = found = len(self.words) - 1 if plain == word else self[plain]
        return found

    def _composed(self, word: bytes) -> bytes:
        """Of what is no UTF-8 the same, which is told where words are listed."""
        try:
            text = composed(word.decode())
        except UnicodeDecodeError:
            return word
        if any(c.isspace() or c == _NO_WIDTH for c in text):
            self.spaced.append(text)
        return text.encode()

    def tell_spaced(self) -> None:
        """Say so where words hold white space."""
        if self.spaced:
            odd = next(c for c in self.spaced[0] if c.isspace() or c == _NO_WIDTH)
            say(f"warning: {len(self.spaced)} different words hold white space that parts no words here, such as "
                f"{self.spaced[0][:40]!r} with U+{ord(odd):04X}; make it spaces in the text first")


@dataclass(frozen=True)
class Text:
    """A text as word ids, `<s>` before and `</s>` after every sentence.

    Attributes:
        words: word of every id.
        tokens: (n,) int32.
    """

    words: list[str]
    tokens: np.ndarray


def read_text(paths: Sequence[Path], skip_symbols: bool = False, normalise: Callable[[str], str] | None = None,
              progress: Progress | None = None) -> Text:
    """Read plain or gzipped texts, one sentence a line, as one text.

    Words are split at spaces, tabs, carriage returns and NUL; other white space is a part of words, which is told. A
    blank line is a sentence of no words; a last line without a newline gets no `</s>` (all as lmplz does). Words are
    brought into Unicode's NFC, as symbols of recognisers are; nothing else is normalised. A byte order mark at the
    beginning of a file is no part of its first word.

    Args:
        skip_symbols: treat `<s>`, `</s>`, `<unk>` and `<UNK>` in the text as white space instead of refusing them.
        normalise: applied to every line without these, for instance `downstream.text.normalise.normalise`.
        progress: told the bytes read (compressed ones of gzipped files) and those there are; nothing of pipes.

    Raises:
        UsageError: a file that is not there.
        InputError: a special word in the text, a file that is not UTF-8, a broken gzip file, or no word at all.
    """
    ids = _specials()
    tokens = np.concatenate(list(_tokens(paths, ids, skip_symbols, normalise, progress)))
    return Text([_decoded(word, paths) for word in ids.words], tokens)


def read_words(path: Path, enough: Callable[[set[str]], bool]) -> set[str]:
    """The words of a text, as `read_text` has them, up to where there are enough: asked of the first million, and
    whenever there are twice as many. All of them where there never are. Raises as `read_text`."""
    ids, asked, read = _specials(), _TOKENS, 0
    found: set[str] = set()
    for tokens in _tokens([path], ids, False, None, None):
        read += len(tokens)
        if read >= asked:
            found.update(_decoded(word, [path]) for word in ids.words[len(SPECIALS):])
            if enough(found):
                return found
            asked = 2 * read
    return found.union(_decoded(word, [path]) for word in ids.words[len(SPECIALS):])


def split_words(sentence: str) -> list[str]:
    """The words of a sentence as they are of a text, but for vertical tabs and form feeds, which lmplz leaves in words
    and KenLM's scorer does not. Other white space than ASCII's, such as a no-break space, is a part of words."""
    return _WORD.findall(sentence)


def longest_ngram(tokens: np.ndarray) -> int:
    """Words of the longest sentence with its `<s>` and `</s>`: no n-gram is longer.

    Args:
        tokens: (n,) ids of whole sentences.
    """
    starts = np.flatnonzero(tokens == BOS)
    return int(np.diff(np.append(starts, len(tokens))).max(initial=0))


def read_text_to_file(paths: Sequence[Path], file: BinaryIO, skip_symbols: bool = False,
                      normalise: Callable[[str], str] | None = None,
                      progress: Progress | None = None) -> tuple[list[str], int]:
    """The same, but the tokens go into a file (int32); gives the words, and the words of the longest n-gram. For texts
    larger than the memory."""
    ids, longest = _specials(), 0
    for tokens in _tokens(paths, ids, skip_symbols, normalise, progress):
        file.write(tokens.data)
        longest = max(longest, longest_ngram(tokens))
    return [_decoded(word, paths) for word in ids.words], longest


def _specials() -> _Ids:
    ids = _Ids()
    for special in SPECIALS:
        ids[special.encode()]
    return ids


def _tokens(paths: Sequence[Path], ids: _Ids, skip_symbols: bool, normalise: Callable[[str], str] | None,
            progress: Progress | None) -> Iterator[np.ndarray]:
    """Ids of a text, some at a time, int32."""
    sizes = [_size(path) for path in paths]
    whole = sum(sizes)
    held, found, worded = array("i"), False, False
    for index, path in enumerate(paths):
        for line in _lines(Path(path)):
            if progress is not None and whole and line.number % _LINES == 0:
                progress(sum(sizes[:index]) + line.position, whole)
            content = line.content
            if b"<" in content:  # looked for before normalising, which would make words of them
                content = b" ".join(_without_specials(_words(content), path, line.number, skip_symbols))
            words = _words(content if normalise is None else _normalised(content, normalise, path))
            held.append(BOS)
            held.extend([ids[w] for w in words])
            if line.ended:
                held.append(EOS)
            worded = worded or bool(words)
            found = found or worded or line.ended
            if len(held) >= _TOKENS:
                yield np.array(held, np.int32)
                held = array("i")
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no text to estimate a language model from")
    if normalise is not None and not worded:
        raise InputError(f"{', '.join(map(str, paths))}: no word is left after normalising, which keeps A to Z and the "
                         "apostrophe; read text in other letters as it is (without --normalise)")
    ids.tell_spaced()
    yield np.array(held, np.int32)


class _Line(NamedTuple):
    """Of a text file.

    Attributes:
        number: from 1.
        content: bytes, white space made spaces.
        ended: by a newline.
        position: bytes of the file read so far; 0 of a pipe.
    """

    number: int
    content: bytes
    ended: bool
    position: int


def _lines(path: Path) -> Iterator[_Line]:
    rest, number, position, begun = b"", 0, 0, False
    try:
        with open(path, "rb") as raw, unpacked(raw, path) as file:
            while block := file.read(_READ):
                if not begun:
                    block = block.removeprefix(codecs.BOM_UTF8)
                begun, position = True, raw.tell() if raw.seekable() else 0  # pipes do not know where they are
                *whole, rest = (rest + block.translate(_SPACES)).split(b"\n")
                for content in whole:
                    number += 1
                    yield _Line(number, content, True, position)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it a whole gzip file?") from error
    if rest:
        yield _Line(number + 1, rest, False, position)


def unpacked(raw: BufferedReader, path: Path) -> BinaryIO | gzip.GzipFile:
    """Unpacked while reading, if it is gzipped: by its name or its first bytes."""
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" or raw.peek(2)[:2] == b"\x1f\x8b" else raw


def _size(path: Path) -> int:
    """Bytes of a file, as far as they are known before it is read."""
    check_readable(Path(path))
    return Path(path).stat().st_size  # 0 of a pipe


def _words(line: bytes) -> list[bytes]:
    """Split at spaces alone: `bytes.split()` would take form feeds, which lmplz leaves in words."""
    words = line.split(b" ")
    return [w for w in words if w] if b"" in words else words


def _normalised(line: bytes, normalise: Callable[[str], str], path: Path) -> bytes:
    return normalise(_decoded(line, [path])).encode()


def _decoded(content: bytes, paths: Sequence[Path]) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = content[max(0, error.start - 10):error.end + 10]
        raise InputError(f"{', '.join(map(str, paths))}: not UTF-8 text: {bad!r}; convert it first, for instance with "
                         "iconv") from error


def _without_specials(words: list[bytes], path: Path, number: int, skip: bool) -> list[bytes]:
    bad = [w for w in words if w in _RESERVED]
    if bad and not skip:
        raise InputError(f"{path}, line {number}: {bad[0].decode()} is a special word of language models; take it "
                         "out of the text, or skip such words (--skip-symbols)")
    return [w for w in words if w not in bad]
