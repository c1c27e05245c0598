"""A report as Markdown, for model cards and pull requests: tables, cautions and how it was measured."""

from __future__ import annotations

import re
import unicodedata
from functools import singledispatch

from rich.cells import cell_len

from benchmarks.report.document import (
    Aligned,
    Block,
    Cell,
    Facts,
    Figure,
    Listing,
    Paragraph,
    Points,
    Report,
    Table,
    shown,
)

MARK = "<!-- Made by hubertkit report -->"  # by which a file is known as ours
_SPECIAL = re.compile(r"([\\`*_\[\]<>|&~$])")


def markdown(report: Report) -> str:
    """The report without its figures, which are in the page."""
    parts = [MARK, f"# {escaped(report.title)}", escaped(report.subtitle), _points(report.lead)]
    for section in report.sections:
        blocks = [text for text in map(_block, section.blocks) if text]
        if blocks:
            parts += [f"## {escaped(section.heading)}", *blocks]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", shown(text))


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"{type(block).__name__} has no form in Markdown")


@_block.register
def _(block: Paragraph) -> str:
    return escaped(block.text)


@_block.register
def _(block: Points) -> str:
    return _points(block.sentences)


@_block.register(Figure)
@_block.register(Listing)
def _(block: Figure | Listing) -> str:
    return ""


@_block.register
def _(block: Facts) -> str:
    title = f"### {escaped(block.title)}\n\n" if block.title else ""
    return title + "\n".join(f"- {escaped(term)}: {_code(value) if term in block.code else escaped(value)}"
                             for term, value in block.pairs)


@_block.register
def _(block: Table) -> str:
    lines = [_line([escaped(column.head) for column in block.columns]),
             _line(["---:" if column.numeric else "---" for column in block.columns])]
    lines += [_line(list(map(_cell, row))) for row in block.rows]
    note = f"\n\n{escaped(block.note)}" if block.note else ""
    return f"{escaped(block.caption)}\n\n" + "\n".join(lines) + note


@_block.register
def _(block: Aligned) -> str:
    """Words below each other, as sclite prints them: errors in capitals are not ours to choose, so they are marked."""
    above, below, marks = ["REF"], ["HYP"], ["   "]
    for reference, hypothesis in block.pairs:
        one, other = (_isolated(shown(word)) if word is not None else "*" for word in (reference, hypothesis))
        width = max(cell_len(one), cell_len(other))
        mark = "" if reference == hypothesis else "I" if reference is None else "D" if hypothesis is None else "S"
        for line, word in zip((above, below, marks), (one, other, mark)):
            line.append(word + " " * (width - cell_len(word)))
    lines = "\n".join("    " + " ".join(line).rstrip() for line in (above, below, marks))  # code by its indent
    return f"{escaped(block.title)}\n\n{lines}"


def _isolated(word: str) -> str:
    """A word that leaves what stands around it in its place, where it is written from the right to the left."""
    return f"\u2068{word}\u2069" if any(unicodedata.bidirectional(c) in ("R", "AL") for c in word) else word


def _points(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {escaped(sentence)}" for sentence in sentences)


def _cell(cell: Cell) -> str:
    text = f"**{escaped(cell.text)}**" if cell.strong and cell.text else escaped(cell.text)
    return f"{text} {escaped(cell.detail)}" if cell.detail else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """A text as code, between more backquotes than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", shown(text))), default=0))
    return f"{fence} {shown(text)} {fence}" if len(fence) > 1 else f"`{shown(text)}`"
