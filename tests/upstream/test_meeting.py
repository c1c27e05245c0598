"""Ranks that are started again meet each other, and not those that have died."""

import threading

import pytest
import torch.distributed as dist

from upstream.meeting import meeting_place


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)


def places(store, order):
    """Where the ranks meet that come in this order."""
    found, came = {}, [threading.Event() for _ in order]

    def come(rank, number):
        client = dist.TCPStore("127.0.0.1", store.port, None, False)
        came[number].set()
        found[rank] = meeting_place(client, rank, len(order))

    threads = [threading.Thread(target=come, args=(rank, number), daemon=True) for number, rank in enumerate(order)]
    for number, thread in enumerate(threads):
        thread.start()
        came[number].wait(10)
    for thread in threads:
        thread.join(10)
    return found


@pytest.mark.parametrize("order", [[0], [0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_all_ranks_of_a_start_meet_and_never_where_an_earlier_one_did(store, order):
    """With one store for all restarts the first to come connected to a rank that had died: torchrun's last restart
    failed as well."""
    seen = set()
    for _ in range(4):
        found = places(store, order)
        assert sorted(found) == sorted(order)
        [place] = set(found.values())
        assert place not in seen
        seen.add(place)


def test_a_rank_that_died_while_it_waited_is_answered_in_vain(store):
    store.set("hello/1", "the dead")
    found = places(store, [0, 1])
    assert len(set(found.values())) == 1
    assert store.get("welcome/the dead")
