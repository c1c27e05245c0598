"""What a second process is worth: audio seconds a second of one pretraining, with one rank of one thread and with more.

    hubertkit bench ranks --out ranks.json

The first updates of `hubert-tiny` on synthetic audio, exactly as `hubertkit pretrain` makes them: decoding, crops, the
sum of gradients, the log. Beside ranks that share every update run as many trainings apart from each other: what they
reach together is what the cores can give, since caches, memory and clock are shared by them too. All take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from upstream import ranks
from upstream.audio.corpora.folder import import_folder
from upstream.audio.cutting import encoded
from upstream.course import Course, following
from upstream.disk import disk_errors
from upstream.errors import HubertkitError
from upstream.frames import SAMPLE_RATE
from upstream.keyed import keyed
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.progress import say
from upstream.recipe import load_recipe
from upstream.training.monitor import read_metrics
from upstream.training.shared_sum import shared_sum

_NAMES = {"ranks": "ranks of one training", "apart": "trainings apart"}
GOAL = 1.8  # times one rank, of two
UTTERANCES, SECONDS = 48, 10.0  # of the recordings: 15 updates of the recipe an epoch
HOST = "127.0.0.1"
VALUES = 4_900_000  # parameters of hubert-tiny


@dataclass(frozen=True)
class Plan:
    """What is measured: `updates` of each training, logged every `log_every`; the first reading, while audio is
    decoded for the first time and memory is taken, is left out."""

    counts: tuple[int, ...] = (1, 2)
    updates: int = 100
    log_every: int = 20
    repeats: int = 2
    overrides: tuple[str, ...] = ()  # of hubert-tiny

    def __post_init__(self) -> None:
        if self.counts[:1] != (1,) or self.updates < 2 * self.log_every:
            raise ValueError("one rank comes first, what all are compared with, and a training has two readings")


def run(plan: Plan, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Rows for a results file.

    Returns:
        Rows of `what` (`ranks`: they share every update; `apart`: a training each), `processes`, `threads` (of each),
        `audio_seconds_per_second` (of all together: median), `spread` (its quartiles), `times_one`, and `goal` where
        there is one. `times_one` is over one rank in the same turn (median over `turns`). And `sums`: milliseconds in
        which two ranks add up the gradients of `hubert-tiny`, all copies included, through shared memory (None where
        there is none) and by messages.
    """
    readings: dict[tuple[str, int], list[list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="ranks-") as made:
        folder = Path(made)
        words = _prepared(folder, plan)
        for turn in range(plan.repeats):
            for what, count in _kinds(plan):
                say(f"turn {turn + 1} of {plan.repeats}: {_NAMES[what]}, {count} of them")
                found = _measured(folder / f"turn{turn}", words, what, count)
                readings.setdefault((what, count), []).append(found)
                say(f"{statistics.median(found):.1f} audio s/s")
    return {"benchmark": "ranks", "recipe": "hubert-tiny", "updates": plan.updates, "overrides": list(plan.overrides),
            "sums": sums(), "rows": [_row(what, count, readings) for what, count in readings]}


def sums(values: int = VALUES) -> dict[str, Any]:
    """What adding up so many float32 takes two ranks of one thread: `values`, `shared_memory_ms`, `messages_ms`."""
    store = dist.TCPStore(HOST, 0, 2, True, wait_for_workers=False)
    queue = multiprocessing.get_context("spawn").Queue()
    _all(_add_up, [(rank, store.port, values, queue) for rank in range(2)])
    return {"values": values, **queue.get()}


def _add_up(rank: int, port: int, values: int, queue: Any) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    ranks.join(rank, 2, dist.TCPStore(HOST, port, 2, False), 1, on_cpu=True)
    gradient, found = torch.ones(values), torch.empty(values)
    shared = shared_sum(values)

    def through_memory() -> None:
        assert shared is not None
        shared.own.copy_(gradient)
        found.copy_(shared.add_up())

    def by_messages() -> None:
        found.copy_(gradient)
        ranks.add_up(found)

    taken = {"shared_memory_ms": None if shared is None else _milliseconds(through_memory),
             "messages_ms": _milliseconds(by_messages)}
    if rank == 0:
        queue.put(taken)
    ranks.leave()


def _milliseconds(work: Callable[[], None], repeats: int = 60, left_out: int = 10) -> float:
    times = []
    for _ in range(repeats):
        ranks.meet()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(times[left_out:]), 2)


def _kinds(plan: Plan) -> list[tuple[str, int]]:
    return [(what, count) for count in plan.counts for what in ("ranks", "apart") if (what, count) != ("apart", 1)]


def _row(what: str, count: int, readings: dict[tuple[str, int], list[list[float]]]) -> dict[str, Any]:
    own, one = readings[what, count], readings["ranks", 1]
    every = [value for turn in own for value in turn]
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(own, one, strict=True)]
    goal = {"goal": GOAL} if (what, count) == ("ranks", 2) else {}
    return {"what": what, "processes": count, "threads": 1,
            "audio_seconds_per_second": round(statistics.median(every), 1),
            "spread": [round(float(q), 1) for q in np.quantile(every, (0.25, 0.75))],
            "times_one": round(statistics.median(ratios), 3), "turns": [round(ratio, 3) for ratio in ratios], **goal}


def _prepared(folder: Path, plan: Plan) -> list[str]:
    """Recordings, teacher and units, the same for all trainings; gives the words of their recipe."""
    recordings = folder / "recordings"
    recordings.mkdir()
    for number in range(UTTERANCES):
        with disk_errors(path := recordings / f"u{number:03}.flac"):
            path.write_bytes(encoded(_tones(number)))
    import_folder(recordings, None).save(folder / "recordings.arrow")
    words = ["device=cpu", f"data={folder / 'recordings.arrow'}", f"training.updates={plan.updates}",
             f"training.log_every={plan.log_every}", f"training.validate_every={plan.updates}",
             f"training.save_every={plan.updates}", "rounds.0.teacher.sample_frames=10000", *plan.overrides]
    with following(Course(folder / "until-units", None, "round1/units")):
        pretrain(load_recipe(PretrainRecipe, "hubert-tiny", words, SHIPPED), folder / "until-units", lambda line: None)
    return words


def _tones(number: int) -> np.ndarray:
    """(S,) float32: a voice-like tone whose pitch moves twelve times a second, in noise."""
    rng = keyed(0, "ranks", number)
    samples = int(SECONDS * SAMPLE_RATE)
    pitch = rng.uniform(0.02, 0.6, samples // 1333 + 1).repeat(1333)[:samples]
    return (0.2 * np.sin(np.cumsum(pitch)) + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def _measured(folder: Path, words: list[str], what: str, count: int) -> list[float]:
    """Audio seconds a second, of all processes together, reading by reading."""
    outs = [folder / f"{what}{count}-{i}" for i in range(1 if what == "ranks" else count)]
    for out in outs:
        shutil.copytree(folder.parent / "until-units", out)
    if what == "ranks":
        store = dist.TCPStore(HOST, 0, count, True, wait_for_workers=False)
        _all(_train, [(rank, count, store.port, words, outs[0]) for rank in range(count)])
    else:
        _all(_train, [(0, 1, 0, words, out) for out in outs])
    logs = [read_metrics(out / "round1" / "encoder", "train")[1:] for out in outs]
    return [sum(r["audio_seconds_per_second"] for r in together) for together in zip(*logs, strict=True)]


def _all(work: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """Call `work` with each of these arguments, each in a process, at the same time. Raises HubertkitError if one
    fails."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=call) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise HubertkitError("a process of the measurement failed; what it said stands above")


def _train(rank: int, count: int, port: int, words: list[str], out: Path) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if count > 1:
        ranks.join(rank, count, dist.TCPStore(HOST, port, count, False), 1, on_cpu=True)
    try:
        pretrain(load_recipe(PretrainRecipe, "hubert-tiny", words, SHIPPED), out, lambda line: None, until_round=1)
    finally:
        ranks.leave()
    sys.stderr.flush()
    os._exit(0)  # as `tools.main` does: threads of torch.distributed now and then abort a process that ends by itself
