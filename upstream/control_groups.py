"""Limits of the containers and schedulers' jobs that a process is in, as Linux's control groups say them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

OWN = Path("/proc/self/cgroup")
TOP = Path("/sys/fs/cgroup")


def own_groups(controller: str) -> Iterator[tuple[Path, int]]:
    """(folder, version 1 or 2) of each group that this process is in, up to the top, where it has this controller."""
    for line in text_of(OWN).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            top, version = TOP, 2
        elif controller in controllers.split(","):
            top, version = TOP / controller, 1
        else:
            continue
        own = top / place.lstrip("/")  # of the host, in some containers: what is there then is the top, their own
        yield from ((folder, version) for folder in (own, *own.parents) if folder.is_relative_to(top))


def available_cores() -> int:
    """Cores that this process may use: by its affinity, and by the time that its groups are given, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = min((_share(folder, version) for folder, version in own_groups("cpu")), default=math.inf)
    return max(1, math.ceil(min(cores, share)))


def _share(folder: Path, version: int) -> float:
    """Seconds of processor time a second; infinity where there is no limit."""
    if version == 2:
        quota, _, period = text_of(folder / "cpu.max").strip().partition(" ")
    else:
        quota, period = (text_of(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if not (quota.isdecimal() and period.isdecimal() and int(period)):  # no such group, `max` or -1
        return math.inf
    return int(quota) / int(period)


def text_of(path: Path) -> str:
    """What a file of the system says; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
