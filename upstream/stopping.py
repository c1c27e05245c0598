"""Signals that ask a process to stop, and a training's way to heed them: it finishes its update and saves."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from upstream.progress import say

# SIGTERM and SIGUSR1 are what schedulers send before they end a job; not every platform has the latter.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
_AGAIN_SECONDS = 1.0  # torchrun passes on what a terminal sends to all: one Ctrl-C comes twice, within milliseconds


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that `STOP_SIGNALS` set, so that work can come to a good end.

    Only a person is taken to mean "at once" by asking again: a later SIGINT raises KeyboardInterrupt. A second SIGTERM
    is nothing new, for schedulers signal every process of a job, and torchrun passes on what it gets.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    first = 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal first
        if not requested.is_set():
            requested.set()
            first = time.monotonic()
            say("stopping after this update; a checkpoint will be saved (Ctrl-C"
                f"{' once more' * (number == signal.SIGINT)} to stop at once)")
        elif number == signal.SIGINT and time.monotonic() - first > _AGAIN_SECONDS:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, ask) for s in STOP_SIGNALS}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
