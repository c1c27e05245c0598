"""Several processes, called ranks, that work on one job: who one is, and how they wait for each other.

A job of one process, the usual case, is rank 0 of 1, and nothing here costs it anything. All ranks run the same
command; what only one of them may do (write files, fit a teacher, decode) stands inside `alone`, and every rank gets
its result. `torchrun` starts the ranks, or `hubertkit` itself on one machine (`tools/launch.py`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from upstream.errors import HubertkitError, RankLost, UsageError
from upstream.meeting import torchruns_store
from upstream.rank_watch import RankWatch, watch

# A rank that dies closes its connections, which the others see at once; a stage that only rank 0 does may take days.
# Where a machine goes dark, `rank_watch` notices.
PATIENCE = timedelta(days=7)
_CONNECTION = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe")  # in what gloo and nccl say
Result = TypeVar("Result")

_alone = False  # inside `alone` rank 0 is by itself: nobody would answer it
_threads_together = 0  # threads of this rank when all ranks compute; 0: not set by us
_joined = False
_on_gpus = False  # NCCL connects the ranks, too
_watch: RankWatch | None = None  # of the ranks of other machines


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _several() else 0


def count() -> int:
    """How many processes work together now; 1 inside `alone`."""
    return dist.get_world_size() if _several() else 1


def first() -> bool:
    """Whether this is rank 0, which speaks and writes for all."""
    return rank() == 0


def share() -> slice:
    """Which of the micro-batches of an update are this rank's."""
    return slice(rank(), None, count())


def join(rank: int, count: int, store: dist.Store | None = None, threads: int = 0, on_cpu: bool = False) -> None:
    """Become one of `count` ranks; returns once all are there.

    Args:
        store: where they meet; None takes `torchrun`'s environment variables.
        threads: of this process while all ranks compute; alone, rank 0 may use those of all. 0 leaves them.
        on_cpu: leave the machine's GPUs alone.

    Raises:
        UsageError: this rank's GPU is missing.
        RankLost: another rank died before all were there.
    """
    global _joined, _on_gpus, _threads_together, _watch
    with_gpu = torch.cuda.is_available() and not on_cpu
    if with_gpu:
        local, cards = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
        if local >= cards:
            raise UsageError(f"rank {local} of this machine has no GPU, for there are {cards}; start as many ranks as "
                             "GPUs, or set CUDA_VISIBLE_DEVICES= to train on the CPU")
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if with_gpu else "gloo"
    _joined, _on_gpus = True, with_gpu
    with _losses():
        found = torchruns_store(rank, count, PATIENCE) if store is None else store
        dist.init_process_group(backend, store=found, rank=rank, world_size=count, timeout=PATIENCE)
        if store is None and count > 1:  # of several machines, perhaps; who started ranks on one watches them
            _watch = watch(rank, count, os.environ["MASTER_ADDR"], _told)
    _threads_together = threads
    if threads:
        torch.set_num_threads(threads)


def has_joined() -> bool:
    """Whether this process is or was one of several."""
    return _joined


def leave(failed: bool = False) -> None:
    """Stop being one of several.

    Args:
        failed: the others may never come to leave. NCCL would wait for them, so a rank with a GPU stays one of several
            then; it has to end, and must not run Python's own end (`os._exit`).
    """
    if _watch is not None:
        _watch.close(failed)
    if dist.is_initialized() and not (failed and _on_gpus):
        dist.destroy_process_group()


def alone(work: Callable[[], Result]) -> Result:
    """Do something on rank 0 only; every rank gets what it returned, which must pickle.

    Raises:
        what `work` raised, on rank 0; SystemExit on the others, for rank 0 says what was wrong.
        RankLost: another rank has died.
    """
    if not _several():
        return work()
    if rank() != 0:
        with _losses():
            outcome = _told(None)
        if outcome is None:
            raise SystemExit(1)
        return outcome[0]
    try:
        with _by_itself():
            result = work()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            _told(None)
        raise
    with _losses():
        _told((result,))
    return result


def _told(value: Any) -> Any:
    """What the first rank passes in, on every rank."""
    told = [value]
    dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
    return told[0]


def total(value: float) -> float:
    """The sum of a number over all ranks."""
    if not _several():
        return value
    tensor = torch.tensor([value], dtype=torch.float64)
    add_up(tensor)
    return float(tensor)


def add_up(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all ranks, in place. Every rank ends with the same bits."""
    if not _several():
        return
    with _losses():
        dist.all_reduce(tensor)


def meet() -> None:
    """Return once every rank has called this."""
    add_up(torch.zeros(1))


def gather(value: Result) -> list[Result]:
    """What every rank gives, in their order, on every rank; it must pickle."""
    if not _several():
        return [value]
    found: list[Any] = [None] * count()
    with _losses():
        dist.all_gather_object(found, value)
    return found


def divide(weights: np.ndarray) -> slice:
    """Which of n items in a row are this rank's: neighbours, with about as much of `weights (n,)` as every rank has."""
    ends = np.cumsum(np.asarray(weights, np.float64))
    shares = np.arange(1, count()) / count()
    bounds = [0, *np.searchsorted(ends, shares * (ends[-1] if len(ends) else 0)).tolist(), len(ends)]
    return slice(bounds[rank()], bounds[rank() + 1])


def place(rows: int) -> tuple[int, int]:
    """How many rows the ranks before this one have, and how many all have, if this one has so many."""
    counts = gather(rows)
    return sum(counts[:rank()]), sum(counts)


def refuse(error: HubertkitError) -> NoReturn:
    """Raise an error that every rank has found: the first one says it, the others only end."""
    raise error if first() else SystemExit(error.exit_code)


def rows_on_first(own: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks one below the other, in their order, on the first rank; none elsewhere.

    Args:
        own: this rank's, on the host; the same type and the same other dimensions on every rank.
    """
    if not _several():
        return own
    counts = gather(len(own))
    with _losses():
        if not first():
            if len(own):
                dist.send(own.contiguous(), 0)
            return own[:0]
        whole = own.new_empty(sum(counts), *own.shape[1:])
        parts = whole.split(counts)
        parts[0].copy_(own)
        for other, part in enumerate(parts):
            if other and len(part):
                dist.recv(part, other)
    return whole


def _several() -> bool:
    return not _alone and dist.is_initialized()


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Rank 0 without the others, who wait: it may use their cores."""
    global _alone
    _alone = True
    if _threads_together:
        torch.set_num_threads(_threads_together * dist.get_world_size())
    try:
        yield
    finally:
        _alone = False
        if _threads_together:
            torch.set_num_threads(_threads_together)


@contextlib.contextmanager
def _losses() -> Iterator[None]:
    """Name what a collective's RuntimeError means."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo and nccl have no finer type
        raise _lost(error) from error


@contextlib.contextmanager
def naming_losses() -> Iterator[None]:
    """Name what a RuntimeError means that comes from a collective of torch's own: those of a sharded model, in the
    midst of its computations."""
    try:
        yield
    except RuntimeError as error:
        if not _several() or not (isinstance(error, dist.DistError) or _CONNECTION.search(str(error))):
            raise
        raise _lost(error) from error


def _lost(error: RuntimeError) -> RankLost:
    said = str(error).strip().split("\n")[0]
    return RankLost("another process of this job has died, so this one ends too; run the command again, it goes on "
                    f"from the last checkpoint (what was noticed: {said})")
