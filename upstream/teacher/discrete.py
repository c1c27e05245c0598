"""Discrete units for others: speech language models, resynthesis, compression.

    JSONL   a line that describes the units, then one for each utterance: `id`, `seconds`, `units`, `starts` (seconds),
            and, where runs of equal units are collapsed to one, `durations` (frames)
    .km     as fairseq writes labels: a line of numbers for each utterance, and FILE.json beside it with the description
            and the ids; several streams become FILE.0.km, FILE.1.km, ...
    .arrow  an Arrow IPC file with the columns of JSONL, lists of lists whatever the number of streams; the description
            is the value of `hubertkit` in the metadata of its schema

Frame t of an utterance stands for the 20 ms that start at t * hop / 16000 seconds; the window that it was made of is
25 ms long and starts there too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from upstream.disk import disk_errors, write_json, writing
from upstream.errors import InputError
from upstream.frames import CONV_GRID
from upstream.teacher.units import Units

FORMAT = "hubertkit discrete units"
VERSION = 1
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class BitRate:
    """What a stream of units costs.

    Attributes:
        units_per_second: of all utterances together.
        entropy_bits: of a unit, by how often each occurs.
        entropy_rate, uniform_rate: bits a second: units_per_second times the entropy, and times log2 of the classes.
            Durations of collapsed units are not counted.
    """

    units_per_second: float
    entropy_bits: float
    entropy_rate: float
    uniform_rate: float


def collapse(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(runs,) the label of each run of equal labels, and (runs,) int64 their lengths in frames. Raises InputError for
    anything but labels (T,) of one stream."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise InputError(f"labels of shape {labels.shape}: expected (frames,) of one stream; Labeller.labels gives "
                         "several, one for each")
    starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]])) if len(labels) else \
        np.empty(0, np.int64)
    return labels[starts], np.diff(np.concatenate([starts, [len(labels)]]))


def bit_rate(sequences: Iterable[np.ndarray], classes: int, seconds: float) -> BitRate:
    """The bit rate of sequences of units in [0, classes) that cover so many seconds; zero where there are none."""
    counts = np.zeros(classes, np.int64)
    for labels in sequences:
        counts += np.bincount(labels, minlength=classes)
    total = int(counts.sum())
    shares = counts[counts > 0] / max(total, 1)
    entropy = float(max(0.0, -(shares * np.log2(shares)).sum()))
    rate = total / seconds if seconds else 0.0
    return BitRate(rate, entropy, rate * entropy, rate * float(np.log2(classes)))


def bit_rates(units: Units, collapsed: bool) -> list[BitRate]:
    """The bit rate of each stream."""
    seconds = int(units.offsets[-1]) / units.rate
    return [bit_rate((_shown(units, i, stream, collapsed)[0] for i in units.ids), k, seconds)
            for stream, k in enumerate(units.classes)]


def describe(units: Units, collapsed: bool) -> dict[str, Any]:
    """What a file of these units says of itself, as JSON values."""
    meta = units.meta
    return {"format": FORMAT, "version": VERSION, "rate": units.rate, "hop": meta.get("hop", CONV_GRID.hop),
            "layer": meta.get("layer"), "normalize": meta.get("normalize", False), "features": meta.get("features"),
            "encoder_hash": meta.get("encoder_hash"), "teacher_hash": units.teacher_hash,
            "manifest_hash": units.manifest_hash, "units_hash": units.hash, "classes": list(units.classes),
            "collapsed": collapsed, "utterances": len(units),
            "bit_rate": [asdict(rate) for rate in bit_rates(units, collapsed)]}


def write_jsonl(units: Units, path: Path, collapsed: bool = False, times: bool = True) -> None:
    """Write units as JSONL, atomically. Lists of several streams are lists of lists."""
    with disk_errors(path), writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in (describe(units, collapsed), *_rows(units, collapsed, times)):
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_km(units: Units, path: Path, collapsed: bool = False) -> list[Path]:
    """Write units as fairseq does, the description last; gives the files of labels."""
    path = Path(path)
    streams = len(units.classes)
    files = [path] if streams == 1 else [path.with_suffix(f".{i}{path.suffix}") for i in range(streams)]
    with disk_errors(path):
        for stream, name in enumerate(files):
            with writing(name) as temporary, temporary.open("w", encoding="ascii") as file:
                for utterance_id in units.ids:
                    labels, _ = _shown(units, utterance_id, stream, collapsed)
                    file.write(" ".join(map(str, labels.tolist())) + "\n")
        write_json(Path(f"{path}.json"), {**describe(units, collapsed), "files": [f.name for f in files],
                                          "ids": units.ids})
    return files


def write_arrow(units: Units, path: Path, collapsed: bool = False, times: bool = True) -> None:
    """Write units as an Arrow IPC file, atomically: `id`, `seconds`, `units` (uint16), and where they are asked for
    `starts` (float32 seconds) and `durations` (uint32 frames)."""
    lists = {"units": pa.uint16(), "starts": pa.float32(), "durations": pa.uint32()}
    shown = [n for n in lists if n == "units" or (n == "starts" and times) or (n == "durations" and collapsed)]
    schema = pa.schema([("id", pa.string()), ("seconds", pa.float64()),
                        *((name, pa.list_(pa.list_(lists[name]))) for name in shown)],
                       metadata={"hubertkit": json.dumps(describe(units, collapsed), allow_nan=False)})
    with disk_errors(path), writing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, \
            pa.ipc.new_file(sink, schema) as writer:
        rows = _list_rows(units, collapsed, times)
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def _rows(units: Units, collapsed: bool, times: bool) -> Iterator[dict[str, Any]]:
    single = len(units.classes) == 1
    for row in _list_rows(units, collapsed, times):
        yield {k: v[0] if isinstance(v, list) else v for k, v in row.items()} if single else row


def _list_rows(units: Units, collapsed: bool, times: bool) -> Iterator[dict[str, Any]]:
    """What is written of each utterance; `units`, `starts` and `durations` are lists of a list for each stream."""
    hop_seconds = 1 / units.rate
    for utterance_id in units.ids:
        shown = [_shown(units, utterance_id, stream, collapsed) for stream in range(len(units.classes))]
        row: dict[str, Any] = {"id": utterance_id, "seconds": round(int(shown[0][1].sum()) * hop_seconds, 4),
                               "units": [labels.tolist() for labels, _ in shown]}
        if times:
            row["starts"] = [np.round((np.cumsum(d) - d) * hop_seconds, 4).tolist() for _, d in shown]
        if collapsed:
            row["durations"] = [durations.tolist() for _, durations in shown]
        yield row


def _shown(units: Units, utterance_id: str, stream: int, collapsed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Units of an utterance as they are written, and their durations in frames."""
    labels = np.asarray(units.labels(utterance_id, stream))
    return collapse(labels) if collapsed else (labels, np.ones(len(labels), np.int64))
