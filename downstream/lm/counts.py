"""N-gram counts of a text as sorted integer arrays.

Words get ids by first appearance after `<unk>` 0, `<s>` 1, `</s>` 2, as in KenLM. An n-gram of order k is a row of
order k's arrays and points at its first and its last k - 1 words as rows of order k - 1: no table of tuples is needed.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from upstream.errors import InputError, UsageError

UNK, BOS, EOS = 0, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
_SPACES = bytes.maketrans(b"\t\r\0", b"   ")
_READ = 1 << 20  # bytes at a time
_LINES = 10_000  # between reports of progress

Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Text:
    """A text as word ids, `<s>` before and `</s>` after every sentence.

    Attributes:
        words: word of every id.
        tokens: (n,) int32.
    """

    words: list[str]
    tokens: np.ndarray


@dataclass(frozen=True)
class Order:
    """All different n-grams of one order, sorted by (prefix, word). `n` rows, int64 each.

    Attributes:
        prefix: row of the first k - 1 words in the order below (0 at order 1).
        suffix: row of the last k - 1 words in the order below (0 at order 1).
        word: id of the last word.
        count: occurrences.
        initial: bool; it starts with `<s>`.
    """

    prefix: np.ndarray
    suffix: np.ndarray
    word: np.ndarray
    count: np.ndarray
    initial: np.ndarray

    def __len__(self) -> int:
        return len(self.word)


def read_text(paths: Sequence[Path], skip_symbols: bool = False, normalise: Callable[[str], str] | None = None,
              progress: Progress | None = None) -> Text:
    """Read plain or gzipped texts, one sentence a line, as one text.

    Words are split at spaces, tabs, carriage returns and NUL; nothing else is normalised. A blank line is a sentence of
    no words; a last line without a newline gets no `</s>` (all as lmplz does).

    Args:
        skip_symbols: treat `<s>`, `</s>` and `<unk>` in the text as white space instead of refusing them.
        normalise: applied to every line first, for instance `downstream.text.normalise.normalise`.
        progress: told the bytes read (compressed ones of gzipped files) and those there are.

    Raises:
        UsageError: a file that is not there.
        InputError: a special word in the text, a file that is not UTF-8, a broken gzip file, or no word at all.
    """
    sizes = [_size(path) for path in paths]
    ids: defaultdict[bytes, int] = defaultdict()
    ids.default_factory = ids.__len__
    for special in SPECIALS:
        ids[special.encode()]
    parts: list[np.ndarray] = []
    for index, path in enumerate(paths):
        for line in _lines(Path(path)):
            if progress is not None and line.number % _LINES == 0:
                progress(sum(sizes[:index]) + line.position, sum(sizes))
            words = _words(line.content if normalise is None else _normalised(line.content, normalise, path))
            if b"<" in line.content:
                words = _without_specials(words, path, line.number, skip_symbols)
            found = [BOS, *[ids[w] for w in words]]
            parts.append(np.array([*found, EOS] if line.ended else found, np.int32))
    tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)
    if (tokens == BOS).all():
        raise InputError(f"{', '.join(map(str, paths))}: no text to estimate a language model from")
    return Text([_decoded(word, paths) for word in ids], tokens)


def count(text: Text, order: int, progress: Progress | None = None) -> list[Order]:
    """All n-grams of orders 1 to `order` that end at a word or `</s>`, and `<unk>` and `<s>` as unigrams of count 0.

    N-grams in which `<s>` stands anywhere but first do not exist here. Row i of order 1 is the word with id i.
    """
    tokens = text.tokens.astype(np.int64)
    size = len(text.words)
    predicted = tokens != BOS
    first = Order(np.zeros(size, np.int64), np.zeros(size, np.int64), np.arange(size),
                  np.bincount(tokens[predicted], minlength=size), np.arange(size) == BOS)
    orders, rows = [first], tokens  # rows[i]: row of the n-gram that ends at position i, -1 if there is none
    for number in range(2, order + 1):
        found, rows = _longer(orders[-1], rows, tokens, predicted, size)
        orders.append(found)
        if progress is not None:
            progress(number, order)
    return orders


def last_in_suffix_order(text: Text, order: int) -> list[int]:
    """Word ids of the n-gram that comes last when compared from its last word backwards, padded with `<s>`.

    lmplz leaves its suffixes' counts unadjusted in the counts of counts (see `kneser_ney`).
    """
    tokens = text.tokens
    ends = np.flatnonzero(tokens == tokens.max())
    starts = np.flatnonzero(tokens == BOS)
    best: list[int] = []
    for end in ends:
        begin = starts[np.searchsorted(starts, end, side="right") - 1]
        words = [int(w) for w in tokens[max(begin, end - order + 1):end + 1]][::-1]
        best = max(best, words + [BOS] * (order - len(words)))
    return best[::-1]


def _longer(below: Order, rows: np.ndarray, tokens: np.ndarray, predicted: np.ndarray,
            size: int) -> tuple[Order, np.ndarray]:
    """The n-grams one word longer, and their rows by position."""
    places = np.flatnonzero(predicted[1:] & (rows[:-1] >= 0)) + 1
    keys = rows[places - 1] * size + tokens[places]
    by_key = np.argsort(keys, kind="stable")
    ordered = keys[by_key]
    new = np.empty(len(ordered), bool)
    new[:1] = True
    new[1:] = ordered[1:] != ordered[:-1]
    firsts = np.flatnonzero(new)
    counts = np.diff(np.append(firsts, len(ordered)))
    example = places[by_key[firsts]]
    prefix = rows[example - 1]
    found = Order(prefix, rows[example], tokens[example], counts, below.initial[prefix])
    longer = np.full(len(rows), -1, np.int64)
    longer[places[by_key]] = np.cumsum(new) - 1
    return found, longer


class _Line(NamedTuple):
    """Of a text file.

    Attributes:
        number: from 1.
        content: bytes, white space made spaces.
        ended: by a newline.
        position: bytes of the file read so far.
    """

    number: int
    content: bytes
    ended: bool
    position: int


def _lines(path: Path) -> Iterator[_Line]:
    rest, number, position = b"", 0, 0
    try:
        with open(path, "rb") as raw, _plain(raw, path) as file:
            while block := file.read(_READ):
                position = raw.tell()
                *whole, rest = (rest + block.translate(_SPACES)).split(b"\n")
                for content in whole:
                    number += 1
                    yield _Line(number, content, True, position)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it a whole gzip file?") from error
    if rest:
        yield _Line(number + 1, rest, False, position)


def _plain(raw: BufferedReader, path: Path) -> BinaryIO | gzip.GzipFile:
    """Unpacked while reading, if it is gzipped: by its name or its first bytes."""
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" or raw.peek(2)[:2] == b"\x1f\x8b" else raw


def _size(path: Path) -> int:
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    return Path(path).stat().st_size


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
    bad = [w for w in words if w in (b"<s>", b"</s>", b"<unk>")]
    if bad and not skip:
        raise InputError(f"{path}, line {number}: {bad[0].decode()} is a special word of language models; take it "
                         "out of the text or give --skip-symbols")
    return [w for w in words if w not in bad]
