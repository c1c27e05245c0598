"""Signals that ask a process to stop, and a training's way to heed them: it finishes its update and saves."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from upstream.progress import say

# SIGTERM and SIGUSR1 are what schedulers send before they end a job, SIGHUP comes from a terminal that was closed; not
# every platform has all.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
                     if hasattr(signal, name))
_AGAIN_SECONDS = 1.0  # torchrun passes on what a terminal sends to all: one Ctrl-C comes twice, within milliseconds


def heeded() -> tuple[signal.Signals, ...]:
    """`STOP_SIGNALS`, but for a SIGHUP that is ignored: so `nohup` leaves it, for work that is to go on."""
    hangup = getattr(signal, "SIGHUP", None)
    return tuple(s for s in STOP_SIGNALS if s != hangup or signal.getsignal(s) != signal.SIG_IGN)


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that the signals of `heeded` set, so that work can come to a good end.

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

    before = {s: signal.signal(s, ask) for s in heeded()}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
