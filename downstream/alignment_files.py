"""Alignments as files that `hubertkit teacher quality` and other tools read: TextGrid and CTM, one for an utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from upstream.disk import writing
from upstream.teacher.alignments import Interval
from upstream.teacher.ctm import mark

FORMATS = ("TextGrid", "ctm")


def write_textgrid(path: Path, tiers: Mapping[str, Sequence[Interval]], seconds: float) -> None:
    """Praat's long text format; what lies between the intervals of a tier is an interval without a label."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds:.4f}",
             "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        whole = filled(intervals, seconds)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{_quoted(name)}"',
                  "        xmin = 0", f"        xmax = {seconds:.4f}", f"        intervals: size = {len(whole)}"]
        for place, interval in enumerate(whole, 1):
            lines += [f"        intervals [{place}]:", f"            xmin = {interval.start:.4f}",
                      f"            xmax = {interval.end:.4f}", f'            text = "{_quoted(interval.label)}"']
    _write(path, lines)


def write_ctm(path: Path, utterance: str, intervals: Sequence[Interval], labels: Literal["phones", "words"]) -> None:
    """NIST's lines of `ID CHANNEL START DURATION LABEL`, under a comment that says what the labels are."""
    _write(path, [mark(labels)] + [f"{utterance} 1 {i.start:.4f} {i.end - i.start:.4f} {i.label}" for i in intervals])


def filled(intervals: Sequence[Interval], seconds: float) -> list[Interval]:
    """The same with silences between, before and after, so that they cover everything."""
    found, reached = [], 0.0
    for interval in intervals:
        if interval.start > reached + 1e-4:
            found.append(Interval(reached, interval.start, ""))
        found.append(Interval(max(reached, interval.start), interval.end, interval.label))
        reached = interval.end
    if reached < seconds - 1e-4 or not found:
        found.append(Interval(reached, seconds, ""))
    return found


def _quoted(label: str) -> str:
    return label.replace('"', '""')


def _write(path: Path, lines: list[str]) -> None:
    with writing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
