"""The units store: the cluster label of every frame of every utterance, looked up by utterance.

A folder holds `units.json` (classes, rate, provenance, content hash), `ids.arrow` (column `id`), `offsets.npy`
(int64, utterances + 1) and for each stream of labels `stream0.npy`, ... (uint16, the frames of all utterances one after
another). `units.json` is written last: without it the folder holds no units.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from upstream.disk import check_json, disk_errors, load_array, save_array, write_json
from upstream.errors import FormatError, InputError
from upstream.frames import CONV_GRID
from upstream.headers import HASH, META, WRITING, Field, is_rate, is_whole, parts_held, read_header, refuse_other_files
from upstream.offsets import are_offsets

KIND = "units"
FORMAT = f"hubertkit {KIND}"
VERSION = 1
_MOST_CLASSES = 1 << 16  # labels are uint16
_FIELDS: dict[str, Field] = {
    "classes": ("a list of whole numbers from 1 to 65536", lambda value: isinstance(value, list) and bool(value) and
                all(is_whole(k) and 1 <= k <= _MOST_CLASSES for k in value)),
    "rate": ("labels a second, above 0", is_rate), "frames": ("a whole number", is_whole), "hash": HASH, "meta": META}


class UnitsWriter:
    """Write units utterance by utterance; memory holds one utterance at a time.

        with UnitsWriter(folder, classes=(100,), meta={"teacher_hash": ...}) as writer:
            writer.add("84-121123-0000", labels)

    Leaving the block finishes the folder; an exception inside it leaves the units that it held before. Other files of
    the folder are not touched.
    """

    def __init__(self, folder: Path, classes: Sequence[int], meta: dict[str, Any] | None = None,
                 rate: float = CONV_GRID.rate) -> None:
        """
        Args:
            folder: made if it is not there.
            classes: K of each stream, 1 to 65536.
            meta: provenance, as JSON values; `teacher_hash` and `manifest_hash` are the ones that others look at.
            rate: labels a second (Hz).

        Raises:
            InputError: no stream, or classes out of range.
            UsageError: `meta` that JSON cannot hold.
        """
        if not classes or not all(1 <= k <= _MOST_CLASSES for k in classes):
            raise InputError(f"{folder}: {list(classes)} classes; at least one stream, with 1 to 65536 each")
        self.folder = Path(folder)
        check_json(dict(meta or {}), self.folder / "units.json")
        self._header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "rate": float(rate),
                                        "classes": [int(k) for k in classes], "meta": dict(meta or {})}
        self._ids: dict[str, None] = {}  # a set that keeps its order
        self._offsets = [0]
        self._digests = [hashlib.sha256() for _ in classes]
        self._unfinished = self.folder / WRITING
        with disk_errors(self.folder):
            shutil.rmtree(self._unfinished, ignore_errors=True)  # left by a process that was killed
            self._unfinished.mkdir(parents=True)
            self._files = [(self._unfinished / name).open("wb") for name in _stream_files(len(classes))]
            self._write_npy_headers()

    def add(self, utterance_id: str, *sequences: np.ndarray) -> None:
        """Append the labels of one utterance, an integer array (T,) for each stream.

        Raises:
            InputError: naming the utterance: given twice, or labels of different lengths, or not in [0, K).
        """
        classes = self._header["classes"]
        if utterance_id in self._ids:
            raise InputError(f"{utterance_id}: units given twice; ids must be unique")
        arrays = [np.asarray(s) for s in sequences]
        if len(arrays) != len(classes) or any(a.shape != (len(arrays[0]),) for a in arrays):
            raise InputError(f"{utterance_id}: labels of shapes {[a.shape for a in arrays]}; expected one sequence for "
                             f"each of {len(classes)} streams, all of the same length")
        for stream, (labels, k) in enumerate(zip(arrays, classes)):
            if len(labels) and not (labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < k):
                raise InputError(f"{utterance_id}: stream {stream} holds labels from {labels.min()} to {labels.max()} "
                                 f"({labels.dtype}); expected integers in [0, {k})")
        with disk_errors(self.folder):
            for file, digest, labels in zip(self._files, self._digests, arrays):
                stored = labels.astype("<u2").tobytes()
                file.write(stored)
                digest.update(stored)
        self._ids[utterance_id] = None
        self._offsets.append(self._offsets[-1] + len(arrays[0]))

    def close(self) -> str:
        """Finish the folder and give the content hash."""
        offsets = np.asarray(self._offsets, np.int64)
        header = {**self._header, "utterances": len(self._ids), "frames": int(offsets[-1]), "hash": self._hash(offsets)}
        with disk_errors(self.folder):
            self._write_npy_headers()
            for file in self._files:
                _finish(file)
            with (self._unfinished / "offsets.npy").open("wb") as file:
                save_array(file, offsets)
                _finish(file)
            _write_ids(self._unfinished / "ids.arrow", list(self._ids))
            write_json(self._unfinished / "units.json", header)  # the last that a full disk can stop
            held = parts_held(self.folder / "units.json", KIND, _parts) or []
            for old in (*held, "units.json"):  # the header last: it names what is still to be removed
                (self.folder / old).unlink(missing_ok=True)
            for path in sorted(self._unfinished.iterdir()):  # units.json is the last of them
                os.replace(path, self.folder / path.name)
            self._unfinished.rmdir()
        return str(header["hash"])

    def abandon(self) -> None:
        """Drop what was written; units that the folder held before are untouched."""
        for file in self._files:
            with contextlib.suppress(OSError):  # what a full disk has not taken
                file.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def __enter__(self) -> UnitsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()
        except BaseException:
            self.abandon()
            raise

    def _write_npy_headers(self) -> None:
        # numpy pads the header so that the first axis can grow: the same number of bytes for every number of frames
        for file in self._files:
            file.seek(0)
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<u2", "fortran_order": False, "shape": (self._offsets[-1],)})

    def _hash(self, offsets: np.ndarray) -> str:
        digest = hashlib.sha256(offsets.astype("<i8").tobytes())
        for part in (*self._ids, *self._header["classes"], self._header["rate"]):
            digest.update(f"{part}\x00".encode())
        for stream in self._digests:
            digest.update(stream.digest())
        return digest.hexdigest()


class Units:
    """Stored units, memory-mapped: opening costs nothing, and an utterance's labels are read when asked for.

    Attributes:
        folder: where they lie.
        ids: utterances in the order of storage.
        offsets: (utterances + 1,) int64: frame of each stream at which an utterance starts.
        streams: each (frames,) uint16.
        classes: K of each stream.
        rate: labels a second (Hz).
        hash: of ids, labels, classes and rate.
        meta: provenance, as the writer was given it.
        teacher_hash, manifest_hash: of the teacher and of the manifest that it labelled, if the writer was told.
    """

    def __init__(self, folder: Path, header: dict[str, Any], ids: list[str], offsets: np.ndarray,
                 streams: tuple[np.ndarray, ...]) -> None:
        self.folder = folder
        self.ids = ids
        self.offsets = offsets
        self.streams = streams
        self.classes: tuple[int, ...] = tuple(header["classes"])
        self.rate: float = header["rate"]
        self.hash: str = header["hash"]
        self.meta: dict[str, Any] = header["meta"]
        self.teacher_hash: str | None = self.meta.get("teacher_hash")
        self.manifest_hash: str | None = self.meta.get("manifest_hash")
        self._places = {utterance_id: i for i, utterance_id in enumerate(ids)}

    @staticmethod
    def load(folder: Path) -> Units:
        """Open a folder of units.

        Raises:
            FormatError: no units, of another version, unfinished, or files that do not fit each other.
        """
        folder = Path(folder)
        header = _read_header(folder)
        try:
            streams = tuple(load_array(folder / name, mmap_mode="r" if header["frames"] else None)
                            for name in _stream_files(len(header["classes"])))
            offsets = np.array(load_array(folder / "offsets.npy", mmap_mode="r"))
            ids = _read_ids(folder / "ids.arrow")
        except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise FormatError(f"{folder}: units cannot be read ({error}); make them again") from error
        frames = streams[0].shape[0] if streams and streams[0].ndim == 1 else -1
        if not are_offsets(offsets, len(ids), frames) or any(
                s.shape != (frames,) or s.dtype != np.uint16 for s in streams):
            raise FormatError(f"{folder}: {len(ids)} ids, {offsets.shape} offsets and streams of "
                              f"{[s.shape for s in streams]} labels do not fit together; make the units again")
        return Units(folder, header, ids, offsets, streams)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._places

    def place(self, utterance_id: str) -> int:
        """Place of an utterance in `ids`. Raises InputError if it is not there."""
        place = self._places.get(utterance_id)
        if place is None:
            raise InputError(f"{utterance_id}: no units in {self.folder}, which holds {len(self)} utterances")
        return place

    def labels(self, utterance_id: str, stream: int = 0) -> np.ndarray:
        """(T,) uint16 labels of an utterance, a slice of the memory map. Raises InputError if it is not there, or if a
        label is no class, which only files of others hold."""
        place = self.place(utterance_id)
        found = self.streams[stream][self.offsets[place]:self.offsets[place + 1]]
        if len(found) and found.max() >= self.classes[stream]:
            raise InputError(f"{self.folder}: {utterance_id} has the label {found.max()}; units.json says that there "
                             f"are {self.classes[stream]} classes")
        return found


def refuse_others(folder: Path, streams: int) -> None:
    """Raise UsageError where units of so many streams would be written over files of somebody else: see
    `refuse_other_files`."""
    refuse_other_files(folder / "units.json", KIND, _parts, _files(streams))


def select(units: Units, ids: Sequence[str], folder: Path) -> Units:
    """Write the units of some utterances, in this order, to another folder. Raises InputError for one without units."""
    with UnitsWriter(folder, units.classes, units.meta, units.rate) as writer:
        for utterance_id in ids:
            writer.add(utterance_id, *(units.labels(utterance_id, i) for i in range(len(units.classes))))
    return Units.load(folder)


def holds(folder: Path, ids: Sequence[str], meta: dict[str, Any]) -> bool:
    """Whether a folder holds whole units of just these utterances, in this order, with this provenance."""
    try:
        units = Units.load(folder)
    except FormatError:
        return False
    return units.ids == list(ids) and units.meta == json.loads(json.dumps(meta))  # as it is read: tuples are lists


def join(parts: Sequence[Path], folder: Path) -> None:
    """Put units of parts of a corpus, made by one teacher, into one folder, in this order."""
    first = Units.load(parts[0])
    with UnitsWriter(folder, first.classes, first.meta, first.rate) as writer:
        for part in parts:
            units = Units.load(part)
            for utterance_id in units.ids:
                writer.add(utterance_id, *(units.labels(utterance_id, i) for i in range(len(units.classes))))


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / "units.json"
    if not path.is_file():
        raise FormatError(f"{folder}: no units.json: no folder of units, or their making was interrupted")
    return read_header(path, KIND, VERSION, _FIELDS, "make them again")


def _parts(header: dict[str, Any]) -> list[str]:
    return _files(len(header["classes"]))


def _files(streams: int) -> list[str]:
    return ["ids.arrow", "offsets.npy", *_stream_files(streams)]


def _stream_files(streams: int) -> list[str]:
    return [f"stream{i}.npy" for i in range(streams)]


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _write_ids(path: Path, ids: list[str]) -> None:
    table = pa.table({"id": pa.array(ids, pa.large_string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_ids(path: Path) -> list[str]:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().column("id").to_pylist()
