"""ARPA files as sorted integer arrays, a million n-grams in a second or two.

Lines are cut into tokens many at a time, by where their spaces stand, and Arrow looks up the words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from downstream.lm.arpa_lines import (
    MISSING_UNKNOWN,
    UNKNOWNS,
    Lines,
    arpa_lines,
    end,
    header,
    odd_unknowns,
    section,
    too_few,
)
from downstream.lm.kneser_ney import Grams, NGramModel
from downstream.lm.reading import SPECIALS, Progress
from upstream.errors import FormatError

NEVER = -99.0  # log10, in place of minus infinity: the custom of ARPA files

_ROWS = 200_000  # lines read at a time
_ABOVE_ONE = 1e-5  # log10; less is rounding


def load_arpa(path: Path, progress: Progress | None = None, say: Callable[[str], None] | None = None) -> NGramModel:
    """All n-grams of an ARPA file, whoever wrote it, sorted by (prefix, word); without statistics.

    Args:
        path: plain or gzipped.
        progress: told the n-grams read and how many the header announces.
        say: told in a line where the model has no `<unk>`, or two; one of `MISSING_UNKNOWN` is added. `<UNK>` counts as
            one.

    Raises:
        UsageError: no such file.
        FormatError: naming the line: no ARPA file, cut short, counts that differ from the header's, an n-gram that
            stands there twice, has a word that is no unigram or a context that is no n-gram, a probability above 1,
            no `<s>` or no `</s>`.
    """
    with arpa_lines(path) as lines:
        sizes = header(lines)
        words, orders = _unigrams(_read(lines, 1, sizes, progress, None), say)
        known = pa.array(words, pa.large_string())  # as the file has them
        for order in range(2, len(sizes) + 1):
            orders.append(_longer(_read(lines, order, sizes, progress, known), orders))
        end(lines)
    return NGramModel([*SPECIALS[:1], *words[1:]], tuple(orders), ())


def rows_of(grams: Grams, prefix: np.ndarray, word: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of n-grams given by the rows of their contexts and by their last words, and whether they are there.

    Args:
        grams: n of one order.
        prefix, word: (m,) int64; nothing has a negative prefix.
        vocabulary: how many words there are.

    Returns:
        (m,) int64 in [0, n), of meaning where the second, (m,) bool, is true.
    """
    if not len(grams):
        return np.zeros(len(prefix), np.int64), np.zeros(len(prefix), bool)
    keys = grams.prefix * vocabulary + grams.word
    wanted = prefix * vocabulary + word
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return rows, (keys[rows] == wanted) & (prefix >= 0)


@dataclass(frozen=True)
class _Section:
    """The n-grams of one order as they stand in the file, from line `first` on.

    Attributes:
        words: (n, order) int64 ids; of order 1 the words themselves.
        logprob, backoff: (n,) float32.
    """

    lines: Lines
    order: int
    first: int
    words: np.ndarray
    logprob: np.ndarray
    backoff: np.ndarray

    def fault(self, row: int, message: str) -> FormatError:
        """What is wrong with a row."""
        return self.lines.fault(message, self.first + row)


def _read(lines: Lines, order: int, sizes: list[int], progress: Progress | None, known: pa.Array | None) -> _Section:
    section(lines, order)
    first, size, before = lines.number + 1, sizes[order - 1], sum(sizes[:order - 1])
    parts = []
    for done in range(0, size, _ROWS):
        start = lines.number
        block = lines.block(min(_ROWS, size - done))
        parts.append(_parsed(lines, start, order, block, known))
        if len(block) < min(_ROWS, size - done) or len(parts[-1][0]) < len(block):
            at = done + len(parts[-1][0])
            raise too_few(lines, order, at, size, min(first + at, lines.number))
        if progress is not None:
            progress(before + done + len(block), sum(sizes))
    empty = (np.empty((0, order), np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
    found = _Section(lines, order, first, *(np.concatenate(columns) for columns in zip(*(parts or [empty]))))
    high = np.flatnonzero(found.logprob > _ABOVE_ONE)
    if len(high):
        raise found.fault(int(high[0]), f"log10 probability of {found.logprob[high[0]]:g}; none may be above 0")
    return found


def _parsed(lines: Lines, start: int, order: int, block: list[bytes],
            known: pa.Array | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words, probabilities and back-offs of the lines after `start`, up to one that is blank or begins a section."""
    tokens, starts = _tokens(block)
    counts = np.diff(starts)
    bad = np.flatnonzero((counts != order + 1) & (counts != order + 2))
    if len(bad):
        line = block[bad[0]].rstrip(b"\r\n").decode(errors="replace")
        if line.strip() and not line.startswith("\\"):
            cut = "" if block[bad[0]].endswith(b"\n") else "; the file ends here, before \\end\\: it was cut short"
            raise lines.fault(f"{line[:60]!r} is no {order}-gram{cut}", start + 1 + int(bad[0]))
        starts, counts = starts[:bad[0] + 1], counts[:bad[0]]
    logprob = _numbers(lines, start, tokens, starts[:-1], np.arange(len(counts)))
    weighed = np.flatnonzero(counts == order + 2)
    backoff = np.zeros(len(counts), np.float32)
    backoff[weighed] = _numbers(lines, start, tokens, starts[weighed] + order + 1, weighed)
    texts = tokens.take(pa.array((starts[:-1, None] + np.arange(1, order + 1)).reshape(-1)))
    if known is None:
        return np.array(texts.to_pylist(), object)[:, None], logprob, backoff
    ids = pc.index_in(texts, value_set=known)
    if ids.null_count:
        at = int(np.flatnonzero(ids.is_null())[0])
        raise lines.fault(f"{texts[at].as_py()!r} is none of the 1-grams", start + 1 + at // order)
    return ids.to_numpy().astype(np.int64).reshape(-1, order), logprob, backoff


def _tokens(block: list[bytes]) -> tuple[pa.Array, np.ndarray]:
    """The tokens of lines, and which is the first of each line (one more at the end)."""
    text = b"".join(block).translate(bytes.maketrans(b"\t", b" "), b"\r")
    content = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
    apart = (content == 32) | (content == 10)
    places = np.flatnonzero(apart)
    lengths = np.diff(places, prepend=-1) - 1
    filled = lengths > 0
    offsets = np.append(0, np.cumsum(lengths[filled]))  # in the text without what parts its tokens
    tokens = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(content[~apart]))
    return tokens, np.append(0, np.cumsum(filled)[content[places] == 10])


def _numbers(lines: Lines, start: int, tokens: pa.Array, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    texts = tokens.take(pa.array(places))
    try:
        found = pc.cast(texts, pa.float32()).to_numpy()
    except pa.ArrowInvalid:
        found = np.array([_number(text) for text in texts.to_pylist()], np.float32)
    bad = np.flatnonzero(np.isnan(found) | (found == np.inf))
    if len(bad):
        raise lines.fault(f"{texts[int(bad[0])].as_py()[:40]!r} is no number", start + 1 + int(rows[bad[0]]))
    return np.where(np.isneginf(found), np.float32(NEVER), found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _unigrams(found: _Section, say: Callable[[str], None] | None) -> tuple[list[str], list[Grams]]:
    """The vocabulary as it is written, `<unk>` (or `<UNK>`), `<s>` and `</s>` first, and its n-grams."""
    written = found.words[:, 0].tolist()
    places = {word: row for row, word in enumerate(written)}
    if len(places) < len(written):
        twice = next(row for row, word in enumerate(written) if places[word] != row)
        raise found.fault(places[written[twice]], f"a second {written[twice]!r} among the 1-grams")
    for special in SPECIALS[1:]:
        if special not in places:
            raise found.lines.fault(f"no {special} among the 1-grams; the model cannot score sentences")
    logprob, backoff = found.logprob, found.backoff
    unknowns = [word for word in UNKNOWNS if word in places]
    if say is not None and (odd := odd_unknowns(found.lines, len(written), unknowns)):
        say(odd)
    unknown = next(iter(unknowns), UNKNOWNS[0])
    if not unknowns:
        places[unknown] = len(written)
        written.append(unknown)
        logprob, backoff = np.append(logprob, np.float32(MISSING_UNKNOWN)), np.append(backoff, np.float32(0))
    first = [places[word] for word in (unknown, *SPECIALS[1:])]
    order = np.array(first + [row for row in range(len(written)) if row not in first])
    size = len(order)
    return [written[row] for row in order], [Grams(np.zeros(size, np.int64), np.arange(size), logprob[order],
                                                   backoff[order])]


def _longer(found: _Section, orders: list[Grams]) -> Grams:
    """The n-grams of an order, sorted; their prefixes are looked up in the orders below."""
    vocabulary = len(orders[0])
    prefix = found.words[:, 0]
    for k, grams in enumerate(orders[1:], 2):
        prefix, there = rows_of(grams, prefix, found.words[:, k - 1], vocabulary)
        if not there.all():
            raise found.fault(int((~there).argmax()), f"the first {k} words of this {found.order}-gram are no "
                              f"{k}-gram; back-off models need them")
    word = found.words[:, -1]
    keys = prefix * vocabulary + word
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        raise found.fault(int(order[twice + 1].min()), f"this {found.order}-gram stands there twice")
    return Grams(prefix[order], word[order], found.logprob[order], found.backoff[order])
