"""The decoders that are compared, and the measurement of one of them in a process of its own.

All find only words of the same language model, except that pyctcdecode can also spell others at a price of
10 log10 units before weighing, which is how it is made.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.apart import peak_memory
from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import AnyDecoder, Name
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import write_hypotheses
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.pool import decode_all
from downstream.emissions import Emissions
from upstream.errors import HubertkitError

ENOUGH_SECONDS = 60.0  # of decoding, after which a measurement is not repeated
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Models:
    """One language model as the decoders read it: ARPA for KenLM, arrays for our own search."""

    arpa: Path
    arrays: Path


@dataclass(frozen=True)
class Family:
    """A decoder with all its settings but weights and beam.

    Attributes:
        name: in tables and plots.
        decoder: which.
        beams: to measure.
        tuned_at: beam that the weights are tuned with; 0: there is nothing to tune.
        threshold: `beam_threshold`; None: the decoder's own.
        tokens_per_frame: symbols tried in a frame; None: all.
        device: of torch; None: numpy, or what the peer is written in.
        weights_of: name of the family whose weights it takes, where that makes the same search; "": its own.
    """

    name: str
    decoder: Name
    beams: tuple[int, ...] = (0,)
    tuned_at: int = 0
    threshold: float | None = None
    tokens_per_frame: int | None = None
    device: str | None = None
    weights_of: str = ""

    def make(self, emissions: Emissions, models: Models, beam: int, lm_weight: float = 0.0,
             word_score: float = 0.0) -> AnyDecoder:
        """The decoder for the symbols of emissions."""
        symbols, blank = emissions.symbols, emissions.blank
        if self.decoder == Name.greedy:
            return GreedyDecoder(symbols, blank)
        weights: dict[str, Any] = {"lm_weight": lm_weight, "word_score": word_score, "beam": beam,
                                   "tokens_per_frame": self.tokens_per_frame}
        if self.decoder == Name.beam:
            return BeamDecoder(symbols, blank, models.arpa, **weights)
        if self.threshold is not None:
            weights["beam_threshold"] = self.threshold
        if self.decoder == Name.lexicon:
            return LexiconDecoder(symbols, blank, models.arpa, **weights)
        return BatchedDecoder(symbols, blank, models.arrays, device=self.device, **weights)


REFERENCE = "flashlight"
FAMILIES = (
    Family("greedy", Name.greedy),
    Family(REFERENCE, Name.lexicon, (50, 100, 500), 100, threshold=50.0),
    Family("flashlight, 8 tokens", Name.lexicon, (50, 100, 500), 100, threshold=25.0, tokens_per_frame=8),
    Family("pyctcdecode", Name.beam, (25, 100), 100),
    Family("batched, threshold 12", Name.batched, (12, 50), 50, threshold=12.0),
    Family("batched", Name.batched, (10, 25, 50, 100, 200), 50),
)


_NEEDS = {Name.lexicon: ("flashlight", "kenlm"), Name.beam: ("pyctcdecode", "kenlm")}


def lacking(family: Family) -> str | None:
    """A package that a peer needs and that is not installed, as on a machine that is borrowed to measure on."""
    return next((name for name in _NEEDS.get(family.decoder, ()) if find_spec(name) is None), None)


def on_device(family: Family, device: str) -> Family:
    """The family by torch on a device, with the weights found on the CPU: the search is the same."""
    return Family(f"{family.name}, {device}", family.decoder, family.beams, family.tuned_at, family.threshold,
                  family.tokens_per_frame, device, family.name)


@dataclass(frozen=True)
class Job:
    """A measurement: what is decoded with what, how, and where the texts go."""

    emissions: Path
    decoder: AnyDecoder
    workers: int
    repeats: int
    hypotheses: Path


def measured(job: Job, name: str) -> dict[str, Any]:
    """`measure` in a process that has done nothing else, with one thread for each library.

    Raises:
        HubertkitError: the process failed or was killed.
    """
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1"),  # libraries read it while they are loaded
                   "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finished = subprocess.run([sys.executable, "-m", __name__], input=pickle.dumps(job), stdout=subprocess.PIPE,
                              env=environment, check=False)
    if finished.returncode:
        how = ("ended with the error above" if finished.returncode > 0 else
               f"was killed by signal {-finished.returncode}, perhaps for lack of memory")
        raise HubertkitError(f"{name}: the process that measured it {how}; the same command again goes on there")
    return dict(json.loads(finished.stdout))


def measure(job: Job) -> dict[str, Any]:
    """Load, decode, and say how long each took; to be called in a process of its own.

    Decoding is repeated while it has taken less than a minute in all. The first use, of one short utterance, is not
    counted, nor is loading.

    Returns:
        `seconds` of each repeat, `cpu_seconds` of all processes in each, `load_seconds`, `peak_memory` in bytes (of
        several processes, that of the largest), `memory_at_start` of the interpreter and its libraries, `gpu_memory` in
        bytes or None.
    """
    emissions = Emissions.load(job.emissions)
    at_start, began = peak_memory(), time.perf_counter()
    job.decoder.prepare()
    load_seconds = time.perf_counter() - began
    decode_all(emissions, job.decoder, [min(emissions.ids, key=emissions.frames)], workers=1)
    taken: list[float] = []
    busy: list[float] = []
    while len(taken) < job.repeats and sum(taken) < ENOUGH_SECONDS:
        began, busy_before = time.perf_counter(), _cpu_seconds()
        found = decode_all(emissions, job.decoder, workers=job.workers)
        taken.append(time.perf_counter() - began)
        busy.append(_cpu_seconds() - busy_before)
    write_hypotheses(job.hypotheses, found)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 if job.workers > 1 else 0
    return {"seconds": [round(s, 4) for s in taken], "cpu_seconds": [round(s, 4) for s in busy],
            "load_seconds": round(load_seconds, 3), "peak_memory": max(peak_memory(), children),
            "memory_at_start": at_start, "gpu_memory": _gpu_memory(getattr(job.decoder, "device", None))}


def _cpu_seconds() -> float:
    """That this process and those which it has waited for were at work: other programs count for less in it."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF,
                                                                                  resource.RUSAGE_CHILDREN)))


def _gpu_memory(device: str | None) -> int | None:
    import torch

    return None if device is None or device == "cpu" else torch.cuda.max_memory_allocated(device)


if __name__ == "__main__":
    print(json.dumps(measure(pickle.load(sys.stdin.buffer))))
