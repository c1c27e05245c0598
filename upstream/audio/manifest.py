"""The manifest: which utterances there are, where their samples lie, who speaks, and what is said.

One Arrow table with a row for each utterance. Loaded files are memory-mapped, and nothing here makes a Python object
for every row unless a caller asks for a whole column as a list, so millions of utterances cost no more than their file.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from upstream.audio.manifest_file import (
    ALL_COLUMNS,
    CRC,
    EXTRAS,
    OFFSET,
    checked_hash,
    file_bytes,
    look,
    one_table,
    read_table,
    table_hash,
    write_table,
)
from upstream.disk import path_given
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.places import places

MANIFESTS = (".arrow", ".parquet")  # how the names of their files end
ROWS_AT_ONCE = 4096  # rows that are Python objects at a time


@dataclass(frozen=True)
class Utterance:
    """A span of an audio file.

    Attributes:
        id: unique in its manifest.
        audio: absolute path of the file.
        start, samples: the span, in samples of the file (at `rate`, a multi-channel sample counted once).
        rate: of the file, in Hz.
        channels: of the file; they are mixed down when the utterance is read.
        speaker: who speaks, if known.
        text: the transcript as the corpus writes it, if there is one.
        offset, size: in bytes, where the audio file lies inside of `audio` (a tar, a Parquet file); None where `audio`
            is the audio file itself.
    """

    id: str
    audio: Path
    start: int
    samples: int
    rate: int
    channels: int
    speaker: str | None = None
    text: str | None = None
    offset: int | None = None
    size: int | None = None

    @property
    def length(self) -> int:
        """Samples at 16 kHz, as `read` gives them."""
        return int(resampled_length(self.samples, self.rate))


class Manifest:
    """Utterances in a fixed order. Immutable: `select`, `only` and the others give new ones that share nothing but
    columns.

    Made by `Manifest.load`, by `Manifest.of` or by an import of a corpus.
    """

    def __init__(self, table: pa.Table, root: str, source: str, said: str | None = None) -> None:
        """Wrap a checked table whose audio paths are relative to `root`, and whose file says that its hash is `said`;
        other rooms use `load` and `of`."""
        self._table = table
        self._root = root
        self._said = said
        self.source = source

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Manifest:
        """Memory-map a manifest; a Parquet file with the same columns is read too.

        Raises:
            UsageError: there is no such file.
            FormatError: it is not a manifest, is cut short, or is of another version.
        """
        table, source, digest = read_table(path_given(path, "path"))
        return Manifest(table, os.path.dirname(os.path.abspath(path)), source, digest)

    @staticmethod
    def of(utterances: Iterable[Utterance], source: str) -> Manifest:
        """A manifest of these utterances in this order. `source` says where they come from, in words or as a path.

        Raises:
            InputError: an id occurs twice or is empty, a span or a rate is impossible, a path is not UTF-8; what is no
                utterance, or a value of it of another kind.
        """
        remaining = iter(utterances)
        batches = []
        while rows := list(islice(remaining, ROWS_AT_ONCE)):
            batches.append(_batch(rows))
        table = pa.Table.from_batches(batches, ALL_COLUMNS).unify_dictionaries().combine_chunks()
        for extra in EXTRAS:
            if table[extra.name].null_count == len(table):
                table = table.drop_columns(extra.name)
        manifest = Manifest(table, "/", source)
        manifest._refuse_repeated_ids()
        return manifest

    @staticmethod
    def joined(parts: Sequence[Manifest], source: str) -> Manifest:
        """All utterances of several manifests, in their order; no file is looked into again.

        Raises:
            UsageError: no manifests.
            InputError: an id occurs twice.
        """
        odd = next((part for part in parts if not isinstance(part, Manifest)), None)
        if not parts or odd is not None:
            what = type(parts if odd is None else odd).__name__
            raise UsageError(f"parts of type {what}: expected manifests, one at least; Manifest.load reads them")
        manifest = Manifest(one_table([(part._table, part._root) for part in parts]), "/", source)
        manifest._refuse_repeated_ids()
        return manifest

    def with_texts(self, texts: Sequence[str | None]) -> Manifest:
        """The same utterances with other transcripts, one each, None for none. Raises InputError for another number of
        them, or what is no text."""
        return self._with("text", texts)

    def with_ids(self, ids: Sequence[str]) -> Manifest:
        """The same utterances under other ids, one each. Raises InputError if one occurs twice or is no word, or for
        another number of them."""
        for id in ids:
            if not isinstance(id, str) or id.split() != [id]:
                raise InputError(f"the id {id!r:.40} is no text, empty or holds a space; ids are words")
        manifest = self._with("id", ids)
        manifest._refuse_repeated_ids()
        return manifest

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one uncompressed Arrow file, or Parquet where the name ends in `.parquet`; atomically.

        Audio beside or below the manifest is named relative to it, so that the two move together; other audio by its
        absolute path.
        """
        write_table(path_given(path, "path"), self._table, self._root, self.source, self.hash)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Utterance]:
        for first in range(0, len(self), ROWS_AT_ONCE):
            for row in self._table.slice(first, ROWS_AT_ONCE).to_pylist():
                yield self._utterance(row)

    def __getitem__(self, index: int) -> Utterance:
        if not isinstance(index, int | np.integer):
            raise UsageError(f"{index!r}: expected the number of an utterance; select(numbers) and only(ids) give "
                             "manifests of several")
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of a manifest with {len(self)}")
        return self._utterance(self._table.slice(int(index) % len(self), 1).to_pylist()[0])

    def __repr__(self) -> str:
        return f"Manifest({len(self)} utterances, {self.seconds / 3600:.2f} h, from {self.source})"

    @property
    def ids(self) -> list[str]:
        """Ids in order."""
        return self._table["id"].to_pylist()

    @property
    def speakers(self) -> list[str | None]:
        """Speakers in order, None where unknown."""
        return self._table["speaker"].to_pylist()

    @property
    def texts(self) -> list[str | None]:
        """Transcripts in order as the corpus writes them, None where there is none."""
        return self._table["text"].to_pylist()

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) int64, samples of each utterance at 16 kHz."""
        return resampled_length(self._table["samples"].to_numpy(), self._table["rate"].to_numpy())

    @property
    def seconds(self) -> float:
        """Duration of all utterances together."""
        return float((self._table["samples"].to_numpy() / self._table["rate"].to_numpy()).sum())

    def looks(self) -> Iterator[tuple[int | None, int | None]]:
        """(size in bytes, CRC-32 of beginning and end) of each row's file when the manifest was made, None where not
        known."""
        for first in range(0, len(self), ROWS_AT_ONCE):
            rows = self._table.slice(first, ROWS_AT_ONCE)
            crcs = rows[CRC.name].to_pylist() if CRC.name in rows.column_names else [None] * len(rows)
            yield from zip(rows["bytes"].to_pylist(), crcs)

    @property
    def formats(self) -> dict[str, int]:
        """Number of utterances of each kind of file: {"16000 Hz, 1 channel": 2414}."""
        counts = self._table.group_by(["rate", "channels"]).aggregate([([], "count_all")]).sort_by("rate").to_pylist()
        return {f"{row['rate']} Hz, {row['channels']} channel{'s' * (row['channels'] > 1)}": row["count_all"]
                for row in counts}

    @cached_property
    def hash(self) -> str:
        """Content hash over ids, spans, rates, channels, speakers, texts, file sizes and the beginnings and ends of the
        files, in order.

        Where the files lie and when they were changed is no part of it, so a corpus that was moved keeps its hash. It
        is that of the rows, whatever the file says: a tenth of a second for a million.

        Raises:
            FormatError: another program changed the rows of a manifest of ours, to what is none.
        """
        return checked_hash(self._table, self._said, self.source)

    @cached_property
    def listing_hash(self) -> str:
        """The hash without a look into the files: the same for recordings that were made again and differ in last bits,
        as those of a synthesiser do from processor to processor."""
        return table_hash(self._table, looks=False)

    def select(self, indices: Sequence[int] | np.ndarray) -> Manifest:
        """The utterances at these places, in the order given, or those of a mask (N,) bool. IndexError beyond the end,
        InputError on repeats and on what is neither."""
        wanted = places(indices, len(self))
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"utterances {wanted.min()} to {wanted.max()} of a manifest with {len(self)}")
        if len(np.unique(wanted)) != len(wanted):
            raise InputError(f"{self.source}: an utterance was selected twice; ids of a manifest are unique")
        return Manifest(self._table.take(pa.array(wanted)).combine_chunks(), self._root, self.source)

    def only(self, ids: Iterable[str]) -> Manifest:
        """The utterances with these ids, in the order of this manifest. Raises InputError if one is unknown, UsageError
        for a single one."""
        if isinstance(ids, str):
            raise UsageError(f"ids={ids!r}: a single one; give a list of them")
        wanted = _texts(list(ids), "ids")
        unknown = wanted.filter(pc.invert(pc.is_in(wanted, value_set=self._ids)))
        if len(unknown):
            first = unknown[0].as_py()
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise InputError(f"{self.source}: no utterance {first}{more}{self._similar(first)}")
        table = self._table.filter(pc.is_in(self._ids, value_set=wanted))
        return Manifest(table.combine_chunks(), self._root, self.source)

    def _with(self, column: str, values: Sequence[str | None]) -> Manifest:
        place = ALL_COLUMNS.get_field_index(column)
        if isinstance(values, str) or len(values) != len(self):
            raise InputError(f"{len(values)} values of {column} for {len(self)} utterances; give a list of one each")
        table = self._table.set_column(place, ALL_COLUMNS.field(place), _texts(list(values), f"values of {column}"))
        return Manifest(table, self._root, self.source)

    def _refuse_repeated_ids(self) -> None:
        ordered = self._ids.take(pa.array(self._order))
        equal_to_next = pc.equal(ordered[1:], ordered[:-1]) if len(self) else pa.array([], pa.bool_())
        repeated = np.flatnonzero(equal_to_next.to_numpy(zero_copy_only=False))
        if len(repeated):
            first, second = (self[i] for i in sorted(self._order[repeated[0]:repeated[0] + 2]))
            more = f" ({len(repeated) - 1} more such)" if len(repeated) > 1 else ""
            raise InputError(f"{second.audio}: a second utterance with the id {second.id}, after {first.audio}{more}; "
                             "ids must be unique")

    def _utterance(self, row: dict[str, Any]) -> Utterance:
        size = row.pop("bytes")
        row.pop(CRC.name, None)
        if row.get(OFFSET.name) is not None:
            row["size"] = size
        row["audio"] = Path(self._root, row["audio"])  # an absolute path stays as it is
        return Utterance(**row)

    @cached_property
    def _ids(self) -> pa.Array:
        column = self._table["id"]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    @cached_property
    def _order(self) -> np.ndarray:
        """Places in the order of their ids: 8 bytes a row, where a dict of ids would take some 150."""
        return pc.sort_indices(self._ids).to_numpy().astype(np.int64)

    def _ranked(self, rank: int) -> str:
        return self._ids[int(self._order[rank])].as_py()

    def _rank(self, utterance_id: str) -> int:
        """Number of ids before this one: a binary search (UTF-8 bytes and Python strings sort alike)."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._ranked(middle) < utterance_id:
                low = middle + 1
            else:
                high = middle
        return low

    def _similar(self, utterance_id: str) -> str:
        rank = self._rank(utterance_id)
        around = [self._ranked(r) for r in range(max(0, rank - 50), min(len(self), rank + 50))]
        close = difflib.get_close_matches(utterance_id, around, n=1, cutoff=0)
        return f"; the most similar id is {close[0]}" if close else "; it has no utterances"


def resampled_length(samples: np.ndarray | int, rate: np.ndarray | int) -> np.ndarray:
    """Samples at 16 kHz of `samples` samples at `rate` Hz: the nearest integer, halves upwards, as soxr gives."""
    return (2 * np.asarray(samples, np.int64) * SAMPLE_RATE + rate) // (2 * np.asarray(rate, np.int64))


def _batch(rows: list[Utterance]) -> pa.RecordBatch:
    """Utterances as columns, with absolute paths and the sizes of the files."""
    for row in rows:
        _check_kinds(row)
        _check(row)
    audio = [os.path.abspath(row.audio) for row in rows]
    sizes = {path: file_bytes(path) for path in {a for a, row in zip(audio, rows) if row.offset is None}}
    places = [(path, row.offset or 0, row.size) for path, row in zip(audio, rows)]
    looks = {place: look(*place) for place in set(places)}
    columns: dict[str, list[Any]] = {
        "id": [row.id for row in rows], "audio": audio, "start": [row.start for row in rows],
        "samples": [row.samples for row in rows], "rate": [row.rate for row in rows],
        "channels": [row.channels for row in rows], "speaker": [row.speaker for row in rows],
        "text": [row.text for row in rows],
        "bytes": [row.size if row.offset is not None else sizes[path] for path, row in zip(audio, rows)],
        OFFSET.name: [row.offset for row in rows], CRC.name: [looks[place] for place in places],
    }
    return pa.record_batch([_column(columns[field.name], field.type) for field in ALL_COLUMNS], schema=ALL_COLUMNS)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):  # which versions before 25 cannot make of a list where its strings are large
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


def _texts(values: list[str | None], what: str) -> pa.Array:
    try:
        return pa.array(values, pa.large_string())
    except (pa.ArrowException, TypeError) as error:
        odd = next(value for value in values if not isinstance(value, str | None))
        raise InputError(f"{what}: {odd!r:.40} is no text") from error


def _check_kinds(u: Utterance) -> None:
    if not isinstance(u, Utterance):
        raise InputError(f"{u!r:.60}: expected an Utterance; import_folder makes a manifest of files")
    for name in ("id", "speaker", "text"):
        value = getattr(u, name)
        if not isinstance(value, str) and (value is not None or name == "id"):
            raise InputError(f"{u.audio}: its {name} is {value!r:.40}; expected text")
    for name in ("start", "samples", "rate", "channels"):
        if not isinstance(getattr(u, name), int | np.integer):
            raise InputError(f"{u.id}: its {name} is {getattr(u, name)!r:.40}; expected a whole number")


def _check(u: Utterance) -> None:
    if not u.id or u.id.split() != [u.id]:
        raise InputError(f"{u.audio}: the id {u.id!r} is empty or holds a space; ids are words")
    if u.start < 0 or u.samples < 0 or u.rate < 1 or u.channels < 1:
        raise InputError(f"{u.id}: samples {u.start}+{u.samples} at {u.rate} Hz in {u.channels} channels of {u.audio} "
                         "cannot be; correct the table that says so")
    if (u.offset is None) != (u.size is None) or min(u.offset or 0, u.size or 0) < 0:
        raise InputError(f"{u.id}: {u.size} bytes at byte {u.offset} of {u.audio} cannot be; both or none are needed")
    try:
        os.fspath(u.audio).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{os.fspath(u.audio)!r}: the name is not UTF-8; rename the file") from error
    for what in (u.id, u.speaker, u.text):
        try:
            (what or "").encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{u.id!r} of {u.audio}: {what!r} cannot be written as UTF-8; correct it") from error
