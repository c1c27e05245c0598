"""The tables of a report as LaTeX: `\\input{tables}` in a document that loads booktabs, and nothing else."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from benchmarks.report.document import Cell, Column, Report, Table, grouped, shown

MARK = "% Made by hubertkit report"  # by which a file is known as ours
_SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
            "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
            ">": r"\textgreater{}", "|": r"\textbar{}", '"': "{''}", "`": "\\`{}",
            "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$", "·": r"$\cdot$", "…": r"\ldots{}",
            "–": "--", "—": "---", "’": "'", "‘": "`", "“": "``", "”": "''", "\u00a0": "~",
            "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}",
            "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}",
            "ı": r"\i{}", "§": r"\S{}", "©": r"\copyright{}", "£": r"\pounds{}"}
_LIGATURE = re.compile(r"-{2,}|'{2,}|`{2,}|[!?]`|,,")  # that TeX would set as one sign
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
            "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k", "\u0323": "d"}
_MANY, _LONG = 8, 11  # columns that are set smaller; characters of a head that goes on two lines
_PAGE = 42  # lines of a table that fit on a page of `article` below its caption
_ACCENTS_OF_T1 = {"k"}  # which the usual encoding lacks


def latex(report: Report) -> str:
    """All tables of papers, each in a `table` of its own with a label `tab:NAME`."""
    head = (f"{MARK}; in the preamble: \\usepackage{{booktabs}}; of two columns, table* for wide ones\n"
            f"% {_comment(report.title)}: "
            f"{_comment(report.subtitle)}\n")
    return head + "".join(f"\n{_table(part)}" for table in report.tables() for part in _parts(table))


def escaped(text: str) -> str:
    """A text that LaTeX prints as it is, whatever its encoding; scripts that pdfLaTeX does not know as numbers."""
    plain = _LIGATURE.sub(lambda found: "\0".join(found[0]), shown(text))
    return "".join(map(_character, plain)).replace("\0", "{}")


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    if c.isascii():
        return c
    base, marks = unicodedata.normalize("NFD", c)[:1], unicodedata.normalize("NFD", c)[1:]
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS and (
            _ACCENTS[marks[0]] not in _ACCENTS_OF_T1):
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return rf"\texttt{{U+{ord(c):04X}}}"


def _parts(table: Table) -> list[Table]:
    """A table that is longer than a page, which no float may be, as several that go on pages."""
    parts: list[list[tuple[Cell, ...]]] = [[]]
    lines = 0
    for row in table.rows:
        height = 2 if any(cell.detail for cell in row) else 1
        if lines + height > _PAGE:
            parts.append([])
            lines = 0
        parts[-1].append(row)
        lines += height
    if len(parts) == 1:
        return [table]
    return [replace(table, name=table.name if number == 1 else f"{table.name}-{number}", rows=tuple(rows),
                    caption=f"{table.caption} Part {number} of {len(parts)}.", note=table.note if number == 1 else "")
            for number, rows in enumerate(parts, 1)]


def _table(table: Table) -> str:
    kinds = "".join("r" if column.numeric else "l" for column in table.columns)
    head = " & ".join(_head(column) for column in table.columns)
    size = r"\scriptsize" if len(table.columns) > _MANY else r"\footnotesize"
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(table.caption)}{_note(table)}}}",
             rf"\label{{tab:{table.name}}}", r"\smallskip", size, r"\setlength{\tabcolsep}{3.5pt}",
             rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule",
             rf"{head} \\", r"\midrule", *_rows(table), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _head(column: Column) -> str:
    """A long head on two lines, of nearly the same length."""
    words = column.head.split(" ")
    if len(column.head) < _LONG or len(words) < 2:
        return escaped(column.head)
    lines = min(((" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))),
                key=lambda pair: max(map(len, pair)))
    return rf"\shortstack[{'r' if column.numeric else 'l'}]{{{escaped(lines[0])}\\{escaped(lines[1])}}}"


def _rows(table: Table) -> list[str]:
    """A little room where the first column changes, a name in it once; how sure a number is stands below it."""
    lines, before, groups = [], None, grouped(table)
    for row in table.rows:
        first = row[0].text
        if groups and before is not None and first != before:
            lines.append(r"\addlinespace")
        cells = [Cell() if groups and first == before else row[0], *row[1:]]
        lines.append(_line([_main(cell) for cell in cells]))
        if any(cell.detail for cell in cells):
            lines.append(_line([rf"{{\scriptsize {escaped(cell.detail)}}}" if cell.detail else "" for cell in cells]))
        before = first
    return lines


def _line(cells: list[str]) -> str:
    line = " & ".join(cells) + r" \\"
    return f"{{}}{line}" if line[:1] in "[*" else line  # or the line before would take it for its argument


def _main(cell: Cell) -> str:
    return rf"\textbf{{{escaped(cell.text)}}}" if cell.strong and cell.text else escaped(cell.text)


def _note(table: Table) -> str:
    return f" {escaped(table.note)}" if table.note else ""


def _comment(text: str) -> str:
    """On one line, which `shown` makes sure of."""
    return shown(text).encode("ascii", "backslashreplace").decode()
