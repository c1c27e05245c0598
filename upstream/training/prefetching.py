"""Batches made ahead of their use."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

from upstream.training.monitor import Speed

PREFETCHED = 4  # items, in training those of an update each
LAST_ITEM_SECONDS = 30.0  # that a thread which is making an item when it is not wanted any more has; a disk may hang
_END = object()
Item = TypeVar("Item")


def prefetched(items: Iterator[Item], speed: Speed) -> Generator[Item, None, None]:
    """The same items, made by a thread a few ahead, so that decoding overlaps with computing.

    An error in the thread is raised here. `speed` is told of the time spent waiting. Closing the generator ends the
    thread before it returns: a thread that still computes when the interpreter ends aborts the process.
    """
    ready: queue.Queue[Any] = queue.Queue(PREFETCHED)
    done = threading.Event()

    def fill() -> None:
        try:
            for item in items:
                if not _put(ready, item, done):
                    return
            _put(ready, _END, done)
        except BaseException as error:  # handed over to the consumer, which raises it
            _put(ready, _Failure(error), done)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            with speed.waiting():
                item = ready.get()
            if isinstance(item, _Failure):
                raise item.error
            if item is _END:
                return
            yield item
    finally:
        done.set()
        thread.join(LAST_ITEM_SECONDS)


class _Failure(Generic[Item]):
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _put(target: queue.Queue[Any], item: Any, done: threading.Event) -> bool:
    while not done.is_set():
        with contextlib.suppress(queue.Full):
            target.put(item, timeout=0.1)
            return True
    return False
