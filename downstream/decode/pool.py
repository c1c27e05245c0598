"""Decode many utterances on all cores; order is kept, and Ctrl-C ends every process.

Processes open the same memory-mapped emissions. Where they are forked (Linux), they share the language model as well.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from downstream.decode.hypothesis import Hypothesis
from downstream.emissions import Emissions
from upstream.errors import HubertkitError, UsageError

Start = Literal["fork", "spawn"]
Progress = Callable[[int, int], None]  # utterances done, utterances in all


class Decoder(Protocol):
    """What can be sent to another process and decodes there: `GreedyDecoder`, `BeamDecoder`."""

    def prepare(self) -> None:
        """Load what is needed; raise what is wrong with the settings."""

    def decode(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        """The hypothesis of (T, V) natural-log probabilities."""


def decode_all(emissions: Emissions, decoder: Decoder, ids: Sequence[str] | None = None, *,
               workers: int | None = None, progress: Progress | None = None,
               start: Start | None = None) -> list[Hypothesis]:
    """Decode utterances.

    Args:
        emissions: where they lie; each process opens the folder itself.
        decoder: pickled to each process.
        ids: which, and in which order the hypotheses come back; all in the order of the emissions by default.
        workers: processes; all cores by default. With 1 (or one utterance) this process decodes.
        progress: called in this process after each utterance with the number done and the number in all.
        start: how processes start; "fork" where there is one, by default. With "spawn" the calling script needs the
            usual `if __name__ == "__main__"`.

    Raises:
        UsageError: fewer than one worker.
        InputError: an id without emissions, or what the decoder raises.
        HubertkitError: a process was killed from outside, as the kernel does when memory runs out; the message names
            the utterances that the processes were at.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers}: at least 1 process is needed")
    ids = list(emissions.ids if ids is None else ids)
    lengths = [emissions.frames(id) for id in ids]  # raises for an unknown id
    decoder.prepare()  # here, so that what is wrong is said once, and forked processes find it loaded
    workers = min(workers or available_cores(), len(ids))
    found: dict[int, Hypothesis] = {}
    longest_first = sorted(range(len(ids)), key=lambda i: -lengths[i])  # so that no long one is left for the end
    results = (_here(emissions, decoder, ids, longest_first) if workers <= 1 else
               _elsewhere(emissions.folder, decoder, ids, longest_first, workers, start))
    with contextlib.closing(results):  # so that an interruption in `progress` ends the processes as well
        for index, hypothesis in results:
            found[index] = hypothesis
            if progress is not None:
                progress(len(found), len(ids))
    return [found[i] for i in range(len(ids))]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(emissions: Emissions, decoder: Decoder, ids: list[str],
          order: list[int]) -> Generator[tuple[int, Hypothesis], None, None]:
    for index in order:
        yield index, decoder.decode(ids[index], emissions.logprobs(ids[index]), emissions.rate)


def _elsewhere(folder: Path, decoder: Decoder, ids: list[str], order: list[int], workers: int,
               start: Start | None) -> Generator[tuple[int, Hypothesis], None, None]:
    method = start or ("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context(method)
    at = context.RawArray("b", len(order))  # shared: 1 where a process is at an utterance
    executor = ProcessPoolExecutor(workers, context, _begin, (folder, decoder, os.getpid(), at))
    try:
        futures: dict[Future[Hypothesis], int] = {executor.submit(_decode, ids[i], i): i for i in order}
        for future in as_completed(futures):
            yield futures[future], future.result()
        executor.shutdown()
    except BrokenProcessPool as error:
        busy = ", ".join(ids[i] for i in order if at[i])
        raise HubertkitError(f"a decoding process was killed{f' (they were at {busy})' if busy else ''}, perhaps for "
                             "lack of memory; use fewer workers or a smaller language model") from error
    finally:
        # on success all have ended; after an error or Ctrl-C nobody waits for what they are at
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # they have nothing to save, and may still have the parent's handler for SIGTERM
        executor.shutdown(cancel_futures=True)


_mine: tuple[Emissions, Decoder, Any] | None = None  # of a worker process


def _begin(folder: Path, decoder: Decoder, parent: int, at: Any) -> None:
    """Make this process a worker: quiet on signals, one thread, gone when its parent is."""
    global _mine
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # the parent's handlers save its work, which is not ours
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    decoder.prepare()
    _mine = Emissions.load(folder), decoder, at


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _decode(id: str, index: int) -> Hypothesis:
    if _mine is None:
        raise RuntimeError("a decoding process was not prepared")
    emissions, decoder, at = _mine
    at[index] = 1
    found = decoder.decode(id, emissions.logprobs(id), emissions.rate)
    at[index] = 0
    return found
