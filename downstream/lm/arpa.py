"""ARPA files: the format in which every toolkit reads n-gram models. Plain or gzipped.

Lines are formatted by Arrow, a column at a time: ten million n-grams take some ten seconds.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from downstream.lm.arpa_lines import UNKNOWNS, Lines, arpa_lines, end, header, odd_unknowns, section, too_few
from downstream.lm.kneser_ney import NGramModel
from downstream.lm.reading import Progress
from upstream.disk import writing
from upstream.errors import FormatError

_ROWS = 200_000  # lines formatted at a time

Table = dict[tuple[str, ...], tuple[float, float]]


@dataclass(frozen=True)
class Block:
    """Some n-grams of one order.

    Attributes:
        ids: (n, k) rows of the words.
        logprob, backoff: (n,) float32, base 10; no back-off at the highest order.
    """

    ids: np.ndarray
    logprob: np.ndarray
    backoff: np.ndarray | None


def write_arpa(model: NGramModel, path: Path, progress: Progress | None = None) -> None:
    """Write a model atomically, gzipped if the name ends in `.gz`.

    Numbers are the shortest that give the same float32 again, as lmplz writes them. The highest order has no back-off
    column. `progress` is told the n-grams written and how many there are.
    """
    write_blocks(path, model.words, [len(grams) for grams in model.orders], _blocks_of(model), progress)


def write_blocks(path: Path, words: Sequence[str], sizes: Sequence[int], orders: Iterable[Iterable[Block]],
                 progress: Progress | None = None) -> None:
    """The same from n-grams that come some at a time; `sizes` says how many of each order will."""
    path = Path(path)
    done = 0
    with writing(path) as temporary, _create(temporary, path.suffix == ".gz") as file:
        header = "".join(f"ngram {k}={size}\n" for k, size in enumerate(sizes, 1))
        file.write(f"\\data\\\n{header}".encode())
        known = pa.array(words, pa.large_string())
        for k, blocks in enumerate(orders, 1):
            file.write(f"\n\\{k}-grams:\n".encode())
            for block in blocks:
                file.write(_text(known, block))
                done += len(block.ids)
                if progress is not None:
                    progress(done, sum(sizes))
        file.write(b"\n\\end\\\n")


def read_arpa(path: Path) -> list[Table]:
    """All n-grams of a file: for each order {words: (log10 probability, log10 back-off)}. For small models.

    Raises:
        UsageError: no such file.
        FormatError: naming the line: no ARPA file, cut short, counts that differ from the header's, an n-gram twice.
    """
    tables: list[Table] = []
    with arpa_lines(path) as lines:
        for order, size in enumerate(header(lines), 1):
            tables.append(dict(_entry(lines, line, order) for line in _section(lines, order, size)))
            if len(tables[-1]) != size:
                raise FormatError(f"{path}: {size - len(tables[-1])} of the {order}-grams stand there twice")
        end(lines)
    return tables


def ngram_counts(path: Path, progress: Progress | None = None, say: Callable[[str], None] | None = None) -> list[int]:
    """n-grams of each order, by the header and by counting the lines. Needs no memory to speak of.

    Args:
        progress: told the n-grams counted and how many the header announces.
        say: told in a line where the model has no `<unk>`, or two.

    Raises:
        UsageError, FormatError: as `read_arpa`, but of the n-grams only the words of the unigrams are looked at.
    """
    with arpa_lines(path) as lines:
        sizes = header(lines)
        unknowns: set[str] = set()
        for order, size in enumerate(sizes, 1):
            for found, line in enumerate(_section(lines, order, size)):
                if order == 1 and (word := _entry(lines, line, 1)[0][0]) in UNKNOWNS:
                    unknowns.add(word)
                if progress is not None and found % _ROWS == 0:
                    progress(sum(sizes[:order - 1]) + found, sum(sizes))
            if order == 1 and say is not None and (odd := odd_unknowns(lines, size, unknowns)):
                say(odd)
        end(lines)
    return sizes


def read_unigrams(path: Path) -> list[str]:
    """The words of a model, without `<unk>` (or `<UNK>`), `<s>` and `</s>`, in the order of the file.

    Raises:
        UsageError, FormatError: as `read_arpa`; what follows the unigrams is not looked at.
    """
    with arpa_lines(path) as lines:
        size = header(lines)[0]
        words = [_entry(lines, line, 1)[0][0] for line in _section(lines, 1, size)]
    unknown = next((word for word in UNKNOWNS if word in words), None)
    return [word for word in words if word not in (unknown, "<s>", "</s>")]


def _blocks_of(model: NGramModel) -> Iterator[Iterator[Block]]:
    """The n-grams of a model, whose words are found by going from order to order."""
    for k, grams in enumerate(model.orders):
        starts = range(0, len(grams), _ROWS)
        parts = (slice(first, first + _ROWS) for first in starts)
        yield (Block(_ids(model, k, part), grams.logprob[part],
                     None if k + 1 == len(model.orders) else grams.backoff[part]) for part in parts)


def _ids(model: NGramModel, k: int, part: slice) -> np.ndarray:
    """(n, k + 1) words of some n-grams of order k + 1."""
    grams = model.orders[k]
    if k == 0:
        return grams.word[part, None]
    columns, rows = [grams.word[part]], grams.prefix[part]
    for below in model.orders[k - 1::-1]:
        columns.append(below.word[rows])
        rows = below.prefix[rows]
    return np.stack(columns[::-1], 1)


def _text(words: pa.Array, block: Block) -> bytes:
    """N-grams as lines: with a newline in each, their text lies as a whole in the array's buffer."""
    text = _joined(" ", *(words.take(pa.array(ids)) for ids in block.ids.T))
    columns = [_numbers(block.logprob), text]
    if block.backoff is not None:
        columns.append(_numbers(block.backoff))
    lines = _joined("\n", _joined("\t", *columns), pa.scalar("", pa.large_string()))
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset:lines.offset + len(lines) + 1]
    return lines.buffers()[2][int(offsets[0]):int(offsets[-1])]


def _joined(separator: str, *columns: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*columns, pa.scalar(separator, pa.large_string()))


def _numbers(values: np.ndarray) -> pa.Array:
    return pc.cast(pa.array(values), pa.large_string())


def _section(lines: Lines, order: int, size: int) -> Iterator[str]:
    """The lines of an order, as many as the header says."""
    section(lines, order)
    for found in range(size):
        line = lines.next()
        if not line or line.startswith("\\"):
            raise too_few(lines, order, found, size)
        yield line


def _entry(lines: Lines, line: str, order: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    """Words, and log10 probability and back-off; columns are parted by tabs, or by any blanks in others' files."""
    fields = line.replace("\t", " ").split(" ")  # `split()` would also part words at no-break spaces
    if "" in fields:
        fields = [field for field in fields if field]
    words = tuple(fields[1:order + 1])
    try:
        values = (float(fields[0]), float(fields[order + 1]) if len(fields) == order + 2 else 0.0)
    except (ValueError, IndexError):
        words, values = (), (0.0, 0.0)
    if len(words) != order or len(fields) > order + 2:
        raise lines.fault(f"{line[:60]!r} is no {order}-gram")
    return words, values


@contextlib.contextmanager
def _create(path: Path, compressed: bool) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Neither a name nor a time in the gzip header: the same model gives the same bytes."""
    with open(path, "wb") as raw:
        if compressed:
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                yield packed
        else:
            yield raw
