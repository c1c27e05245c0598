"""Lines of an ARPA file, plain or gzipped, and what parts it: `\\data\\`, `\\1-grams:`, `\\end\\`.

Whatever is wrong with a file is said in one line that names the file and, from the first line read on, its line.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from downstream.given_files import check_lasting
from downstream.lm.array_file import holds_arrays
from upstream.errors import FormatError

LN10 = math.log(10.0)  # the files hold logarithms of base 10
UNKNOWNS = ("<unk>", "<UNK>")  # either is the unknown word to KenLM; of both we keep the second as a word, and say so
MISSING_UNKNOWN = -100.0  # log10, of `<unk>` in a model without it: KenLM's own choice


@contextlib.contextmanager
def arpa_lines(path: Path) -> Iterator[Lines]:
    """The lines of a file.

    Raises:
        UsageError: no such file.
        FormatError: an empty file, packed arrays, one that is not UTF-8, or a gzip file that is broken or cut short.
    """
    path = Path(path)
    check_lasting(path)
    if not path.stat().st_size:
        raise FormatError(f"{path}: an empty file (0 bytes); build the model again")
    if holds_arrays(path):
        raise FormatError(f"{path}: packed arrays, which only the batched decoder reads; give the ARPA file")
    with open(path, "rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        lines = Lines(path, io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 16) if zipped else raw)  # type: ignore[arg-type]
        try:
            yield lines
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise lines.fault(f"cannot be read on as an ARPA file ({error}); is it whole?") from error


class Lines:
    """Lines one after another, or many at a time.

    Attributes:
        path: of the file.
        number: of the last line read, from 1.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.number = path, 0
        self._file = file

    def next(self) -> str:
        """One line without its end. Raises FormatError after the last one."""
        line = self._file.readline()
        if not line:
            raise self.fault("the file ends here, before \\end\\; it was cut short")
        self.number += 1
        return line.rstrip(b"\r\n").decode()

    def filled(self) -> str:
        """The next line that is not blank, without white space around it."""
        line = self.next().strip()
        while not line:
            line = self.next().strip()
        return line

    def block(self, rows: int) -> list[bytes]:
        """So many lines as they are, fewer where the file ends."""
        found: list[bytes] = []
        try:
            found.extend(islice(self._file, rows))
        finally:  # a broken file gives some lines before it fails
            self.number += len(found)
        return found

    def fault(self, message: str, number: int | None = None) -> FormatError:
        """What is wrong with the line read last, or with another."""
        number = self.number if number is None else number
        return FormatError(f"{self.path}, line {number}: {message}" if number else f"{self.path}: {message}")


def header(lines: Lines) -> list[int]:
    """n-grams of each order, as the header says. Before it may stand comments, lines that begin with `#`."""
    line = lines.filled()
    while line.startswith("#"):
        line = lines.filled()
    if line != "\\data\\":
        raise lines.fault(f"not an ARPA file: expected \\data\\, found {line[:40]!r}")
    sizes: list[int] = []
    line = lines.next()
    while line.strip():
        order, equals, size = line.removeprefix("ngram ").partition("=")
        if not (line.startswith("ngram ") and equals and re.fullmatch(r"[0-9]{1,18}", size.strip())
                and order.strip() == str(len(sizes) + 1)):
            raise lines.fault(f"{line[:40]!r}, expected ngram {len(sizes) + 1}=COUNT")
        sizes.append(int(size))
        line = lines.next()
    if not sizes:
        raise lines.fault("no counts of n-grams after \\data\\")
    return sizes


def section(lines: Lines, order: int) -> None:
    """Go to the first n-gram of an order."""
    line = lines.filled()
    if line != f"\\{order}-grams:":
        raise lines.fault(f"expected \\{order}-grams:, found {line[:40]!r}; does the header say how many n-grams "
                          "there are?")


def too_few(lines: Lines, order: int, found: int, size: int, number: int | None = None) -> FormatError:
    """An order has fewer n-grams than the header says."""
    return lines.fault(f"{found} {order}-grams, the header says {size}; cut short?", number)


def odd_unknowns(lines: Lines, unigrams: int, found: Collection[str]) -> str | None:
    """What is to be said of the names that a model has for the unknown word, after its unigrams have been read; None
    where it has one of `UNKNOWNS`."""
    where = f"{lines.path}, lines {lines.number - unigrams + 1} to {lines.number}"
    if not found:
        return (f"{where}: no <unk> among the 1-grams; words that the model does not know have a log10 probability of "
                f"{MISSING_UNKNOWN:g}")
    if len(found) > 1:
        return (f"{where}: both <unk> and <UNK> among the 1-grams; KenLM takes them for one word, and its scores are "
                "others than ours: build the model again from text without <UNK>")
    return None


def end(lines: Lines) -> None:
    """What must follow the last n-gram."""
    line = lines.filled()
    if line != "\\end\\":
        raise lines.fault(f"expected \\end\\, found {line[:40]!r}; the file is cut short")
