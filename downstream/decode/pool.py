"""Decode many utterances on all cores; order is kept, and Ctrl-C ends every process.

Processes open the same memory-mapped emissions; the n-gram arrays of our own search are mapped likewise. Where they
are forked (Linux), they share any other language model as well. A task is an utterance, or a group of utterances of
like length for a decoder that searches many at once.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from downstream.decode.alphabet import alphabet
from downstream.decode.confidence import spellings_of, with_confidences
from downstream.decode.hypothesis import Hypothesis
from downstream.emissions import Emissions
from upstream.control_groups import available_cores
from upstream.errors import HubertkitError, UsageError, some_of
from upstream.stopping import heeded

Start = Literal["fork", "spawn"]
Progress = Callable[[int, int], None]  # utterances done, utterances in all
_TASKS = 3  # groups for each process at least, so that none waits long for the last one
_WAITING = 16  # groups for each process that it is given beforehand


class Decoder(Protocol):
    """What can be sent to another process and decodes there: `GreedyDecoder`, `BeamDecoder`, `LexiconDecoder`."""

    def prepare(self) -> None:
        """Load what is needed; raise what is wrong with the settings."""

    def decode(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        """The hypothesis of (T, V) natural-log probabilities."""


@runtime_checkable
class BatchDecoder(Decoder, Protocol):
    """A decoder that is faster with many utterances at once: `BatchedDecoder`."""

    @property
    def batch(self) -> int:
        """Utterances searched in step."""

    @property
    def device(self) -> str | None:
        """Of torch. What is neither None nor the CPU is used by one process alone."""

    def decode_batch(self, ids: Sequence[str], logprobs: Sequence[np.ndarray], rate: float) -> list[Hypothesis]:
        """As `decode`, of many; the order is kept, and each gets what it gets alone."""


def decode_all(emissions: Emissions, decoder: Decoder, ids: Sequence[str] | None = None, *,
               workers: int | None = None, progress: Progress | None = None, start: Start | None = None,
               confidences: bool = False) -> list[Hypothesis]:
    """Decode utterances. Arguments and errors as `decode_each`, which keeps no hypotheses.

    Args:
        ids: which, and in which order the hypotheses come back; all in the order of the emissions by default.
    """
    with contextlib.closing(decode_each(emissions, decoder, ids, workers=workers, progress=progress, start=start,
                                        confidences=confidences)) as each:
        found = dict(each)
    return [found[i] for i in range(len(found))]


def decode_each(emissions: Emissions, decoder: Decoder, ids: Sequence[str] | None = None, *,
                workers: int | None = None, progress: Progress | None = None, start: Start | None = None,
                confidences: bool = False) -> Generator[tuple[int, Hypothesis], None, None]:
    """Decode utterances, and give each as soon as it is done with its place among the ids. Close it where it is left
    before its end, which ends the processes.

    Args:
        emissions: where they lie; each process opens the folder itself.
        decoder: pickled to each process.
        ids: which; all in the order of the emissions by default.
        workers: processes; all cores by default. With 1 (or one utterance) this process decodes, and where the decoder
            uses a GPU.
        progress: called in this process after each utterance with the number done and the number in all.
        start: how processes start; "fork" where there is one, by default. With "spawn" the calling script needs the
            usual `if __name__ == "__main__"`.
        confidences: whether hypotheses say how sure the emissions are of their words.

    Raises:
        UsageError: fewer than one worker, or several for one GPU; no emissions, no decoder, no list of ids.
        InputError: an id without emissions, or what the decoder raises.
        HubertkitError: a process was killed from outside, as the kernel does when memory runs out; the message names
            the utterances that the processes were at.
    """
    if not isinstance(emissions, Emissions):
        raise UsageError(f"emissions={emissions!r:.60}: expected Emissions; Emissions.load opens a folder of them")
    if not hasattr(decoder, "decode"):
        raise UsageError(f"decoder={decoder!r:.60}: expected a decoder; Choice(...).make(symbols, blank) gives one")
    if isinstance(ids, str):
        raise UsageError(f"ids={ids!r}: a single one; give a list of them")
    if start is not None and start not in multiprocessing.get_all_start_methods():
        raise UsageError(f"start={start!r}: processes start by {' or '.join(get_args(Start))}")
    workers = processes(decoder, workers)
    ids = list(emissions.ids if ids is None else ids)
    lengths = [emissions.frames(id) for id in ids]  # raises for an unknown id
    decoder.prepare()  # here, so that what is wrong is said once, and forked processes find it loaded
    workers = min(workers, len(ids))
    longest_first = sorted(range(len(ids)), key=lambda i: -lengths[i])  # so that no long one is left for the end
    groups = _groups(decoder, longest_first, workers)
    results = (_here(emissions, decoder, ids, groups, confidences) if workers <= 1 else
               _elsewhere(emissions.folder, decoder, ids, groups, workers, start, confidences))
    with contextlib.closing(results):  # so that an interruption in `progress` ends the processes as well
        for done, (index, hypothesis) in enumerate(results, 1):
            yield index, hypothesis
            if progress is not None:
                progress(done, len(ids))


def processes(decoder: Decoder, workers: int | None) -> int:
    """How many processes `decode_all` takes for many utterances. Raises UsageError as that does."""
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise UsageError(f"workers={workers!r}: at least 1 process is needed, a whole number")
    if isinstance(decoder, BatchDecoder) and decoder.device not in (None, "cpu"):
        if workers is not None and workers > 1:
            raise UsageError(f"workers={workers} for device {decoder.device}: one process uses it alone")
        return 1
    return workers or available_cores()


def _groups(decoder: Decoder, order: list[int], workers: int) -> list[list[int]]:
    """Utterances of each task, in the order given."""
    size = 1
    if isinstance(decoder, BatchDecoder):
        size = decoder.batch if workers <= 1 else min(decoder.batch, math.ceil(len(order) / (workers * _TASKS)))
    return [order[first:first + size] for first in range(0, len(order), size)]


def _decode(emissions: Emissions, decoder: Decoder, ids: list[str], sure: bool) -> list[Hypothesis]:
    rows = [emissions.logprobs(id) for id in ids]
    if isinstance(decoder, BatchDecoder):
        found = decoder.decode_batch(ids, rows, emissions.rate)
    else:
        found = [decoder.decode(id, each, emissions.rate) for id, each in zip(ids, rows)]
    if not sure:
        return found
    columns, spelled = alphabet(emissions.symbols, emissions.blank), spellings_of(decoder)
    return [with_confidences(one, columns.usable(each), columns, emissions.rate, spelled)
            for one, each in zip(found, rows)]


def _here(emissions: Emissions, decoder: Decoder, ids: list[str], groups: list[list[int]],
          sure: bool) -> Generator[tuple[int, Hypothesis], None, None]:
    for group in groups:
        yield from zip(group, _decode(emissions, decoder, [ids[i] for i in group], sure))


def _elsewhere(folder: Path, decoder: Decoder, ids: list[str], groups: list[list[int]], workers: int,
               start: Start | None, sure: bool) -> Generator[tuple[int, Hypothesis], None, None]:
    method = start or ("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    context = multiprocessing.get_context(method)
    at = context.RawArray("b", len(ids))  # shared: 1 where a process is at an utterance
    executor = ProcessPoolExecutor(workers, context, _begin, (folder, decoder, os.getpid(), at, sure))
    own = executor._processes  # other threads, and the caller, have children of their own
    done: SimpleQueue[Future[list[Hypothesis]]] = SimpleQueue()
    at_work: dict[Future[list[Hypothesis]], list[int]] = {}
    left = iter(groups)

    def submit(count: int) -> None:
        for group in islice(left, count):
            future = executor.submit(_decode_group, [ids[i] for i in group], group)
            at_work[future] = group
            future.add_done_callback(done.put)

    try:
        submit(_WAITING * workers)  # not all of them: a million tasks take memory, and so do results that wait
        while at_work:
            future = done.get()
            group = at_work.pop(future)
            found = future.result()
            submit(1)
            del future
            yield from zip(group, found)
        executor.shutdown()
    except BrokenProcessPool as error:
        names = [ids[i] for group in groups for i in group if at[i]]
        busy = f" (they were at {some_of(names)})" if names else ""
        raise HubertkitError(f"a decoding process was killed{busy}, perhaps for lack of memory; use fewer workers or a "
                             "smaller language model") from error
    finally:
        # on success all have ended; after an error or Ctrl-C nobody waits for what they are at
        for process in [one for one in own.values() if one.is_alive()]:
            process.kill()  # they have nothing to save, and may still have the parent's handler for SIGTERM
        executor.shutdown(cancel_futures=True)


_mine: tuple[Emissions, Decoder, Any, bool] | None = None  # of a worker process


def _begin(folder: Path, decoder: Decoder, parent: int, at: Any, sure: bool) -> None:
    """Make this process a worker: quiet on signals, one thread, gone when its parent is."""
    global _mine
    for number in heeded():
        signal.signal(number, signal.SIG_DFL)  # the parent's handlers save its work, which is not ours
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    decoder.prepare()
    _mine = Emissions.load(folder), decoder, at, sure


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _decode_group(ids: list[str], indices: list[int]) -> list[Hypothesis]:
    if _mine is None:
        raise RuntimeError("a decoding process was not prepared")
    emissions, decoder, at, sure = _mine
    for index in indices:
        at[index] = 1
    found = _decode(emissions, decoder, ids, sure)
    for index in indices:
        at[index] = 0
    return found
