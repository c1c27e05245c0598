"""Which part of a run is done: from a stage on, until a stage, or nothing yet, to see what there is to do.

    with following(Course(out, first="round2/teacher")):
        pretrain(recipe, out)

`run_stage` asks the course of its run; without one everything is done that is not done yet.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from upstream import ranks
from upstream.errors import UsageError

WISH = "anew.json"  # what a run was last asked to do anew, as long as it has not come to its end since
State = Literal["done", "unfinished", "stale", "to do"]


@dataclass(frozen=True)
class Step:
    """A stage that was met: its name, its state, why it is stale, and whether it is done anew though it is not."""

    name: str
    state: State
    why: str = ""
    anew: bool = False


class Halt(Exception):
    """Ends a run before its last stage, as was asked."""


@dataclass
class Course:
    """The part of a run in the folder `root`; stages are named by their folders below it, `round1/teacher`.

    Attributes:
        first: this stage and those after it are done anew; those before it must be done.
        last: the run ends after it.
        look: nothing is done; stages get what those before them gave when they were done, even where that is stale.
        needed: a look ends at one of these that is not done: all stages after it are made of it.
        steps: the stages that were met.
    """

    root: Path
    first: str | None = None
    last: str | None = None
    look: bool = False
    needed: frozenset[str] = frozenset()
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

    @cached_property
    def wish(self) -> str:
        """What records of stages say that are done anew on behalf of this command: a name of its own. The same command
        given again goes on under that of the one that was stopped, until the run comes to its end."""
        noted = _read(self.root / WISH)
        if self._names and noted.get("from") == self.first and not self._fulfilled(str(noted.get("wish"))):
            return str(noted["wish"])
        return f"{self.first} {time.time_ns()}"

    def note(self) -> dict[str, Any]:
        """What is left in `WISH` when the first stage is begun anew."""
        return {"format": 1, "from": self.first, "wish": self.wish}

    def _fulfilled(self, wish: str) -> bool:
        """Whether all stages up to `last` were done anew under a wish: to ask again is a new one."""
        if self.first is None or self.last is None:
            return False
        names = self._names[self._names.index(self.first):self._names.index(self.last) + 1]
        records = [_read(self.root / name / "stage.json") for name in names]
        return all(r.get("state") == "done" and r.get("anew") == wish for r in records)

    def anew(self, state: State, record: dict[str, Any]) -> bool:
        """Whether a stage that was arrived at is to begin anew though it is done, or could be gone on with: not where
        this command, or the same one before it, has begun it anew already.

        Args:
            record: that the stage left, if any.
        """
        if not self._begun or state not in ("done", "unfinished"):
            return False
        return record.get("anew") != self.wish if state == "done" else not record.get("anew")

    def arrive(self, folder: Path, state: State, why: str, record: dict[str, Any]) -> str | None:
        """Called before a stage. Gives the `wish` of `--from` that it comes under, if any.

        Raises:
            Halt: a look has come to a stage that is needed and not done.
            UsageError: a stage before `first` is not done.
        """
        name = self._name(folder)
        self._begun = self._begun or name == self.first
        step = Step(name, state, why, self.anew(state, record))
        self.steps.append(step)
        if self.first is not None and not self._begun and state != "done":
            reason = f"is {state}" + (f" ({why})" if why else "")
            raise UsageError(f"--from {self.first}: {step.name} before it {reason}; leave --from out, and all is done "
                             "that must be")
        if self.look and state != "done" and name in self.needed:
            raise Halt
        return self.wish if self._begun else None

    def leave(self, folder: Path) -> None:
        """Called after a stage. Raises Halt where it is the last."""
        if self.look:
            return
        name = self._name(folder)
        if self._names and name == self._names[-1] and ranks.first():
            (self.root / WISH).unlink(missing_ok=True)
        if name == self.last:
            raise Halt

    def _name(self, folder: Path) -> str:
        folder = Path(folder)
        return str(folder.relative_to(self.root)) if folder.is_relative_to(self.root) else str(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or named by the stage itself once it is met
        return {}
    return found if isinstance(found, dict) else {}


_now: Course | None = None


def current() -> Course | None:
    """The course that is followed; None where there is none."""
    return _now


def looking() -> bool:
    """Whether nothing is done now, and what there is to do is only looked at."""
    return _now is not None and _now.look


def leave(folder: Path) -> None:
    """Leave a stage, of which its caller had more to say when it was done (`run_stage`). Raises Halt where the run is
    to end with it."""
    if _now is not None:
        _now.leave(folder)


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
