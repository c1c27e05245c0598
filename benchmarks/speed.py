"""How fast is an update of pretraining, beside everything a person would use instead?

    hubertkit bench speed --out speed.json          python -m benchmarks.speed --device cuda --out speed.json

The systems take turns, so that all meet the same noise of the machine, and the rate of a large matrix product is
measured in between: `share_of_peak` is the work's nominal arithmetic over the time and that rate. It needs only torch,
torchaudio, transformers and numpy; a peer that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.apart import in_a_process, peak_memory
from benchmarks.plain import about
from benchmarks.results import results_file
from benchmarks.speed_systems import SYSTEMS, Step, Work
from upstream.device import finish
from upstream.disk import write_json
from upstream.errors import HubertkitError
from upstream.frames import CONV_GRID
from upstream.training.allocator import keep_memory
from upstream.training.compiling import has_compiler

MATMUL = 4096  # rows and columns of the product whose rate is the peak
BASE_UPDATES, BASE_MINUTES = 400_000, 46.7  # of the paper's second iteration, audio an update


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    device: torch.device
    models: tuple[str, ...] = ("base",)
    precisions: tuple[str, ...] = ("bf16", "float32")
    systems: tuple[str, ...] = ("hubertkit", "torchaudio", "transformers")
    batch: int = 4
    seconds: float = 8.0
    warm_up: int = 3  # the first updates still take memory from the system
    repeats: int = 5
    matmul: int = MATMUL
    memory: bool = True


def measure(plan: Plan, say: Callable[[str], None] = print, faults: list[dict[str, str]] | None = None
            ) -> Iterator[list[dict[str, Any]]]:
    """One row for each model, precision and system; `hubertkit` is ours.

    Args:
        faults: gets what went wrong with a system, which is then left out.

    Yields:
        The rows of a model in a precision, with `system`, `model`, `device`, `precision`, `seconds` (median of an
        update), `spread` (its quartiles), `audio_seconds` (of an update), `tflop` (nominal: forward and backward of the
        plain model), `share_of_peak`, `peak_tflops` (of the matrix product), `peak_memory` (bytes above those held
        before).
    """
    if plan.device.type == "cpu":
        keep_memory()  # as training does; the peers, which leave that to their users, gain as much
    for model in plan.models:
        for precision in plan.precisions:
            yield list(_compare(plan, Work(model, plan.batch, plan.seconds, plan.device, precision), say,
                                [] if faults is None else faults))


def tflop(work: Work) -> float:
    """Nominal arithmetic of one update: the forward pass, and two products backward for each of its products.

    Nobody asks for the gradient of the waveform, so the first convolution counts twice and not three times.
    Element-wise work counts nothing. (torch's own counter multiplies the backward pass of grouped convolutions by their
    groups.)
    """
    forward = forward_flop(work)
    return (3 * sum(forward.values()) - forward["first convolution"]) / 1e12


def forward_flop(work: Work) -> dict[str, int]:
    """Operations of the matrix products and convolutions of a forward pass, part by part; a multiply-add is two."""
    shape, frames, crops = work.shape, work.frames, work.batch
    width, dim = shape["width"], shape["conv_dim"]
    samples, convolutions = work.samples, []
    for i, (kernel, stride) in enumerate(zip(CONV_GRID.kernels, CONV_GRID.strides)):
        samples = (samples - kernel) // stride + 1
        convolutions.append(2 * crops * samples * dim * (dim if i else 1) * kernel)
    every, masked = frames * crops, int(work.mask().sum())
    return {
        "first convolution": convolutions[0],
        "convolutions": sum(convolutions[1:]),
        "projection": 2 * every * dim * width,
        "positions": 2 * crops * (frames + 1) * width * (width // 16) * 128,
        "linear maps": shape["layers"] * 2 * every * width * (4 * width + 2 * shape["ffn"]),
        "attention": shape["layers"] * 4 * crops * frames**2 * width,
        "head": 2 * masked * 256 * (width + work.classes),
    }


def matmul_rate(size: int, device: torch.device, precision: str) -> float:
    """TFLOP/s of one large square matrix product."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}[precision]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    finish(device)
    began = time.perf_counter()
    a @ b
    finish(device)
    return 2 * size**3 / (time.perf_counter() - began) / 1e12


def pretraining_gpu_hours(seconds: float, audio_seconds: float) -> float:
    """Hours that BASE's 400,000 updates of 46.7 minutes take at a measured time for `audio_seconds` of audio."""
    return BASE_UPDATES * BASE_MINUTES * 60 / audio_seconds * seconds / 3600


@dataclass
class _Measured:
    """Of a model in a precision: seconds of each update and bytes of memory, by system; TFLOP/s of the product."""

    times: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)


def _compare(plan: Plan, work: Work, say: Callable[[str], None], faults: list[dict[str, str]]
             ) -> Iterator[dict[str, Any]]:
    nominal = tflop(work)
    way = _one_after_the_other if plan.device.type == "cuda" else _in_turns
    found = way(plan, work, say, faults)
    peak = statistics.median(found.rates)
    for name, taken in found.times.items():
        seconds = statistics.median(taken)
        audio_seconds = work.batch * work.seconds
        row: dict[str, Any] = {
            "system": name, "model": work.model, "device": plan.device.type, "precision": work.precision,
            "seconds": round(seconds, 5), "spread": [round(x, 5) for x in _quartiles(taken)],
            "audio_seconds": audio_seconds, "tflop": round(nominal, 4),
            "share_of_peak": round(nominal / seconds / peak, 4), "peak_tflops": round(peak, 3),
            "peak_memory": found.memory[name]}
        if work.model == "base" and plan.device.type == "cuda":
            row["pretraining_gpu_hours"] = round(pretraining_gpu_hours(seconds, audio_seconds), 1)
        say(f"{name}: {seconds:.3f} s, {100 * row['share_of_peak']:.0f}% of {peak:.2f} TFLOP/s")
        yield row


def _one_after_the_other(plan: Plan, work: Work, say: Callable[[str], None], faults: list[dict[str, str]]) -> _Measured:
    """On a GPU, which is a quiet machine, and where memory is counted."""
    found = _Measured()
    for name in plan.systems:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()  # what earlier ones and torch's libraries left
        with _finding(faults, name, work, say):
            step = _built(name, work, plan, say)
            found.times[name] = [_timed(step, plan.device) for _ in range(plan.repeats)]
            found.memory[name] = torch.cuda.max_memory_allocated() - before
        step = None  # type: ignore[assignment]
        gc.collect()
        torch.cuda.empty_cache()
    found.rates = [matmul_rate(2 * plan.matmul, plan.device, work.precision) for _ in range(plan.repeats)]
    return found


def _in_turns(plan: Plan, work: Work, say: Callable[[str], None], faults: list[dict[str, str]]) -> _Measured:
    """On a CPU, so that all meet the same noise; memory afterwards, in processes of their own."""
    found, steps = _Measured(), dict[str, Step]()
    for name in plan.systems:
        with _finding(faults, name, work, say):
            steps[name] = _built(name, work, plan, say)
    for _ in range(plan.repeats):
        for name in list(steps):  # names alone: a step would keep its system while memory is measured
            sound = len(faults)
            with _finding(faults, name, work, say):
                found.times.setdefault(name, []).append(_timed(steps[name], plan.device))
            if len(faults) > sound:
                del steps[name], found.times[name]
        found.rates.append(matmul_rate(plan.matmul, plan.device, work.precision))
    steps.clear()
    found.memory = {name: _peak_memory(name, work, say) if plan.memory else None for name in found.times}
    return found


def _built(name: str, work: Work, plan: Plan, say: Callable[[str], None]) -> Step:
    """A system's step, warmed up."""
    say(f"{work.model}, {work.precision}: {name}")
    step = SYSTEMS[name](work)
    for _ in range(plan.warm_up):
        step()
    return step


@contextlib.contextmanager
def _finding(faults: list[dict[str, str]], name: str, work: Work, say: Callable[[str], None]) -> Iterator[None]:
    """Note and say what goes wrong with a system, and let the others go on."""
    try:
        yield
    except Exception as error:
        line = _in_a_line(error)
        faults.append({"system": name, "model": work.model, "precision": work.precision, "error": line})
        say(f"{name} is left out: {line}")


def _in_a_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _timed(step: Step, device: torch.device) -> float:
    finish(device)
    began = time.perf_counter()
    step()
    finish(device)
    return time.perf_counter() - began


def _peak_memory(name: str, work: Work, say: Callable[[str], None]) -> int | None:
    """Bytes that two updates add to a fresh process that has imported everything; None, said, where it was killed."""
    try:
        return in_a_process(f"memory of {name}", _added_memory, name, work)
    except HubertkitError:
        say(f"{name}: the process that measured its memory was killed, perhaps for lack of memory")
        return None
    except Exception as error:
        say(f"{name}: its memory could not be measured ({_in_a_line(error)})")
        return None


def _added_memory(name: str, work: Work) -> int:
    keep_memory()
    SYSTEMS[name](replace(work, model="tiny", batch=1, seconds=1.0))()  # imports and thread pools are not counted
    before = peak_memory()
    step = SYSTEMS[name](work)
    step()
    step()
    return peak_memory() - before


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return quartiles[0], quartiles[2]


def profile(work: Work, rows: int = 15) -> list[dict[str, Any]]:
    """Where the time of our update goes: operator, share of the time, calls."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    step = SYSTEMS["hubertkit"](work)
    for _ in range(3):
        step()
    cuda = work.device.type == "cuda"
    with profiler(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as found:
        step()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [e for e in found.key_averages() if not cuda or (  # as in torch's own table: kernels, each once
        e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation)]
    events.sort(key=lambda e: -getattr(e, key))
    whole = sum(getattr(e, key) for e in events)
    return [{"operator": e.key, "share": round(getattr(e, key) / whole, 4), "calls": e.count} for e in events[:rows]]


def plan_for(device: str, quick: bool) -> Plan:
    """The standard measurement on a device; `quick` is a tiny model, to see that it runs."""
    plan = Plan(torch.device(device))
    if device == "cuda":
        plan = replace(plan, models=("base", "large"), precisions=("bf16",), systems=tuple(SYSTEMS), batch=8,
                       seconds=87.5 / 8, warm_up=5, repeats=20)
    if quick:
        plan = replace(plan, models=("tiny",), batch=2, seconds=1.0, repeats=2, matmul=256, memory=False)
    return plan


def run(plan: Plan, say: Callable[[str], None] = print,
        save: Callable[[dict[str, Any]], None] = lambda content: None) -> dict[str, Any]:
    """Rows and the profile of our update, for a results file; `save` is given what there is whenever there is more.

    Raises HubertkitError at the end where our own system failed: a defect, and not a finding as a peer's.
    """
    began = time.monotonic()
    content: dict[str, Any] = {"benchmark": "speed", "rows": []}
    if plan.device.type == "cuda":
        content["compiled"] = has_compiler(plan.device)
    faults: list[dict[str, str]] = []
    for rows in measure(plan, say, faults):
        content["rows"] += rows
        content["seconds"] = round(time.monotonic() - began, 1)
        if faults:
            content["faults"] = faults
        save(content)
    if ours := [fault for fault in faults if fault["system"] == "hubertkit"]:
        raise HubertkitError(f"hubertkit failed on {ours[0]['model']} in {ours[0]['precision']}: {ours[0]['error']}")
    content["profile"] = profile(Work(plan.models[0], plan.batch, plan.seconds, plan.device, plan.precisions[0]))
    content["seconds"] = round(time.monotonic() - began, 1)
    save(content)
    return content


def main() -> None:
    """Measure and write plain JSON: what `hubertkit bench speed` completes with versions and machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("speed.json"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    with results_file(given.out, "speed"):
        run(plan_for(given.device, given.quick),
            save=lambda found: write_json(given.out, about("benchmarks.speed") | found))


if __name__ == "__main__":
    main()
