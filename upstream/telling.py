"""A line on standard error, whoever reads it."""

from __future__ import annotations

import contextlib
import sys


def tell(line: str) -> None:
    """Write a line to standard error. Where nobody reads on (`2>&1 | tee log`, and Ctrl-C ended tee), the disk of a log
    is full, or there is no such stream, the work goes on without it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            print(line, file=sys.stderr, flush=True)
