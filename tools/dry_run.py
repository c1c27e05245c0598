"""What a dry run found, as a table; of `pretrain` and `selftrain`."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from upstream.outlook import Outlook
from upstream.progress import say


def show(stages: list[Outlook], last: str | None) -> None:
    """The stages up to the one that `--until` names, and what is to be done, in how much time and disk."""
    end = len(stages) if last is None else [stage.stage for stage in stages].index(last) + 1
    table = Table(Column("stage", overflow="fold"), "state", "why", "time", "MB")
    for stage in stages[:end]:
        table.add_row(escape(stage.stage), escape(stage.state + ", to do anew" * stage.anew), escape(stage.why),
                      _time(stage.seconds), "" if stage.bytes is None else f"{stage.bytes / 1e6:.1f}")
    ahead = [stage for stage in stages[:end] if stage.state != "done" or stage.anew]
    Console(emoji=False).print(table)
    known = [stage.seconds for stage in ahead if stage.seconds is not None]
    sizes = [stage.bytes for stage in ahead if stage.bytes is not None]
    unknown, unmeasured = len(ahead) - len(known), len(ahead) - len(sizes)
    print(f"{len(ahead)} stage{'s' * (len(ahead) != 1)} to do" + (f": about {_time(sum(known))}" if known else "")
          + (f"; of {unknown} nothing says how long" if unknown else "")
          + (f"; {math.ceil(sum(sizes) / 1e6)} MB of disk at most" if sizes else "")
          + (f", but of {unmeasured} nothing says how much" if sizes and unmeasured else "")
          if ahead else "nothing to do")


def told_rate(rate: float | None, together: int = 1) -> float | None:
    """Say what a trial of a training measured, audio seconds a second, if it did; gives that of so many processes,
    with a GPU each. 1 also stands for any number of them on CPUs, where one has all the cores that they would share."""
    if rate is None:
        return None
    others = f", {together} times as many in {together}; decoding and validation" if together > 1 else \
        "; decoding, validation and other ranks"
    say(f"  {rate:.3g} audio s/s in one process{others} apart")
    return rate * together


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else \
        f"{seconds / 3600:.1f} h" if seconds < 3 * 86_400 else f"{seconds / 86_400:.1f} days"
