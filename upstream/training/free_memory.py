"""How much memory a process may still take: of the GPU, or of the machine within the limits of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from upstream.control_groups import own_groups, text_of

_MEMINFO = Path("/proc/meminfo")
# Of control groups 2 and 1: limit, use, and what of the use are pages of files, which the kernel gives up when asked.
_SECOND = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def free_bytes(device: torch.device, count: int) -> float:
    """Free memory of the GPU, or this rank's part of the machine's, of `count` ranks; infinity where nothing says."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    return min(_available(), _groups_room()) / max(1, here)


def _available() -> float:
    return _values(_MEMINFO).get("MemAvailable:", float("inf")) * 1024


def _groups_room() -> float:
    """The least room of the groups that this process is in, a scheduler's job or a container among them."""
    return min((_room(folder, *(_FIRST if version == 1 else _SECOND)) for folder, version in own_groups("memory")),
               default=float("inf"))


def _room(folder: Path, limit: str, used: str, files: tuple[str, ...]) -> float:
    most, now = text_of(folder / limit).strip(), text_of(folder / used).strip()
    if not (most.isdecimal() and now.isdecimal()):  # no such group, or `max`
        return float("inf")
    pages = _values(folder / "memory.stat")
    return float(most) - float(now) + sum(pages.get(name, 0.0) for name in files)


def _values(path: Path) -> dict[str, float]:
    """Lines `NAME NUMBER ...`."""
    rows = [line.split() for line in text_of(path).splitlines()]
    return {row[0]: float(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}

