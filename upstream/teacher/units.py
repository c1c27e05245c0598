"""The units store: the cluster label of every frame of every utterance, looked up by utterance.

A folder holds `units.json` (classes, rate, provenance, content hash), `ids.arrow` (column `id`), `offsets.npy`
(int64, utterances + 1) and for each stream of labels `stream0.npy`, ... (uint16, the frames of all utterances one after
another). `units.json` is written last: without it the folder holds no units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from upstream.disk import path_given
from upstream.errors import FormatError, InputError
from upstream.frames import CONV_GRID
from upstream.headers import HASH, META, Field, is_rate, is_whole, read_header, refuse_other_files
from upstream.rows import IDS, OFFSETS, RowsWriter, are_offsets, read_rows

KIND = "units"
VERSION = 1
_AGAIN = "make them again"
_MOST_CLASSES = 1 << 16  # labels are uint16
_FIELDS: dict[str, Field] = {
    "classes": ("a list of whole numbers from 1 to 65536", lambda value: isinstance(value, list) and bool(value) and
                all(is_whole(k) and 1 <= k <= _MOST_CLASSES for k in value)),
    "rate": ("labels a second, above 0", is_rate), "frames": ("a whole number", is_whole), "hash": HASH, "meta": META}


class UnitsWriter(RowsWriter):
    """Write units utterance by utterance; memory holds one utterance at a time.

        with UnitsWriter(folder, classes=(100,), meta={"teacher_hash": ...}) as writer:
            writer.add("84-121123-0000", labels)

    Leaving the block finishes the folder; an exception inside it leaves the units that it held before. Other files of
    the folder are not touched.
    """

    kind, version, id_type = KIND, VERSION, pa.large_string()

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
        super().__init__(folder, {"rate": float(rate), "classes": [int(k) for k in classes]}, meta,
                         {name: (np.dtype("<u2"), ()) for name in _stream_files(len(classes))})

    def add(self, utterance_id: str, *sequences: np.ndarray) -> None:
        """Append the labels of one utterance, an integer array (T,) for each stream.

        Raises:
            InputError: naming the utterance: given twice, or labels of different lengths, or not in [0, K).
        """
        classes = self._header["classes"]
        arrays = [np.asarray(s) for s in sequences]
        if len(arrays) != len(classes) or any(a.shape != (len(arrays[0]),) for a in arrays):
            raise InputError(f"{utterance_id}: labels of shapes {[a.shape for a in arrays]}; expected one sequence for "
                             f"each of {len(classes)} streams, all of the same length")
        for stream, (labels, k) in enumerate(zip(arrays, classes)):
            if len(labels) and not (labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < k):
                raise InputError(f"{utterance_id}: stream {stream} holds labels from {labels.min()} to {labels.max()} "
                                 f"({labels.dtype}); expected integers in [0, {k})")
        self._append(utterance_id, *arrays)

    def _parts(self, header: dict[str, Any]) -> list[str]:
        return _parts(header)

    def _content_hash(self, offsets: np.ndarray) -> str:
        """Of offsets, ids, classes, rate and labels."""
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
        folder = path_given(folder, "folder")
        header = _read_header(folder)
        ids, offsets, streams = read_rows(folder, KIND, _stream_files(len(header["classes"])), _AGAIN)
        frames = streams[0].shape[0] if streams and streams[0].ndim == 1 else -1
        if not are_offsets(offsets, len(ids), frames) or any(
                s.shape != (frames,) or s.dtype != np.uint16 for s in streams):
            raise FormatError(f"{folder}: {len(ids)} ids, {offsets.shape} offsets and streams of "
                              f"{[s.shape for s in streams]} labels do not fit together; make the units again")
        return Units(folder, header, ids, offsets, tuple(streams))

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
        """(T,) uint16 labels of an utterance, a slice of the memory map. Raises InputError if it or the stream is not
        there, or if a label is no class, which only files of others hold."""
        if stream not in range(len(self.streams)):
            raise InputError(f"stream {stream}: {self.folder} has {len(self.streams)}, counted from 0")
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
    return read_header(path, KIND, VERSION, _FIELDS, _AGAIN)


def _parts(header: dict[str, Any]) -> list[str]:
    return _files(len(header["classes"]))


def _files(streams: int) -> list[str]:
    return [IDS, OFFSETS, *_stream_files(streams)]


def _stream_files(streams: int) -> list[str]:
    return [f"stream{i}.npy" for i in range(streams)]
