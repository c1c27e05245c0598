"""Several ranks at work, for tests of what they do together."""

import multiprocessing

import torch
import torch.distributed as dist

from upstream import ranks

SECONDS = 200  # that a rank has for its work
SECONDS_TO_END = 20


def on_ranks(count, work, *given, answers=None):
    """What `work(*given)` gives on each of `count` ranks, in their order.

    Each is a process of its own: `work` is a function of a module, and all that it is given and gives must pickle.

    Args:
        answers: of how many ranks something is awaited, where others die on the way; None: of all.
    """
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, count, True, wait_for_workers=False)
    queue = context.Queue()
    processes = [context.Process(target=_be_rank, args=(rank, count, store.port, queue, work, given))
                 for rank in range(count)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=SECONDS) for _ in range(count if answers is None else answers))
    for process in processes:
        process.join(SECONDS_TO_END)
    assert answers is not None or [process.exitcode for process in processes] == [0] * count  # also on the way out
    return [found[rank] for rank in sorted(found)]


def _be_rank(rank, count, port, queue, work, given):
    torch.set_num_threads(1)
    ranks.join(rank, count, dist.TCPStore("127.0.0.1", port, count, False))
    try:
        queue.put((rank, work(*given)))
    finally:
        ranks.leave()
