"""Emissions: what a recogniser says of every frame, computed once, stored, and read by every decoder.

A folder holds `emissions.json` (symbols, blank, frame rate, provenance, content hash), `ids.arrow` (column `id`),
`offsets.npy` (int64, utterances + 1) and `logprobs.npy` (frames of all utterances one after another x symbols).
`emissions.json` is written last: without it the folder is no emissions folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from upstream.disk import path_given
from upstream.errors import FormatError, InputError, UsageError
from upstream.headers import HASH, META, Field, is_rate, is_whole, read_header, refuse_other_files
from upstream.rows import IDS, OFFSETS, RowsWriter, are_offsets, read_rows

KIND = "emissions"
FORMAT_VERSION = 1
_LOGPROBS = "logprobs.npy"
_DATA_FILES = (_LOGPROBS, OFFSETS, IDS)
_AGAIN = "compute them again"
_TOLERANCE = 0.01  # of the logarithm of a row's sum; float16 rounding stays below 0.001


class EmissionsWriter(RowsWriter):
    """Write emissions utterance by utterance; memory holds one utterance at a time.

        with EmissionsWriter(folder, symbols, blank=0, frame_rate=50.0, meta={"manifest_hash": ...}) as writer:
            writer.add("84-121123-0000", logprobs)

    Leaving the block finishes the folder; an exception inside it leaves what was there before.
    """

    kind, version, id_type = KIND, FORMAT_VERSION, pa.string()

    def __init__(self, folder: Path, symbols: Sequence[str], blank: int, frame_rate: float,
                 meta: dict[str, Any] | None = None, dtype: Literal["float16", "float32"] = "float16") -> None:
        """
        Args:
            folder: made if it is not there; emissions that it holds are replaced on `close`.
            symbols: V symbols, one per column; the word separator is `|` or a space.
            blank: column of the CTC blank.
            frame_rate: Hz.
            meta: provenance, as JSON values; `manifest_hash` and `recogniser_hash` are the ones others look at.
            dtype: of the stored values.

        Raises:
            InputError: the blank is no column of the symbols, a symbol no text, or the rate none.
            UsageError: `meta` that JSON cannot hold, or another type of values.
        """
        odd = next((symbol for symbol in symbols if not isinstance(symbol, str)), None)
        if odd is not None:
            raise InputError(f"{folder}: symbol {odd!r} is no text; symbols are what columns are written as")
        check_rate(frame_rate)
        if dtype not in ("float16", "float32"):
            raise UsageError(f"dtype={dtype!r}: expected float16 or float32")
        if blank not in range(len(symbols)):
            raise InputError(f"{folder}: blank is column {blank} of {len(symbols)} symbols; it must be one of them")
        fields = {"symbols": list(symbols), "blank": int(blank), "frame_rate": float(frame_rate), "dtype": dtype}
        super().__init__(folder, fields, meta, {_LOGPROBS: (np.dtype(dtype), (len(symbols),))})

    def add(self, id: str, logprobs: np.ndarray) -> None:
        """Append one utterance.

        Args:
            id: not yet added.
            logprobs: (T, V) natural-log probabilities, T >= 0; minus infinity is allowed, rows sum to 1.

        Raises:
            InputError: naming the utterance: given twice, another width, NaN, or rows that are no log-probabilities.
        """
        logprobs = np.asarray(logprobs)
        _check_logprobs(id, logprobs, len(self._header["symbols"]))
        self._append(id, logprobs)

    def _parts(self, header: dict[str, Any]) -> Sequence[str]:
        return _DATA_FILES

    def _content_hash(self, offsets: np.ndarray) -> str:
        """Of log-probabilities, offsets, ids, symbols, blank and frame rate."""
        digest = self._digests[0].copy()
        digest.update(offsets.tobytes())
        for part in (*self._ids, *self._header["symbols"], self._header["blank"], self._header["frame_rate"]):
            digest.update(f"{part}\x00".encode())
        return digest.hexdigest()


class Emissions:
    """Stored emissions, memory-mapped: opening costs nothing, and processes that open the same folder share memory.

    Attributes:
        folder: where they lie.
        ids: utterances in the order of storage.
        symbols: V symbols, one per column.
        blank: column of the CTC blank.
        rate: frames a second (Hz).
        hash: of everything that a decoder reads.
        meta: provenance, as the writer was given it.
        manifest_hash: of the manifest that was recognised, if the writer was told.
    """

    def __init__(self, folder: Path, header: dict[str, Any], ids: list[str], offsets: np.ndarray,
                 rows: np.ndarray) -> None:
        self.folder = folder
        self.ids = ids
        self.symbols: tuple[str, ...] = tuple(header["symbols"])
        self.blank: int = header["blank"]
        self.rate: float = header["frame_rate"]
        self.hash: str = header["hash"]
        self.meta: dict[str, Any] = header["meta"]
        self.manifest_hash: str | None = self.meta.get("manifest_hash")
        self._offsets = offsets
        self._rows = rows
        self._index = {id: i for i, id in enumerate(ids)}

    @staticmethod
    def load(folder: Path) -> Emissions:
        """Open a folder of emissions.

        Raises:
            UsageError: no such folder.
            FormatError: no emissions, of another version, unfinished, or files that do not fit each other.
        """
        folder = path_given(folder, "folder")
        header = _read_header(folder)
        ids, offsets, (rows,) = read_rows(folder, KIND, [_LOGPROBS], _AGAIN)
        fits = rows.ndim == 2 and rows.shape[1] == len(header["symbols"])
        if not fits or not are_offsets(offsets, len(ids), len(rows)):
            raise FormatError(f"{folder}: {len(ids)} ids, {offsets.shape} offsets, {rows.shape} log-probabilities and "
                              f"{len(header['symbols'])} symbols do not fit together; compute the emissions again")
        return Emissions(folder, header, ids, offsets, rows)

    def __len__(self) -> int:
        return len(self.ids)

    def frames(self, id: str) -> int:
        """Number of frames of an utterance."""
        start, end = self._span(id)
        return end - start

    def logprobs(self, id: str) -> np.ndarray:
        """(T, V) float32 natural-log probabilities of an utterance.

        Raises:
            InputError: it is not there, or holds NaN or plus infinity, which only files of others do.
        """
        rows = self.as_stored(id)
        wrong = no_logprobs(rows, id)
        if wrong is not None:
            raise InputError(f"{self.folder}: {wrong}; the recogniser or the audio is broken")
        return rows

    def as_stored(self, id: str) -> np.ndarray:
        """(T, V) float32, whatever it is that is stored. Raises InputError if the utterance is not there."""
        start, end = self._span(id)
        return np.asarray(self._rows[start:end], dtype=np.float32)

    def seconds(self, id: str) -> float:
        """Duration of an utterance in seconds, as its frames say."""
        return self.frames(id) / self.rate

    def _span(self, id: str) -> tuple[int, int]:
        index = self._index.get(id)
        if index is None:
            raise InputError(f"{id}: no emissions in {self.folder}, which holds {len(self)} utterances")
        return int(self._offsets[index]), int(self._offsets[index + 1])


def refuse_others(folder: Path) -> None:
    """Raise UsageError where emissions would be written over files of somebody else: see `refuse_other_files`."""
    refuse_other_files(folder / "emissions.json", KIND, lambda header: _DATA_FILES, _DATA_FILES)


def holds(folder: Path, ids: Sequence[str], symbols: Sequence[str], meta: dict[str, Any]) -> bool:
    """Whether a folder holds whole emissions of just these utterances, in this order, with these symbols and this
    provenance."""
    try:
        found = Emissions.load(folder)
    except (FormatError, UsageError):
        return False
    return found.ids == list(ids) and found.symbols == tuple(symbols) and found.meta == meta


def join(parts: Sequence[Path], folder: Path) -> None:
    """Put emissions of parts of a corpus, of one recogniser, into one folder, in this order. Stored as float16."""
    first = Emissions.load(parts[0])
    with EmissionsWriter(folder, first.symbols, first.blank, first.rate, first.meta) as writer:
        for part in parts:
            emissions = Emissions.load(part)
            for id in emissions.ids:
                writer.add(id, emissions.logprobs(id))


def check_rate(rate: float) -> None:
    """Raise InputError for what is no number of frames a second."""
    if not isinstance(rate, int | float | np.number) or not 0 < rate < np.inf:
        raise InputError(f"rate={rate!r}: expected frames a second (Hz), a number above 0")


def no_logprobs(rows: np.ndarray, of: str = "") -> str | None:
    """What in (T, V) rows is the logarithm of no probability, and where; None where there is nothing such.

    NaN and plus infinity are none; minus infinity, of what cannot be, is one.

    Args:
        of: whose they are, said in the answer.
    """
    wrong = ~(rows < np.inf)  # NaN is less than nothing
    if not wrong.any():
        return None
    frame = int(wrong.any(axis=1).argmax())
    name = "NaN" if np.isnan(rows[frame]).any() else "infinity"
    return f"{name} in the emissions{f' of {of}' if of else ''}, first at frame {frame}"


def _check_logprobs(id: str, logprobs: np.ndarray, width: int) -> None:
    if logprobs.ndim != 2 or logprobs.shape[1] != width:
        raise InputError(f"{id}: emissions of shape {logprobs.shape}; expected (frames, {width}), a column per symbol")
    wrong = no_logprobs(logprobs)
    if wrong is not None:
        raise InputError(f"{id}: {wrong}; the recogniser or the audio is broken")
    if not len(logprobs):
        return
    with np.errstate(divide="ignore", over="ignore"):
        sums = np.log(np.exp(logprobs.astype(np.float64)).sum(axis=1))
    worst = int(np.abs(sums).argmax())
    if not abs(sums[worst]) < _TOLERANCE:
        raise InputError(f"{id}: frame {worst} sums to {np.exp(sums[worst]):.4g}, not 1; emissions are natural-log "
                         "probabilities: apply log_softmax first")


_FIELDS: dict[str, Field] = {
    "symbols": ("a list of strings",
                lambda value: isinstance(value, list) and all(isinstance(symbol, str) for symbol in value)),
    "blank": ("the number of a symbol", is_whole), "frame_rate": ("frames a second, above 0", is_rate), "hash": HASH,
    "meta": META}


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / "emissions.json"
    if not folder.is_dir():
        what = "a file, not a folder of emissions" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; emissions are made by `hubertkit emit`")
    if not path.is_file():
        raise FormatError(f"{folder}: no emissions.json: no emissions folder, or its writing was interrupted")
    header = read_header(path, KIND, FORMAT_VERSION, _FIELDS, _AGAIN)
    if not 0 <= header["blank"] < len(header["symbols"]):
        raise FormatError(f"{path}: blank is {header['blank']}; expected the number of one of {len(header['symbols'])} "
                          "symbols")
    return header
