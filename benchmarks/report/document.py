"""What a report says, before it is a page, LaTeX or Markdown: sections of paragraphs, tables, figures and facts.

All texts are plain: who writes a format escapes them, so a name from a file can never become markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MINUS = "−"
_JOINERS = "\u200c\u200d"  # which Persian and the scripts of India spell words with


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it says, and smaller beside it how sure that is."""

    text: str = ""
    detail: str = ""  # an interval, a deviation
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """The head of a column; numbers stand at its right edge."""

    head: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many in each as there are columns.

    Attributes:
        name: letters and hyphens; what LaTeX's label and the page's anchor are made of.
        note: what a reader must know to read it, below.
        paper: whether it is one of those that papers print (`tables.tex`).
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    paper: bool = True


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG, made by us and therefore the one text that is not escaped."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Points:
    """Sentences, one below the other."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Terms and what they are; `code` are those set as a program would print them."""

    title: str
    pairs: tuple[tuple[str, str], ...]
    code: frozenset[str] = frozenset({"command"})


@dataclass(frozen=True)
class Listing:
    """A long text that is there for whoever wants to look it up: a recipe."""

    title: str
    text: str


@dataclass(frozen=True)
class Aligned:
    """An utterance with its errors: pairs of reference and hypothesis, None where one of them has no word."""

    title: str
    pairs: tuple[tuple[str | None, str | None], ...]


Block = Table | Figure | Paragraph | Points | Facts | Listing | Aligned


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    name: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        lead: the sentences that a reader in a hurry reads.
        records: what was measured, in full: {table: rows}; the CSV file.
    """

    title: str
    subtitle: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    records: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """Those of papers, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Table) and b.paper]


def grouped(table: Table) -> bool:
    """Whether names in the first column come several times, so that a line may stand between them."""
    return not table.columns[0].numeric and len({row[0].text for row in table.rows}) < len(table.rows)


def shown(text: str) -> str:
    """A text in which no character steers what stands around it: control characters, those that turn the direction of
    writing and halves of surrogate pairs as their numbers, line breaks as spaces."""
    return "".join(" " if c in "\t\n\r" else c if _is_plain(c) else f"\\u{ord(c):04x}" for c in text)


def _is_plain(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def number(value: float, digits: int, sign: str = "") -> str:
    """`-1.25` with a minus sign that is one; `sign` as in format specifications. What rounds to 0 has none."""
    text = f"{value:{sign}.{digits}f}"
    return (text if float(text) else f"{0:.{digits}f}").replace("-", MINUS)


def interval(ends: Sequence[float] | None, digits: int, sign: str = "") -> str:
    """`[1.2, 3.4]`, and nothing where there is none."""
    return "" if ends is None else f"[{', '.join(number(end, digits, sign) for end in ends)}]"


def counted(count: int, what: str) -> str:
    """`1 word`, `2 words`, `5,010 words`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def first_of(words: Sequence[str], most: int) -> str:
    """As `listed`, of more than `most` the first and how many more there are: `a, b and 3 more`."""
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return listed([*words[:most], *more])
