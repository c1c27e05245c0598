"""A measurement in a process of its own, whose memory and threads nothing else has touched."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from upstream.errors import HubertkitError

Result = TypeVar("Result")


def in_a_process(what: str, measure: Callable[..., Result], *arguments: object) -> Result:
    """What `measure(*arguments)` gives in a fresh process; all of it must pickle.

    Raises:
        HubertkitError: naming `what`, where the process was killed; and what `measure` raises.
    """
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            return executor.submit(measure, *arguments).result()
    except BrokenProcessPool as error:  # a `multiprocessing.Pool` would wait for ever
        raise HubertkitError(f"{what}: the process that measured was killed, perhaps for lack of memory; the same "
                             "command again goes on there") from error


def peak_memory() -> int:
    """Most bytes that this process ever had in memory. The kernel's VmHWM: a child inherits no parent's peak here."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM; this benchmark needs Linux")
