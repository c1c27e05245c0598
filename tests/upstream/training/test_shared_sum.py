"""Sums through memory that ranks of one machine share."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch
from several_ranks import on_ranks
from torch import nn

from upstream import ranks
from upstream.errors import RankLost
from upstream.keyed import keyed_torch
from upstream.training import shared_sum as module
from upstream.training.distributed import GradientSum
from upstream.training.shared_sum import shared_sum

pytestmark = [pytest.mark.processes,
              pytest.mark.skipif(not module.FOLDER.is_dir(), reason="no memory file system here")]
SIZE = 1001


def vector(rank, turn):
    return torch.randn(SIZE, generator=keyed_torch(0, "shared", rank, turn))


def sums(rank, count):
    shared = shared_sum(SIZE)
    found = []
    for turn in range(20):
        shared.own.copy_(vector(rank, turn))
        found.append(shared.add_up().clone())
    expected = [torch.stack([vector(r, turn) for r in range(count)]).sum(0) for turn in range(20)]
    return all(torch.equal(a, b) for a, b in zip(found, expected))


def gradients(rank, count):
    a, b, unused = (nn.Parameter(torch.zeros(3, 5)) for _ in range(3))
    gradient_sum = GradientSum([a, b, unused])
    shared = []
    for turn in range(3):
        a.grad, b.grad, unused.grad = torch.full((3, 5), rank + turn + 1.0), None, None
        if rank == 0:
            b.grad = torch.ones(3, 5)
        flags = gradient_sum.join(finite=turn != 1 or rank == 0, stop=turn == 2 and rank == 0)
        a.grad.mul_(0.5)  # as clipping does: each rank its own
        shared.append((flags, float(a.grad[0, 0]), float(b.grad[2, 4]), unused.grad is None))
    return gradient_sum._shared is not None, shared


def another_machine(rank, count):
    """It mapped a file of its own, which opening had made: each rank then trained on wrong gradients."""
    plain = module._mapped
    if rank == 1:
        module._mapped = lambda path, length, word: plain(path.replace("hubertkit", "elsewhere"), length, word)
    return shared_sum(SIZE) is None and not left()


def another_file_of_that_name(rank, count):
    plain = module._mapped
    if rank == 1:
        module._mapped = lambda path, length, word: plain(path, length, bytes(4))
    return shared_sum(SIZE) is None and not left()


def full_disk(rank, count):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "no space left")
    os.posix_fallocate = refuse
    return shared_sum(SIZE) is None and not left()


def lost(rank, count):
    shared = shared_sum(SIZE)
    if rank == 1:
        os._exit(1)
    with pytest.raises(RankLost):
        shared.add_up()
    return True


def dies_in_between(rank, count):
    if rank == 1:
        module._mapped = lambda *what: os._exit(1)
    with pytest.raises(RankLost):
        shared_sum(SIZE)
    return not list(module.FOLDER.iterdir())


def left():
    ranks.meet()
    return list(module.FOLDER.iterdir())


def work(job, folder):
    module.FOLDER = folder
    found = job(ranks.rank(), ranks.count())
    if job not in (lost, dies_in_between):
        ranks.meet()
    return found


def together(job, count, answers=None):
    """What each rank's job gives."""
    with tempfile.TemporaryDirectory(dir=module.FOLDER) as folder:
        return on_ranks(count, work, job, Path(folder), answers=answers)


@pytest.mark.parametrize("count", [2, 3])
def test_every_rank_gets_the_sum_of_all_vectors_to_the_bit_and_none_is_read_too_late(count):
    assert together(sums, count) == [True] * count


def test_gradients_are_added_up_and_scaled_by_each_rank_for_itself():
    expected = [((True, False), 1.5, 1.0, True), ((False, False), 2.5, 1.0, True), ((True, True), 3.5, 1.0, True)]
    assert together(gradients, 2) == [(True, expected)] * 2


@pytest.mark.parametrize("job", [another_machine, another_file_of_that_name, full_disk])
def test_where_one_rank_has_no_such_memory_none_uses_it_and_no_file_stays(job):
    assert together(job, 2) == [True, True]


@pytest.mark.parametrize("job", [lost, dies_in_between])
def test_a_rank_that_dies_ends_the_others_and_leaves_no_memory(job):
    assert together(job, 2, answers=1) == [True]
