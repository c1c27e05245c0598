"""One result of a health check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed"]
Range = tuple[float, float]  # both ends belong to it


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the check.
        level: `failed`: decoding is a waste of time; `warning`: it will be worse than it need be.
        measured: the number that the level follows from; `what` says of what.
        what: a sentence with the number.
        advice: what to do about it; empty where all is well.
    """

    name: str
    level: Level
    measured: float
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.level}: {self.what}" + (f"; {self.advice}" if self.advice else "")


def graded(name: str, measured: float, good: Range, bearable: Range, what: str, advice: str) -> Check:
    """`ok` within `good`, a warning within `bearable`, failed outside. What is not a number has failed."""
    if good[0] <= measured <= good[1]:
        return Check(name, "ok", measured, what)
    return Check(name, "warning" if bearable[0] <= measured <= bearable[1] else "failed", measured, what, advice)
