"""Folders of rows: arrays that hold the frames of all utterances one after another, written utterance by utterance.

Units and emissions are such folders. Beside the arrays lie `ids.arrow` (column `id`), `offsets.npy` (int64, utterances
+ 1: where each begins) and a header, `units.json` for instance, which is written last: without it there are no units.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa

from upstream.disk import check_json, disk_errors, load_array, save_array, write_json
from upstream.errors import FormatError, InputError
from upstream.headers import WRITING, parts_held

IDS, OFFSETS = "ids.arrow", "offsets.npy"
Writer = TypeVar("Writer", bound="RowsWriter")


class RowsWriter:
    """Write a folder utterance by utterance; memory holds one at a time. The writer of each kind of folder checks what
    is added, and says what the content hash is of.

    Leaving a `with` block finishes the folder; an exception inside it leaves what the folder held before. Other files
    of the folder are not touched.
    """

    kind: str  # `units`, whose header is units.json
    version: int  # of the format
    id_type: pa.DataType

    def __init__(self, folder: Path, fields: Mapping[str, Any], meta: Mapping[str, Any] | None,
                 arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        """
        Args:
            folder: made if it is not there; what it holds of this kind is replaced on `close`.
            fields: of the header, as JSON values.
            meta: provenance, likewise.
            arrays: the type of each file's numbers, as they are stored, and the shape of a row.

        Raises:
            UsageError: `meta` that JSON cannot hold.
        """
        self.folder = Path(folder)
        check_json(dict(meta or {}), self._header_path(self.folder))
        self._header: dict[str, Any] = {"format": f"hubertkit {self.kind}", "version": self.version, **fields,
                                        "meta": dict(meta or {})}
        self._arrays = dict(arrays)
        self._ids: dict[str, None] = {}  # a set that keeps its order
        self._offsets = [0]
        self._digests = [hashlib.sha256() for _ in arrays]
        self._unfinished = self.folder / WRITING
        with disk_errors(self.folder):
            shutil.rmtree(self._unfinished, ignore_errors=True)  # left by a process that was killed
            self._unfinished.mkdir(parents=True)
            self._files = [(self._unfinished / name).open("wb") for name in arrays]
            self._write_npy_headers()

    def close(self) -> str:
        """Finish the folder and give its content hash."""
        offsets, path = np.asarray(self._offsets, np.int64), self._header_path(self.folder)
        header = {**self._header, "utterances": len(self._ids), "frames": int(offsets[-1]),
                  "hash": self._content_hash(offsets)}
        with disk_errors(self.folder):
            self._write_npy_headers()
            for file in self._files:
                _finish(file)
            with (self._unfinished / OFFSETS).open("wb") as file:
                save_array(file, offsets)
                _finish(file)
            self._write_ids()
            write_json(self._header_path(self._unfinished), header)  # the last that a full disk can stop
            held = parts_held(path, self.kind, self._parts) or []
            for old in (*held, path.name):  # the header last: it names what is still to be removed
                (self.folder / old).unlink(missing_ok=True)
            for name in (IDS, OFFSETS, *self._arrays, path.name):
                os.replace(self._unfinished / name, self.folder / name)
            shutil.rmtree(self._unfinished)
        return str(header["hash"])

    def abandon(self) -> None:
        """Drop what was written; what the folder held before is untouched."""
        for file in self._files:
            with contextlib.suppress(OSError):  # what a full disk has not taken
                file.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def __enter__(self: Writer) -> Writer:
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

    def _parts(self, header: dict[str, Any]) -> Sequence[str]:
        """The names of the files beside a header that it speaks of."""
        raise NotImplementedError

    def _content_hash(self, offsets: np.ndarray) -> str:
        """Hash of what was added, whose rows are in the digests."""
        raise NotImplementedError

    def _append(self, id: str, *arrays: np.ndarray) -> None:
        """Append the rows of one utterance, as many to every array. Raises InputError for one that was added before, or
        whose id is no text."""
        if not isinstance(id, str):
            raise InputError(f"{self.kind} of {id!r}: ids are text")
        if id in self._ids:
            raise InputError(f"{id}: {self.kind} given twice; ids must be unique")
        with disk_errors(self.folder):
            for file, digest, (dtype, _), rows in zip(self._files, self._digests, self._arrays.values(), arrays):
                stored = rows.astype(dtype).tobytes()
                file.write(stored)
                digest.update(stored)
        self._ids[id] = None
        self._offsets.append(self._offsets[-1] + len(arrays[0]))

    def _header_path(self, folder: Path) -> Path:
        return folder / f"{self.kind}.json"

    def _write_npy_headers(self) -> None:
        # numpy pads the header so that the first axis can grow: the same number of bytes for every number of rows
        for file, (dtype, row) in zip(self._files, self._arrays.values()):
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {
                "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                "shape": (self._offsets[-1], *row)})

    def _write_ids(self) -> None:
        table = pa.table({"id": pa.array(list(self._ids), self.id_type)})
        with pa.OSFile(str(self._unfinished / IDS), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def read_rows(folder: Path, kind: str, names: Sequence[str],
              again: str) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Ids, offsets and the arrays of these names, memory-mapped; whether they fit each other is another question.

    Args:
        again: what to do where they cannot be read: `make them again`.

    Raises:
        FormatError: a file is not there, or damaged.
    """
    try:
        arrays = [load_array(folder / name, mmap_mode="r") for name in names]
        offsets = np.array(load_array(folder / OFFSETS, mmap_mode="r"))
        with pa.memory_map(str(folder / IDS)) as source:
            ids = pa.ipc.open_file(source).read_all().column("id").to_pylist()
    except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise FormatError(f"{folder}: {kind} cannot be read ({error}); {again}") from error
    return ids, offsets, arrays


def are_offsets(offsets: np.ndarray, count: int, rows: int) -> bool:
    """Whether `offsets` (count + 1,) part so many rows among so many utterances: integers that never fall."""
    if offsets.shape != (count + 1,) or offsets.dtype.kind not in "iu":
        return False
    return bool(offsets[0] == 0 and offsets[-1] == rows and (np.diff(offsets.astype(np.int64)) >= 0).all())


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
