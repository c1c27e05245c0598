"""Recordings read by threads: in order, so many at once and no more."""

import threading
import time

import pytest

from upstream import ahead as module
from upstream.ahead import MOST, ahead, reading_threads, side_by_side


@pytest.fixture
def threads(monkeypatch):
    def use(number):
        monkeypatch.setattr(module, "reading_threads", lambda: number)
    return use


def test_work_ahead_is_one_item_ahead_and_in_another_thread(threads):
    threads(1)
    begun, seen = [], set()

    def work(item):
        begun.append(item)
        seen.add(threading.get_ident())
        return item * item

    results = ahead(work, range(5))
    assert next(results) == 0
    assert 2 not in begun
    assert list(results) == [1, 4, 9, 16]
    assert threading.get_ident() not in seen


@pytest.mark.parametrize("run", [lambda work, items: list(ahead(work, items)), side_by_side])
def test_several_threads_work_at_once_and_results_keep_their_order(threads, run):
    threads(3)
    together = threading.Barrier(3, timeout=30)

    def work(item):
        if item < 3:
            together.wait()  # ends only if three work at once
        time.sleep(0.001 * (5 - item % 5))  # later ones are done sooner
        return item * item

    assert run(work, range(9)) == [i * i for i in range(9)]


def test_no_more_are_made_ahead_than_there_are_threads(threads):
    threads(3)
    begun = []
    results = ahead(lambda item: begun.append(item) or item, range(20))
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 4


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_in_a_thread_is_raised_where_its_result_is_asked_for(threads, number):
    threads(number)

    def work(item):
        return 1 // (2 - item)

    results = ahead(work, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(ZeroDivisionError):
        side_by_side(work, range(5))


def test_beside_a_gpu_a_rank_reads_with_its_part_of_the_cores(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert reading_threads() == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16))
    assert reading_threads() == MOST
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert reading_threads() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert reading_threads() == 1
