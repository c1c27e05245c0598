"""CTM files of many recordings, the usual form of Kaldi and NIST: whose each line is, its first column says."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upstream.errors import FormatError

COMMENT = ";;"  # begins a line that readers of CTM skip
_WORDS = re.compile(rf"^{COMMENT}\s*labels:\s*words\b", re.MULTILINE)

Span = tuple[int, int]  # bytes [start, end) of a file


def mark(labels: str) -> str:
    """The comment that says what the labels of a CTM are, `phones` or `words`."""
    return f"{COMMENT} labels: {labels}"


def holds_words(text: str) -> bool:
    """Whether a CTM says that its labels are words; most say nothing."""
    return _WORDS.search(text) is not None


@dataclass(frozen=True)
class CtmPart:
    """One utterance of a CTM file of many: the comments at the top of the file and its own lines.

    Attributes:
        path: of the file.
        utterance: as the first column has it.
        spans: of its lines; the first is that of the comments.
    """

    path: Path
    utterance: str
    spans: tuple[Span, ...]

    @property
    def suffix(self) -> str:
        """Of the file."""
        return self.path.suffix

    def read_bytes(self) -> bytes:
        """The lines of the utterance, as if they were a file. Raises OSError."""
        with open(self.path, "rb") as file:
            return b"".join(_piece(file, span) for span in self.spans)

    def __str__(self) -> str:
        return f"{self.path}, utterance {self.utterance}"


def _piece(file: BinaryIO, span: Span) -> bytes:
    file.seek(span[0])
    return file.read(span[1] - span[0])


def ctm_parts(path: Path) -> list[CtmPart]:
    """The utterances of a CTM in their order, lines of one not necessarily together; the file is read through once,
    and only where the lines are is kept.

    None are told of a file in UTF-16, which is Praat's habit and not that of those who write many into one.

    Raises FormatError for a file that cannot be read, or ids that are not UTF-8.
    """
    found: dict[bytes, list[Span]] = {}
    head = place = 0
    try:
        with open(path, "rb") as lines:
            for line in lines:
                end = place + len(line)
                name = line.removeprefix(codecs.BOM_UTF8).split(None, 1)[:1]
                if not place and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    return []
                if name and not name[0].startswith(COMMENT.encode()):
                    _lengthen(found.setdefault(name[0], []), (place, end))
                elif not found:
                    head = end
                place = end
        return [CtmPart(path, name.decode(), ((0, head), *spans)) for name, spans in found.items()]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as text ({error})") from error


def _lengthen(spans: list[Span], line: Span) -> None:
    if spans and spans[-1][1] == line[0]:
        spans[-1] = (spans[-1][0], line[1])
    else:
        spans.append(line)
