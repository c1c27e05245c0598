import contextlib
import itertools
import subprocess
import sys
import threading
import time

import pytest

from upstream.training.monitor import Speed
from upstream.training.prefetching import PREFETCHED, prefetched


def test_items_come_in_order_and_end():
    assert list(prefetched(iter(range(20)), Speed())) == list(range(20))
    assert list(prefetched(iter(()), Speed())) == []


def test_an_error_of_the_thread_is_raised_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("a bad file")

    stream = prefetched(items(), Speed())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="a bad file"):
        next(stream)


def test_no_more_are_made_than_are_ahead():
    made = []
    stream = prefetched((made.append(n) or n for n in itertools.count()), Speed())
    with contextlib.closing(stream):
        assert next(stream) == 0
        time.sleep(0.3)
        assert len(made) <= PREFETCHED + 2  # those in the queue, the one in hand, the one that waits for room


def test_closing_ends_the_thread():
    before = threading.active_count()
    stream = prefetched(itertools.count(), Speed())
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before


@pytest.mark.processes
def test_a_batch_in_the_making_does_not_abort_the_interpreter():
    """Bug: the thread was left to itself; inside a torch operation at the interpreter's end it ended the process with
    SIGABRT, after all was done ("terminate called without an active exception")."""
    script = """
import contextlib, itertools, torch
from upstream.training.monitor import Speed
from upstream.training.prefetching import prefetched
large = torch.ones(500, 500)
stream = prefetched(((large @ large).sum() for _ in itertools.count()), Speed())
with contextlib.closing(stream):
    next(stream)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
