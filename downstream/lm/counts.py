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
from pathlib import Path

import numpy as np

from upstream.errors import InputError, UsageError

UNK, BOS, EOS = 0, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
_SPACES = bytes.maketrans(b"\t\r\0", b"   ")
_READ = 1 << 24  # bytes at a time

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


def read_text(paths: Sequence[Path], skip_symbols: bool = False) -> Text:
    """Read plain or gzipped texts, one sentence a line, as one text.

    Words are split at spaces, tabs, carriage returns and NUL; nothing else is normalised. A blank line is a sentence of
    no words; a last line without a newline gets no `</s>` (all as lmplz does).

    Args:
        skip_symbols: treat `<s>`, `</s>` and `<unk>` in the text as white space instead of refusing them.

    Raises:
        UsageError: a file that is not there.
        InputError: a special word in the text, a file that is not UTF-8 or a broken gzip file.
    """
    ids: defaultdict[bytes, int] = defaultdict()
    ids.default_factory = ids.__len__
    for special in SPECIALS:
        ids[special.encode()]
    parts: list[np.ndarray] = []
    for path in paths:
        for number, line, ended in _lines(Path(path)):
            words = line.split()
            if b"<" in line:
                words = _without_specials(words, path, number, skip_symbols)
            found = [BOS, *[ids[w] for w in words]]
            parts.append(np.array([*found, EOS] if ended else found, np.int32))
    tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)
    try:
        return Text([word.decode("utf-8") for word in ids], tokens)
    except UnicodeDecodeError as error:
        raise InputError(f"{', '.join(map(str, paths))}: a word is not UTF-8 text: {error.object[:40]!r}") from error


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


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Line number, bytes, and whether a newline ended it."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    rest, number = b"", 0
    try:
        with opened as file:
            while block := file.read(_READ):
                *whole, rest = (rest + block.translate(_SPACES)).split(b"\n")
                for line in whole:
                    number += 1
                    yield number, line, True
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it a whole gzip file?") from error
    if rest:
        yield number + 1, rest, False


def _without_specials(words: list[bytes], path: Path, number: int, skip: bool) -> list[bytes]:
    bad = [w for w in words if w in (b"<s>", b"</s>", b"<unk>")]
    if bad and not skip:
        raise InputError(f"{path}, line {number}: {bad[0].decode()} is a special word of language models; take it "
                         "out of the text or give --skip-symbols")
    return [w for w in words if w not in bad]
