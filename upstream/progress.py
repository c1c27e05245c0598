"""Progress on stderr for anything over two seconds: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from upstream import ranks
from upstream.telling import tell

Report = Callable[..., None]
SECONDS_BETWEEN_LINES = 15.0


def console() -> Console:
    """The console for progress and warnings: standard error, so that results on standard output stay clean."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """One line to the user on standard error; of several ranks only the first speaks."""
    if ranks.first():
        tell(printable(line))


def printable(line: str) -> str:
    """A line in which a name cannot steer the terminal: control characters as their codes, tabs and newlines apart."""
    return "".join(c if c in "\t\n" or c.isprintable() or ord(c) > 0x9f else f"\\x{ord(c):02x}" for c in line)


@contextlib.contextmanager
def progress(what: str, total: float, done: int = 0) -> Iterator[Report]:
    """Show how far something is: `with progress("decoding", n) as report: report(done, note="...")`.

    `report(done, total, note=...)` may be called as often as one likes; `total` and `note` are optional. What was
    `done` before, in another run, says nothing about how long the rest will take.
    """
    with contextlib.ExitStack() as stack:
        if not ranks.first():
            yield _silent
            return
        yield (_bar if _draws() else _lines)(stack, what, total, done)


def _draws() -> bool:
    """Whether standard error is a terminal that can move its cursor, whatever FORCE_COLOR says of colours."""
    return sys.stderr is not None and sys.stderr.isatty() and not console().is_dumb_terminal


def _silent(done: float, total: float | None = None, note: str | None = None) -> None:
    """What ranks other than the first report to."""


def _bar(stack: contextlib.ExitStack, what: str, total: float, before: int) -> Report:
    bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
                   TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                   console=console(), transient=True)
    stack.callback(_stop, bar)
    bar.start()
    task = bar.add_task(what, total=total, completed=before, note="")

    def report(done: float, total: float | None = None, note: str | None = None) -> None:
        fields: dict[str, Any] = {} if note is None else {"note": note}
        bar.update(task, completed=done, total=total, **fields)

    return report


def _stop(bar: Progress) -> None:
    """Take a bar away. A terminal that was closed takes nothing any more; that is no error of the work's."""
    with contextlib.suppress(OSError):
        bar.stop()


def _lines(stack: contextlib.ExitStack, what: str, total: float, before: int) -> Report:
    began = time.monotonic()
    last = began

    def report(done: float, total: float | None = total, note: str | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES or done <= before or not total:
            return
        last = now
        left = (now - began) * (total - done) / (done - before)
        tell(f"{what}: {100 * done / total:.0f}%{', ' + note if note else ''}, {left:.0f} s left")

    return report
