"""A report as one HTML page that needs nothing else: no network, no scripts, its style and figures inside."""

from __future__ import annotations

from functools import singledispatch
from html import escape
from pathlib import Path

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
    Section,
    Table,
    grouped,
    shown,
)

MARK = '<meta name="generator" content="hubertkit report">'  # by which a page is known as ours
_FEW, _MANY = 4, 9  # columns that do not fill the page, and columns that only just fit when they are set smaller
_SHORT = 32  # characters of a name that stay on a line
_KEY = ('<p class="key">Reference above hypothesis: <span class="substituted">substituted</span>, '
        '<span class="deleted">deleted</span>, <span class="inserted">inserted</span>.</p>\n')
_STYLE = Path(__file__).with_name("page.css")


def page(report: Report) -> str:
    """The page; all texts escaped."""
    style = _STYLE.read_text(encoding="utf-8")
    title = _text(report.title)
    lead = "".join(f"<li>{_text(line)}</li>" for line in report.lead)
    links = "".join(f'<a href="#{_text(s.name)}">{_text(s.heading)}</a>' for s in report.sections)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f"<header>\n<h1>{title}</h1>\n<p>{_text(report.subtitle)}</p>\n</header>\n"
            f'<ul class="lead">{lead}</ul>\n<nav>{links}</nav>\n'
            + "".join(map(_section, report.sections))
            + "<footer>Made by <code>hubertkit report</code> from the files named above; every number is theirs or "
              "computed from them.</footer>\n</main>\n</body>\n</html>\n")


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    key = _KEY if any(isinstance(block, Aligned) for block in section.blocks) else ""
    return f'<section id="{_text(section.name)}">\n<h2>{_text(section.heading)}</h2>\n{key}{blocks}\n</section>\n'


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"{type(block).__name__} has no form on a page")


@_block.register
def _(block: Paragraph) -> str:
    return f"<p>{_text(block.text)}</p>"


@_block.register
def _(block: Points) -> str:
    return '<ul class="points">' + "".join(f"<li>{_text(s)}</li>" for s in block.sentences) + "</ul>"


@_block.register
def _(block: Figure) -> str:
    caption = f"{_text(block.name)}-caption"  # which is what a reader who sees no figure is told of it
    svg = block.svg.replace("<svg", f'<svg role="img" aria-labelledby="{caption}"', 1)
    return f'<figure>\n{svg}\n<figcaption id="{caption}">{_text(block.caption)}</figcaption>\n</figure>'


@_block.register
def _(block: Facts) -> str:
    title = f"<h3>{_text(block.title)}</h3>\n" if block.title else ""
    pairs = "".join(f"<dt>{_text(term)}</dt><dd>{f'<code>{_text(v)}</code>' if term in block.code else _text(v)}</dd>\n"
                    for term, v in block.pairs)
    return f"{title}<dl>\n{pairs}</dl>"


@_block.register
def _(block: Listing) -> str:
    text = "\n".join(map(_text, block.text.rstrip("\n").split("\n")))
    return f"<details><summary>{_text(block.title)}</summary><pre>{text}</pre></details>"


@_block.register
def _(block: Table) -> str:
    head = "".join(f'<th scope="col"{_class(column.numeric)}>{_text(column.head)}</th>' for column in block.columns)
    rows, before, groups = [], "", grouped(block)
    for row in block.rows:
        group = groups and row[0].text != before  # a light line where the first column changes
        before = row[0].text
        cells = "".join(f"<td{_class(column.numeric, len(cell.text) <= _SHORT)}>{_cell(cell)}</td>"
                        for column, cell in zip(block.columns, row))
        rows.append(f'<tr class="group">{cells}</tr>' if group else f"<tr>{cells}</tr>")
    note = f'\n<p class="note">{_text(block.note)}</p>' if block.note else ""
    body = "\n".join(rows)
    narrow = len(block.columns) <= _FEW  # or numbers stand far apart
    width = ' class="narrow"' if narrow else ' class="wide"' if len(block.columns) > _MANY else ""
    name = _text(block.name)
    return (f'<div class="scroll" role="group" aria-labelledby="{name}-caption" tabindex="0">'  # scrolled by keys, too
            f'<table id="{name}-table"{width}>\n<caption id="{name}-caption">{_text(block.caption)}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>{note}")


@_block.register
def _(block: Aligned) -> str:
    words = " ".join(_pair(*pair) for pair in block.pairs)
    return f'<h3>{_text(block.title)}</h3>\n<div class="aligned" dir="auto">{words}</div>'


def _pair(reference: str | None, hypothesis: str | None) -> str:
    kind = "equal" if reference == hypothesis else "inserted" if reference is None else (
        "deleted" if hypothesis is None else "substituted")
    one, other = ("·" if word is None else _text(word) for word in (reference, hypothesis))
    return f'<span class="{kind}"><b>{one}</b><i>{other}</i></span>'


def _cell(cell: Cell) -> str:
    text = f"<strong>{_text(cell.text)}</strong>" if cell.strong and cell.text else _text(cell.text)
    return f"{text}<small>{_text(cell.detail)}</small>" if cell.detail else text


def _class(numeric: bool, short: bool = False) -> str:
    return ' class="number"' if numeric else ' class="short"' if short else ""


def _text(text: str) -> str:
    return escape(shown(text))
