"""A measurement in a process of its own, whose memory and threads nothing else has touched."""

from __future__ import annotations

import multiprocessing
import resource
import sys
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
    """Most bytes that this process ever had in memory. On Linux not by getrusage, which remembers how large the process
    was that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = [line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:")]
        if found:  # some containers' kernels do not tell
            return int(found[0].split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
