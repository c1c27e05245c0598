"""The tables of a report as LaTeX: `\\input{tables}` in a document that loads booktabs, and nothing else."""

from __future__ import annotations

import re
import unicodedata

from benchmarks.report.document import Cell, Report, Table, grouped, shown

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
_ACCENTS_OF_T1 = {"k"}  # which the usual encoding lacks


def latex(report: Report) -> str:
    """All tables of papers, each in a `table` of its own with a label `tab:NAME`."""
    head = (f"{MARK}; in the preamble: \\usepackage{{booktabs}}\n% {_comment(report.title)}: "
            f"{_comment(report.subtitle)}\n")
    return head + "".join(f"\n{_table(table)}" for table in report.tables())


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


def _table(table: Table) -> str:
    kinds = "".join("r" if column.numeric else "l" for column in table.columns)
    head = " & ".join(escaped(column.head) for column in table.columns)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(table.caption)}{_note(table)}}}",
             rf"\label{{tab:{table.name}}}", r"\small", rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule",
             rf"{head} \\", r"\midrule", *_rows(table), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _rows(table: Table) -> list[str]:
    """A thin line where the first column changes, a name in it once."""
    lines, before = [], None
    groups = grouped(table)
    for row in table.rows:
        first = row[0].text
        if groups and before is not None and first != before:
            lines.append(r"\addlinespace")
        cells = [Cell() if groups and first == before else row[0], *row[1:]]
        line = " & ".join(map(_cell, cells)) + r" \\"
        lines.append(f"{{}}{line}" if line[:1] in "[*" else line)  # or the line before would take it for its argument
        before = first
    return lines


def _cell(cell: Cell) -> str:
    text = rf"\textbf{{{escaped(cell.text)}}}" if cell.strong and cell.text else escaped(cell.text)
    return rf"{text} {{\footnotesize {escaped(cell.detail)}}}" if cell.detail else text


def _note(table: Table) -> str:
    return f" {escaped(table.note)}" if table.note else ""


def _comment(text: str) -> str:
    """On one line, which `shown` makes sure of."""
    return shown(text).encode("ascii", "backslashreplace").decode()
