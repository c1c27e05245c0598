"""Which part of a run is done: from a stage on, until a stage, or nothing yet, to see what there is to do.

    with following(Course(out, first="round2/teacher")):
        pretrain(recipe, out)

`run_stage` asks the course of its run; without one everything is done that is not done yet.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from upstream.errors import UsageError

State = Literal["done", "unfinished", "stale", "to do"]


@dataclass(frozen=True)
class Step:
    """A stage that was met: its name, its state, and why it is stale."""

    name: str
    state: State
    why: str = ""


class Halt(Exception):
    """Ends a run before its last stage, as was asked."""


@dataclass
class Course:
    """The part of a run in the folder `root`; stages are named by their folders below it, `round1/teacher`.

    Attributes:
        first: this stage and those after it are done anew; those before it must be done.
        last: the run ends after it.
        look: nothing is done; stages get what those before them gave when they were done, even where that is stale.
        steps: the stages that were met. A look ends at once where the very first, which all others read, is not done.
    """

    root: Path
    first: str | None = None
    last: str | None = None
    look: bool = False
    steps: list[Step] = field(default_factory=list)
    _begun: bool = False
    _names: Sequence[str] = ()

    def check(self, names: Sequence[str]) -> None:
        """Let `round2` stand for its first stage in `first`, for its last one in `last`.

        Raises:
            UsageError: a stage that is not among `names`, or the last one before the first.
        """
        self.first = _known("--from", self.first, names, 0)
        self.last = _known("--until", self.last, names, -1)
        self._names = names
        if self.first and self.last and names.index(self.first) > names.index(self.last):
            raise UsageError(f"--from {self.first} comes after --until {self.last}")

    def arrive(self, folder: Path, state: State, why: str) -> str | None:
        """Called before a stage. Gives `first` where it is to be done anew, though it is done.

        Raises:
            Halt: a look has found that the very first stage is to be done.
            UsageError: a stage before `first` is not done.
        """
        step = Step(self._name(folder), state, why)
        self.steps.append(step)
        self._begun = self._begun or step.name == self.first
        if self.first is not None and not self._begun and state != "done":
            reason = f"is {state}" + (f" ({why})" if why else "")
            raise UsageError(f"--from {self.first}: {step.name} before it {reason}; leave --from out, and all is done "
                             "that must be")
        if self.look and state != "done" and len(self.steps) == 1:
            raise Halt
        return self.first if self._begun else None

    def did(self, record: dict[str, Any]) -> bool:
        """Whether a stage was done anew by the same command, which was stopped later and is now given again."""
        records = (self._record(name) for name in self._names)
        return record.get("anew") == self.first and any(
            r.get("state") == "running" and r.get("anew") == self.first for r in records)

    def _record(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.root / name / "stage.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or named by the stage itself once it is met
            return {}
        return found if isinstance(found, dict) else {}

    def leave(self, folder: Path) -> None:
        """Called after a stage. Raises Halt where it is the last."""
        if self._name(folder) == self.last:
            raise Halt

    def _name(self, folder: Path) -> str:
        folder = Path(folder)
        return str(folder.relative_to(self.root)) if folder.is_relative_to(self.root) else str(folder)


_now: Course | None = None


def current() -> Course | None:
    """The course that is followed; None where there is none."""
    return _now


@contextlib.contextmanager
def following(course: Course) -> Iterator[Course]:
    """Follow a course; a Halt ends the block and no more."""
    global _now
    before, _now = _now, course
    try:
        with contextlib.suppress(Halt):
            yield course
    finally:
        _now = before


def _known(option: str, name: str | None, names: Sequence[str], which: int) -> str | None:
    if name is None:
        return None
    name = name.strip("/")
    found = [known for known in names if known == name or known.startswith(f"{name}/")]
    if not found:
        raise UsageError(f"{option} {name}: no such stage; this run has {', '.join(names)}")
    return found[which]


def stage_state(before: dict[str, Any] | None, now: dict[str, Any]) -> State:
    """What a stage's record says to a run that would write `now`."""
    if before is None:
        return "to do"
    if before["key"] != now["key"]:
        return "stale"
    return "done" if before["state"] == "done" else "unfinished"
