"""Manifests and batch plans at the size of the largest corpora: Libri-light's 60,000 hours cut into 14 million
utterances.

    python -m benchmarks.scale [--out scale.json]      (or hubertkit bench scale)

A synthetic manifest is written (0.95 GB; nothing in it exists). Then a process of its own opens it, computes the frames
of every utterance and the plan of an epoch as pretraining does (crops of 250,000 samples, micro-batches of 87.5 s), and
takes the first update; its peak memory is what the kernel says, the pages of the mapped file that were read included.
The file has just been written, so it comes from the page cache. One thread.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.apart import in_a_process, peak_memory
from benchmarks.results import results_file, write_results
from upstream.audio.batches import CropPlan, crop_frames
from upstream.audio.manifest import Manifest
from upstream.audio.manifest_file import COLUMNS, table_hash, write_table
from upstream.frames import CONV_GRID, SAMPLE_RATE, frame_counts
from upstream.keyed import keyed

UTTERANCES, HOURS = 14_000_000, 60_000.0
LIMITS = {"open": (1.0, None), "plan": (60.0, 2 << 30)}  # seconds, bytes
RECORDING_UTTERANCES = 64  # Libri-light's recordings are chapters: some 220,000 of 16 minutes
SPEAKERS = 7439
CROP_SECONDS, LEAST_SECONDS, MICRO_BATCH_SECONDS = 15.625, 2.0, 87.5  # of HuBERT BASE
ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Measured:
    """What the other process found: seconds, peak memory in bytes, and how large the plan is."""

    open_seconds: float
    plan_seconds: float
    frames_seconds: float
    first_update_seconds: float
    start_memory: int
    open_memory: int
    peak_memory: int
    updates: int
    crops_hours: float


def run(utterances: int = UTTERANCES, hours: float = HOURS, folder: Path | None = None) -> dict[str, Any]:
    """Make the manifest, measure, and give the content of a results file. Needs 70 bytes of disk an utterance."""
    with tempfile.TemporaryDirectory(prefix="scale-", dir=folder) as made:
        path = Path(made) / "manifest.arrow"
        began = time.perf_counter()
        write_synthetic(path, utterances, hours)
        written = time.perf_counter() - began
        load = os.getloadavg()[0]
        found = in_a_process("the plan", measure, path)
        size = path.stat().st_size
    whole = {"utterances": utterances, "hours": hours}
    return {"benchmark": "scale", "file_bytes": size, "write_seconds": round(written, 1),
            "load_before": round(load, 2), "rows": [
                {"what": "open", **whole, "seconds": round(found.open_seconds, 4), "peak_memory": found.open_memory,
                 **_limits("open")},
                {"what": "plan", **whole, "seconds": round(found.plan_seconds, 2), "peak_memory": found.peak_memory,
                 "of_that_frames_seconds": round(found.frames_seconds, 2),
                 "first_update_seconds": round(found.first_update_seconds, 2), "memory_at_start": found.start_memory,
                 "updates": found.updates, "hours_heard": round(found.crops_hours, 1), **_limits("plan")}]}


def measure(path: Path) -> Measured:
    """Open a manifest and plan an epoch; to be called in a process that has done nothing else."""
    start_memory = peak_memory()
    began = time.perf_counter()
    manifest = Manifest.load(path)
    count = len(manifest)
    open_seconds, open_memory = time.perf_counter() - began, peak_memory()
    began = time.perf_counter()
    lengths = frame_counts(manifest.lengths, CONV_GRID)
    frames_seconds = time.perf_counter() - began
    plan = CropPlan(lengths, crop_frames(CONV_GRID, CROP_SECONDS), crop_frames(CONV_GRID, LEAST_SECONDS),
                    int(MICRO_BATCH_SECONDS * CONV_GRID.rate), accumulate=1, seed=0)
    epoch = plan.epoch(0)
    plan_seconds = time.perf_counter() - began
    del epoch
    began = time.perf_counter()
    [micro] = next(plan.from_update(1))
    first_update_seconds, peak = time.perf_counter() - began, peak_memory()
    if not 0 <= micro.rows.min() <= micro.rows.max() < count:
        raise AssertionError(f"rows {micro.rows} of a manifest with {count}")
    frames, updates = 0, plan.epoch(0)
    for [(rows, _, crop)] in updates:
        frames += len(rows) * crop
    return Measured(open_seconds, plan_seconds, frames_seconds, first_update_seconds, start_memory, open_memory, peak,
                    len(updates), frames / CONV_GRID.rate / 3600)


def write_synthetic(path: Path, utterances: int, hours: float) -> None:
    """A manifest of utterances of 2 s to nearly twice the mean, one after the other in recordings that do not exist."""
    rng = keyed(0, "scale")
    mean = hours * 3600 / utterances
    samples = (rng.uniform(2.0, 2 * mean - 2.0, utterances) * SAMPLE_RATE).astype(np.int64)
    recording = np.arange(utterances) // RECORDING_UTTERANCES
    ends = np.cumsum(samples)
    first = ends - samples
    starts = first - first[recording * RECORDING_UTTERANCES]
    recordings = int(recording[-1]) + 1
    speakers = pa.array([str(s) for s in range(SPEAKERS)], pa.large_string())
    names = pa.array([f"/corpus/unlab-60k/{r % SPEAKERS}/{r:06d}/chapter.flac" for r in range(recordings)],
                     pa.large_string())
    batches = []
    for begin in range(0, utterances, ROWS_AT_ONCE):
        part = slice(begin, min(utterances, begin + ROWS_AT_ONCE))
        count = part.stop - begin
        which = recording[part].astype(np.int32)
        ids = [f"{r:06d}-{i % RECORDING_UTTERANCES:04d}" for i, r in zip(range(begin, part.stop), which.tolist())]
        columns = {"id": pa.array(ids, pa.large_string()), "audio": pa.DictionaryArray.from_arrays(which, names),
                   "start": starts[part], "samples": samples[part], "rate": np.full(count, SAMPLE_RATE, np.int32),
                   "channels": np.ones(count, np.int32),
                   "speaker": pa.DictionaryArray.from_arrays(which % SPEAKERS, speakers),
                   "text": pa.nulls(count, pa.large_string()), "bytes": np.full(count, 16_000_000, np.int64)}
        batches.append(pa.record_batch([pa.array(columns[f.name], f.type) for f in COLUMNS], schema=COLUMNS))
    table = pa.Table.from_batches(batches)
    write_table(path, table, "/", "synthetic", table_hash(table))


def _limits(what: str) -> dict[str, Any]:
    seconds, memory = LIMITS[what]
    return {"limit_seconds": seconds} | ({"limit_memory": memory} if memory else {})


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("scale.json"))
    arguments = parser.parse_args()
    command = shlex.join(["python", "-m", "benchmarks.scale", *sys.argv[1:]])
    with results_file(arguments.out, "scale"):
        write_results(arguments.out, {"command": command, **run(folder=arguments.out.absolute().parent)})


if __name__ == "__main__":
    main()
