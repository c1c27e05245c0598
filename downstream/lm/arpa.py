"""ARPA files: the format in which every toolkit reads n-gram models. Plain or gzipped.

Lines are formatted by Arrow, a column at a time: ten million n-grams take some ten seconds.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from downstream.lm.kneser_ney import NGramModel
from upstream.errors import FormatError, UsageError
from upstream.stage import writing

_ROWS = 200_000  # lines formatted at a time

Progress = Callable[[float, float], None]
Table = dict[tuple[str, ...], tuple[float, float]]
Lines = Iterator[tuple[int, str]]


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
    with _lines(path) as lines:
        for order, size in enumerate(_header(path, lines), 1):
            entries = (_entry(path, number, line, order) for number, line in _section(path, lines, order, size))
            tables.append(dict(entries))
            if len(tables[-1]) != size:
                raise FormatError(f"{path}: {size - len(tables[-1])} of the {order}-grams stand there twice")
        _end(path, lines)
    return tables


def ngram_counts(path: Path, progress: Progress | None = None) -> list[int]:
    """n-grams of each order, by the header and by counting the lines. Needs no memory to speak of.

    `progress` is told the n-grams counted and how many the header announces.

    Raises:
        UsageError, FormatError: as `read_arpa`, but the n-grams themselves are not looked at.
    """
    with _lines(path) as lines:
        sizes = _header(path, lines)
        for order, size in enumerate(sizes, 1):
            for found, _ in enumerate(_section(path, lines, order, size)):
                if progress is not None and found % _ROWS == 0:
                    progress(sum(sizes[:order - 1]) + found, sum(sizes))
        _end(path, lines)
    return sizes


def read_unigrams(path: Path) -> list[str]:
    """The words of a model, without `<unk>`, `<s>` and `</s>`, in the order of the file.

    Raises:
        UsageError, FormatError: as `read_arpa`; what follows the unigrams is not looked at.
    """
    with _lines(path) as lines:
        size = _header(path, lines)[0]
        words = [_entry(path, number, line, 1)[0][0] for number, line in _section(path, lines, 1, size)]
    return [word for word in words if word not in ("<unk>", "<s>", "</s>")]


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


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Lines]:
    """Numbered lines of a file, plain or gzipped; whatever is wrong with reading them names the file."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with open(path, "rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if zipped else raw, "utf-8", newline="\n") as file:
                yield enumerate((line.rstrip("\r\n") for line in file), 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise FormatError(f"{path}: cannot be read as an ARPA file ({error}); is it whole?") from error


def _header(path: Path, lines: Lines) -> list[int]:
    """n-grams of each order, as the header says."""
    number, line = _filled(path, lines)
    if line != "\\data\\":
        raise FormatError(f"{path}, line {number}: not an ARPA file: expected \\data\\, found {line[:40]!r}")
    sizes: list[int] = []
    number, line = _next(path, lines)
    while line.strip():
        order, equals, size = line.removeprefix("ngram ").partition("=")
        if not (line.startswith("ngram ") and equals and size.strip().isdigit()
                and order.strip() == str(len(sizes) + 1)):
            raise FormatError(f"{path}, line {number}: {line[:40]!r}, expected ngram {len(sizes) + 1}=COUNT")
        sizes.append(int(size))
        number, line = _next(path, lines)
    if not sizes:
        raise FormatError(f"{path}, line {number}: no counts of n-grams after \\data\\")
    return sizes


def _section(path: Path, lines: Lines, order: int, size: int) -> Iterator[tuple[int, str]]:
    """The numbered lines of an order, as many as the header says."""
    number, line = _filled(path, lines)
    if line != f"\\{order}-grams:":
        raise FormatError(f"{path}, line {number}: expected \\{order}-grams:, found {line[:40]!r}; does the header say "
                          "how many n-grams there are?")
    for found in range(size):
        number, line = _next(path, lines)
        if not line or line.startswith("\\"):
            raise FormatError(f"{path}, line {number}: {found} {order}-grams, the header says {size}; cut short?")
        yield number, line


def _entry(path: Path, number: int, line: str, order: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    """Words, and log10 probability and back-off; columns are parted by tabs, or by spaces in others' files."""
    fields = line.replace("\t", " ").split(" ")
    words = tuple(fields[1:order + 1])
    try:
        values = (float(fields[0]), float(fields[order + 1]) if len(fields) == order + 2 else 0.0)
    except ValueError:
        words, values = (), (0.0, 0.0)
    if len(words) != order or len(fields) > order + 2:
        raise FormatError(f"{path}, line {number}: {line[:60]!r} is no {order}-gram")
    return words, values


def _end(path: Path, lines: Lines) -> None:
    number, line = _filled(path, lines)
    if line != "\\end\\":
        raise FormatError(f"{path}, line {number}: expected \\end\\, found {line[:40]!r}; the file is cut short")


def _next(path: Path, lines: Lines) -> tuple[int, str]:
    for found in lines:
        return found
    raise FormatError(f"{path}: ends before \\end\\; the file is cut short")


def _filled(path: Path, lines: Lines) -> tuple[int, str]:
    """The next line that is not blank."""
    number, line = _next(path, lines)
    while not line.strip():
        number, line = _next(path, lines)
    return number, line.strip()


@contextlib.contextmanager
def _create(path: Path, compressed: bool) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Neither a name nor a time in the gzip header: the same model gives the same bytes."""
    with open(path, "wb") as raw:
        if compressed:
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                yield packed
        else:
            yield raw
