"""Recordings read by threads, while a device computes with those before them."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from upstream import ranks
from upstream.control_groups import available_cores

MOST = 8  # threads: some 20,000 audio seconds a second of FLAC, more than any encoder of today asks for
Item = TypeVar("Item")
Result = TypeVar("Result")


def reading_threads() -> int:
    """Threads that read for this rank: beside a GPU its part of the cores, and one where the CPU computes, too."""
    if not torch.cuda.is_available():
        return 1
    return max(1, min(MOST, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count()))))


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The result of `work` for every item, in order, on as many threads as may read. Do not use it inside `work`."""
    if reading_threads() == 1:
        return [work(item) for item in items]
    return list(_readers().map(work, items))


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """Results of `work` in order; as many as there are threads, by default as many as may read, are being made while
    the caller is busy with the last."""
    threads = threads or reading_threads()
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, "reader")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_readers.cache_clear)  # a fork has none of its parent's threads
