"""Start the ranks of a training command on this machine: the command itself is rank 0, the others run the same words.

Under `torchrun` they are there already.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from tools.child import module_command
from upstream import ranks
from upstream.errors import HubertkitError, Interrupted, RankLost, UsageError
from upstream.progress import say
from upstream.stopping import heeded
from upstream.telling import tell

AUTO = "auto"
HOST = "127.0.0.1"
LAST_WORDS_SECONDS = 20.0  # that a rank has to end after another one
LAST_WORDS_AFTER_FAILURE = 2.0  # that the others have once the first has failed: they write nothing of their own
SAME_WORDS_SECONDS = 1.5  # that another rank waits for the first to say what it has to say; below the time it then has
LOOK_SECONDS = 1.0  # between two looks at the other ranks
QUIET_SECONDS = 10.0  # that a rank waits for the others of its job without a word

_store: dist.Store | None = None  # where this rank meets the first one, which started it
_SAID = "what the first rank has failed with"

RanksOption = Annotated[str, typer.Option("--ranks", help="Processes that train together on this machine; auto: one "
                                          "for each GPU or CPU core, as far as they divide the micro-batches.")]


def join_from_environment() -> None:
    """Become the rank that whoever started this process says it is; nothing where nobody did."""
    global _store
    port = os.environ.get("HUBERTKIT_STORE")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return  # some schedulers set RANK alone
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:  # names of somebody else's: torchrun's are numbers
        return
    lacking = [] if port else [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking and count > 1:
        raise UsageError(f"RANK={rank} and WORLD_SIZE={count} are set, and {' and '.join(lacking)} not: each process "
                         "would work by itself; start them with torchrun, or set where the first one is")
    if port is None and count == 1:  # some containers say that they are one of one
        return
    if port is None:
        with _waiting(rank, count):
            ranks.join(rank, count)
    else:
        _end_with_parent()
        _store = store = dist.TCPStore(HOST, int(port), count, False)
        store.set(_here(rank), "")
        ranks.join(rank, count, store, torch.get_num_threads())
    if rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # results are printed once


@contextlib.contextmanager
def _waiting(rank: int, count: int) -> Iterator[None]:
    """Until the others of a job have come: say so, and let a signal end this process, which hears none meanwhile."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    line = (f"rank {rank} waits for the others of {count} at {where}, as RANK, WORLD_SIZE and MASTER_ADDR say; unset "
            "RANK to work alone")
    timer = threading.Timer(QUIET_SECONDS, tell, [line])
    timer.daemon = True
    before = {number: signal.signal(number, signal.SIG_DFL) for number in heeded()}
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def launched(wanted: str, micro_batches: Sequence[int], device: str = AUTO, most: int | None = None) -> Iterator[None]:
    """Run the body in as many ranks as asked for.

    Args:
        wanted: a number, or `auto`.
        micro_batches: in an update of each training that will be run; the ranks share them evenly. 0: still to be
            chosen, to suit the ranks.
        device: that the recipe asks for; with `cpu` the machine's GPUs do not count.
        most: ranks that an update has work for, where micro-batches are still to be chosen.

    Raises:
        UsageError: no number, one that does not divide the micro-batches, more ranks than GPUs or than `most`.
        RankLost: a rank died before all were there. One that dies later ends this process as soon as it notices; where
            it computes something by itself, after `LAST_WORDS_SECONDS`.
    """
    if dist.is_initialized():
        _check(ranks.count(), micro_batches, most)
        yield
        return
    on_cpu = device == "cpu"
    count = _chosen(wanted, micro_batches, 0 if on_cpu else torch.cuda.device_count(), most)
    if count == 1:
        yield
        return
    threads = max(1, torch.get_num_threads() // count)
    if "LOCAL_WORLD_SIZE" in os.environ:  # a container's, which says 1
        os.environ["LOCAL_WORLD_SIZE"] = str(count)
    say(f"{count} processes of {threads} thread{'s' * (threads > 1)} each share every update")
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name need not resolve
    store = dist.TCPStore(HOST, 0, count, True, wait_for_workers=False)
    others = [_start(rank, count, threads, store.port, on_cpu) for rank in range(1, count)]
    failed = True
    try:
        _await(store, others)
        with _watched(others):  # already while they join: one that dies there closes no connection
            ranks.join(0, count, store, threads, on_cpu)
            yield
        failed = False
    except Interrupted:  # all of them are, after the same update
        failed = False
        raise
    except HubertkitError as error:
        store.set(_SAID, str(error))
        raise
    finally:
        ranks.leave(failed)
        _end(others, LAST_WORDS_AFTER_FAILURE if failed else LAST_WORDS_SECONDS)


def first_says(line: str) -> bool:
    """Whether the first rank fails with the same words, and so says them for this one. Waits a moment for it.

    False under `torchrun`, and on the first rank itself.
    """
    if _store is None:
        return False
    with contextlib.suppress(RuntimeError):  # it has not failed, or is gone
        _store.wait([_SAID], timedelta(seconds=SAME_WORDS_SECONDS))
        return _store.get(_SAID).decode() == line
    return False


def check_ranks(wanted: str, micro_batches: Sequence[int], device: str = AUTO, most: int | None = None) -> int:
    """How many ranks `launched` would work in. Raises what it raises about their number, and starts none."""
    if dist.is_initialized():
        _check(ranks.count(), micro_batches, most)
        return ranks.count()
    return _chosen(wanted, micro_batches, 0 if device == "cpu" else torch.cuda.device_count(), most)


def largest_share(micro_batches: Sequence[int], limit: int) -> int:
    """The most ranks up to `limit` that divide every number of micro-batches.

    Two trainings of 8 and of 12 micro-batches can be shared by 4 of at most 6 cores.
    """
    common = math.gcd(*micro_batches)
    return max(d for d in range(1, max(1, limit) + 1) if common % d == 0)


def _chosen(wanted: str, micro_batches: Sequence[int], cards: int, most: int | None = None) -> int:
    if wanted == AUTO:
        limit = cards if cards else torch.get_num_threads()
        count = largest_share(micro_batches, limit if most is None else min(limit, most))
        if count < cards:
            known = " and ".join(str(number) for number in micro_batches if number)
            why = (f"no more divide the {known} micro-batches of an update (training.batch_seconds / "
                   "micro_batch_seconds)")
            if not known:
                why = "an update has no more crops (training.batch_seconds / crop_seconds)"
            say(f"{count} of {cards} GPUs are used: {why}")
        return count
    if not wanted.isdecimal() or int(wanted) < 1:
        raise UsageError(f"--ranks {wanted}: must be a number from 1, or auto")
    if 0 < cards < int(wanted):
        raise UsageError(f"--ranks {wanted}: this machine has {cards} GPU{'s' * (cards > 1)}, and each rank needs one; "
                         "use fewer ranks, or device=cpu")
    _check(int(wanted), micro_batches, most)
    return int(wanted)


def _check(count: int, micro_batches: Sequence[int], most: int | None = None) -> None:
    for number in micro_batches:
        if number % count:
            raise UsageError(f"{count} ranks cannot share {number} micro-batches evenly (training.batch_seconds / "
                             f"micro_batch_seconds); use {largest_share(micro_batches, count)}, or lower "
                             "training.micro_batch_seconds")
    if most is not None and count > most:
        raise UsageError(f"{count} ranks cannot share an update of {most} crops (training.batch_seconds / "
                         f"crop_seconds); use {largest_share(micro_batches, most)}, or raise training.batch_seconds")


def _start(rank: int, count: int, threads: int, port: int, on_cpu: bool) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                   "LOCAL_WORLD_SIZE": str(count), "HUBERTKIT_STORE": str(port), "OMP_NUM_THREADS": str(threads)}
    if on_cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen([*module_command("tools.main"), *sys.argv[1:]], env=environment,
                            stdin=subprocess.DEVNULL)


def _here(rank: int) -> str:
    return f"rank {rank} is here"


def _await(store: dist.Store, others: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all other ranks have started; to join them would wait for a dead one, too."""
    while not store.check([_here(rank) for rank in range(1, len(others) + 1)]):
        if any(process.poll() is not None for process in others):
            raise RankLost(f"{_lost(others) or 'a rank has ended'} before it began; what it said stands above")
        time.sleep(0.05)


@contextlib.contextmanager
def _watched(others: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End this process if another rank dies and nothing here notices: neither a computation that one rank does alone
    nor a GPU that waits for another's memory is told by a closed connection."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_SECONDS):
            if (lost := _lost(others)) and not done.wait(LAST_WORDS_SECONDS):
                tell(f"hubertkit: {lost}, so this process ends too; run the command again, it goes on from the last "
                     "checkpoint")
                for process in others:
                    process.kill()
                os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _lost(processes: Sequence[subprocess.Popen[bytes]]) -> str:
    """Which rank has failed, in words; empty where none has. One that was asked to stop leaves as the first saves."""
    for rank, process in enumerate(processes, 1):
        if (code := process.poll()) and code != Interrupted.exit_code:
            return f"rank {rank} has died ({f'killed by signal {-code}' if code < 0 else f'exit code {code}'})"
    return ""


def _end_with_parent() -> None:
    """End this rank some time after the first one has died, whatever it waits for."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        time.sleep(LAST_WORDS_SECONDS)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _end(processes: list[subprocess.Popen[bytes]], patience: float) -> None:
    """They end by themselves, for the first rank has left; one that has not after so many seconds is stopped."""
    until = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
