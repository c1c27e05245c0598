"""ARPA files: the format in which every toolkit reads n-gram models. Plain or, by the name `.gz`, compressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from downstream.lm.kneser_ney import NGramModel
from upstream.errors import FormatError, UsageError
from upstream.stage import writing

_ROWS = 200_000  # lines formatted at a time

Table = dict[tuple[str, ...], tuple[float, float]]


def write_arpa(model: NGramModel, path: Path) -> None:
    """Write a model atomically. The highest order has no back-off column; numbers have seven digits."""
    path = Path(path)
    with writing(path) as temporary, _create(temporary, path.suffix == ".gz") as file:
        file.write("\\data\\\n")
        for k, grams in enumerate(model.orders, 1):
            file.write(f"ngram {k}={len(grams)}\n")
        texts = list(model.words)
        for k, grams in enumerate(model.orders, 1):
            file.write(f"\n\\{k}-grams:\n")
            if k > 1:
                texts = [f"{texts[p]} {model.words[w]}" for p, w in zip(grams.prefix.tolist(), grams.word.tolist())]
            for first in range(0, len(texts), _ROWS):
                part = slice(first, first + _ROWS)
                file.write(_block(texts[part], grams.logprob[part], grams.backoff[part], k < len(model.orders)))
        file.write("\n\\end\\\n")


def read_arpa(path: Path) -> list[Table]:
    """All n-grams of a file: for each order {words: (log10 probability, log10 back-off)}.

    Raises:
        UsageError: no such file.
        FormatError: naming the line: no ARPA file, truncated, or counts that differ from the header's.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with _open(path) as file:
            return _parse(path, enumerate((line.rstrip("\n") for line in file), 1))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise FormatError(f"{path}: cannot be read as an ARPA file ({error})") from error


def _block(texts: list[str], logprob: np.ndarray, backoff: np.ndarray, with_backoff: bool) -> str:
    if with_backoff:
        rows = zip(logprob.tolist(), texts, backoff.tolist())
        return "".join(f"{p:.7g}\t{t}\t{b:.7g}\n" for p, t, b in rows)
    return "".join(f"{p:.7g}\t{t}\n" for p, t in zip(logprob.tolist(), texts))


def _parse(path: Path, lines: Iterator[tuple[int, str]]) -> list[Table]:
    sizes, number, line = _header(path, lines)
    tables: list[Table] = []
    for order, size in enumerate(sizes, 1):
        if line != f"\\{order}-grams:":
            raise FormatError(f"{path}, line {number}: expected \\{order}-grams:, found {line[:40]!r}")
        table: Table = {}
        number, line = _next(path, lines)
        while line and not line.startswith("\\"):
            words, values = _entry(path, number, line, order)
            table[words] = values
            number, line = _next(path, lines)
        if len(table) != size:
            raise FormatError(f"{path}, line {number}: {len(table)} {order}-grams, the header says {size}; cut short?")
        tables.append(table)
        number, line = _after_blank(path, lines, number, line)
    if line != "\\end\\":
        raise FormatError(f"{path}, line {number}: expected \\end\\, found {line[:40]!r}; the file is cut short")
    return tables


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[list[int], int, str]:
    number, line = _after_blank(path, lines, *_next(path, lines))
    if line.strip() != "\\data\\":
        raise FormatError(f"{path}, line {number}: not an ARPA file: expected \\data\\, found {line[:40]!r}")
    sizes: list[int] = []
    number, line = _next(path, lines)
    while line.startswith("ngram "):
        order, _, size = line.removeprefix("ngram ").partition("=")
        if order.strip() != str(len(sizes) + 1) or not size.strip().isdigit():
            raise FormatError(f"{path}, line {number}: {line!r}, expected ngram {len(sizes) + 1}=COUNT")
        sizes.append(int(size))
        number, line = _next(path, lines)
    return sizes, *_after_blank(path, lines, number, line)


def _entry(path: Path, number: int, line: str, order: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    fields = line.split("\t")
    words = tuple(fields[1].split(" ")) if len(fields) in (2, 3) else ()
    try:
        values = (float(fields[0]), float(fields[2]) if len(fields) == 3 else 0.0)
    except (ValueError, IndexError):
        words = ()
        values = (0.0, 0.0)
    if len(words) != order:
        raise FormatError(f"{path}, line {number}: {line[:60]!r} is no {order}-gram")
    return words, values


def _next(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[int, str]:
    for found in lines:
        return found
    raise FormatError(f"{path}: ends before \\end\\; the file is cut short")


def _after_blank(path: Path, lines: Iterator[tuple[int, str]], number: int, line: str) -> tuple[int, str]:
    while not line.strip():
        number, line = _next(path, lines)
    return number, line


def _create(path: Path, compressed: bool) -> TextIO:
    if compressed:
        return io.TextIOWrapper(gzip.GzipFile(path, "wb", 6, mtime=0), encoding="utf-8", newline="\n")
    return open(path, "w", encoding="utf-8", newline="\n")


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8")
    return open(path, encoding="utf-8")
