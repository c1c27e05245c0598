"""The manifest's file: columns, versions, relative paths and the content hash."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from upstream.disk import disk_errors, writing
from upstream.errors import FormatError, UsageError

FORMAT = "hubertkit manifest"
VERSION = 1

# `bytes` is the size of the audio file: the hash needs it, and asking the file system for it at every load would take
# minutes on a large corpus. large_string, because the transcripts of millions of utterances exceed 2 GiB.
COLUMNS = pa.schema([
    pa.field("id", pa.large_string(), nullable=False),
    pa.field("audio", pa.dictionary(pa.int32(), pa.large_string()), nullable=False),
    pa.field("start", pa.int64(), nullable=False),
    pa.field("samples", pa.int64(), nullable=False),
    pa.field("rate", pa.int32(), nullable=False),
    pa.field("channels", pa.int32(), nullable=False),
    pa.field("speaker", pa.dictionary(pa.int32(), pa.large_string())),
    pa.field("text", pa.large_string()),
    pa.field("bytes", pa.int64()),
])
OPTIONAL = ("speaker", "text", "bytes")

# Only where some audio files lie inside others; `bytes` is the size of the inner file then. Where a file lies is no
# part of the content hash, so a corpus keeps its hash when it is packed or unpacked.
OFFSET = pa.field("offset", pa.int64())

# A look into the files, so that two corpora of the same names, lengths and sizes (clean and noisy WAV files, say) are
# told apart: the CRC-32 of the first and the last `LOOK_BYTES` of each audio file. Manifests made by other programs,
# and by us before there was such a column, have none, and none is made up for them: it would mean opening every file.
CRC = pa.field("crc", pa.int64())
LOOK_BYTES = 1 << 16

EXTRAS = (OFFSET, CRC)
ALL_COLUMNS = COLUMNS.append(OFFSET).append(CRC)


def write_table(path: Path, table: pa.Table, root: str, source: str, digest: str) -> None:
    """Write a table whose audio paths are relative to `root`; Parquet where the name ends in `.parquet`."""
    metadata = {"format": FORMAT, "version": str(VERSION), "source": source, "hash": digest}
    audio = _rebased(pc.cast(table["audio"], pa.large_string()), root, os.path.dirname(os.path.abspath(path)))
    table = table.set_column(COLUMNS.get_field_index("audio"), COLUMNS.field("audio"), pc.dictionary_encode(audio))
    table = table.unify_dictionaries().combine_chunks().replace_schema_metadata(metadata)
    with disk_errors(path), writing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
            return
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(1, len(table)))  # one batch, so that columns map as they are


def read_table(path: Path) -> tuple[pa.Table, str, str | None]:
    """The table of a manifest (audio paths as in the file), its source, and the hash that the file says it has.

    A program that changed the rows of a manifest may have kept what it says: `checked_hash` tells.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such manifest; `hubertkit corpus import` makes one")
    try:
        table = pq.read_table(path, memory_map=True) if path.suffix == ".parquet" else _mapped(path)
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(f"{path}: not a manifest, or cut short ({reason}); import the corpus again") from error
    metadata = {k.decode(): v.decode(errors="replace") for k, v in (table.schema.metadata or {}).items()}
    ours = metadata.get("format") == FORMAT
    if ours and metadata.get("version") != str(VERSION):
        raise FormatError(f"{path}: a manifest of version {metadata.get('version')}, this program reads {VERSION}; "
                          "import the corpus again")
    said = metadata.get("hash") if ours else None
    return _checked(path, table, foreign=not ours), metadata.get("source", str(path)), said


def one_table(parts: Sequence[tuple[pa.Table, str]]) -> pa.Table:
    """The rows of tables one below the other, with absolute audio paths.

    Args:
        parts: each table with the folder that its audio paths are relative to.
    """
    tables = []
    for table, root in parts:
        audio = _rebased(pc.cast(table["audio"], pa.large_string()), root, "")
        place = COLUMNS.get_field_index("audio")
        tables.append(table.set_column(place, COLUMNS.field(place), pc.dictionary_encode(audio)))
    there = [name for name in ALL_COLUMNS.names if any(name in table.column_names for table in tables)]
    whole = pa.concat_tables(tables, promote_options="default").select(there)
    return whole.unify_dictionaries().combine_chunks()


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest, of whatever version, or has the columns of one; only its head is read."""
    try:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
        else:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                schema = reader.schema
    except (pa.ArrowException, OSError, EOFError):
        return False
    ours = (schema.metadata or {}).get(b"format") == FORMAT.encode()
    return ours or all(name in schema.names for name in COLUMNS.names if name not in OPTIONAL)


def checked_hash(table: pa.Table, said: str | None, source: str) -> str:
    """The hash of a table; one whose file said another was changed by someone, and is checked as a foreign one.

    Raises:
        FormatError: what `source` was changed to is no manifest: ids that are not unique, impossible numbers.
    """
    found = table_hash(table)
    if said is not None and said not in (found, table_hash(table, looks=False)):
        _check_foreign(Path(source), table)
    return found


def table_hash(table: pa.Table, looks: bool = True) -> str:
    """Hash of the rows in order, independent of chunks, of dictionary codes and of where the files lie; with `looks`
    also of what was seen in the files, where it was looked."""
    digest = hashlib.sha256(f"{FORMAT} {VERSION} {len(table)}".encode())
    looked = CRC.name in table.column_names and table[CRC.name].null_count < len(table)
    seen = [CRC.name] if looks and looked else []
    for name in [*COLUMNS.names, *seen]:
        if name == "audio":
            continue
        column = table[name]
        if pa.types.is_integer(column.type):
            part = hashlib.sha256(pc.fill_null(column.cast(pa.int64()), -1).to_numpy().astype("<i8").tobytes())
        else:
            part = _string_hash(column)
        digest.update(name.encode() + part.digest())
    return digest.hexdigest()


def file_bytes(path: str) -> int | None:
    """Size of a file, None if it is not there (reading it names it then)."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def look(path: str, offset: int = 0, size: int | None = None) -> int | None:
    """CRC-32 of the first and the last `LOOK_BYTES` of a file, or of `size` bytes at `offset` of it; None if it cannot
    be opened (reading it names it then)."""
    try:
        with open(path, "rb") as file:
            end = offset + size if size is not None else os.fstat(file.fileno()).st_size
            file.seek(offset)
            first = file.read(min(LOOK_BYTES, end - offset))
            file.seek(max(offset + len(first), end - LOOK_BYTES))
            return zlib.crc32(file.read(min(LOOK_BYTES, end - offset - len(first))), zlib.crc32(first))
    except OSError:
        return None


def _string_hash(column: pa.ChunkedArray) -> hashlib._Hash:
    """Hash of the lengths (-1 for none) and of the bytes of strings."""
    lengths, content = hashlib.sha256(), hashlib.sha256()
    for chunk in column.cast(pa.large_string()).chunks:
        if len(chunk) == 0:
            continue
        lengths.update(pc.fill_null(pc.binary_length(chunk), -1).to_numpy().astype("<i8").tobytes())
        filled = pc.fill_null(chunk, "")
        _, offsets, data = filled.buffers()
        ends = np.frombuffer(offsets, np.int64)[[filled.offset, filled.offset + len(filled)]]
        if data is not None:
            content.update(memoryview(data)[ends[0]:ends[1]])
    lengths.update(content.digest())
    return lengths


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def _checked(path: Path, table: pa.Table, foreign: bool) -> pa.Table:
    """The table with our columns in our types and order; extra columns are dropped, optional ones filled in."""
    missing = [name for name in COLUMNS.names if name not in OPTIONAL and name not in table.column_names]
    if missing:
        raise FormatError(f"{path}: no column {', '.join(missing)}; a manifest has {', '.join(COLUMNS.names)}")
    extras = [field for field in EXTRAS if field.name in table.column_names]
    if OFFSET in extras and "bytes" not in table.column_names:
        raise FormatError(f"{path}: a column {OFFSET.name} and none of bytes: the sizes of the inner files are missing")
    columns = []
    schema = pa.schema([*COLUMNS, *extras])
    for field in schema:
        if field.name in table.column_names:
            columns.append(_cast(path, table[field.name], field))
        elif field.name == "bytes":
            columns.append(_sizes(columns[COLUMNS.get_field_index("audio")], path.parent))
        else:
            columns.append(pa.nulls(len(table), field.type))
    checked = pa.table(columns, schema=schema).combine_chunks()
    if foreign:
        _check_foreign(path, checked)
    return checked


def _cast(path: Path, column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if column.null_count and not field.nullable:
        raise FormatError(f"{path}: {column.null_count} rows have no {field.name}; every utterance needs one")
    if column.type == field.type:
        return column
    try:
        if pa.types.is_dictionary(field.type):
            return pc.dictionary_encode(column.cast(pa.large_string()))
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise FormatError(f"{path}: column {field.name} is {column.type}, expected {field.type}") from error


def _check_foreign(path: Path, table: pa.Table) -> None:
    """What our own files were checked for when they were made. Raises FormatError."""
    counts = pc.value_counts(table["id"])
    twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    if len(twice):
        raise FormatError(f"{path}: the id {twice[0]['values'].as_py()} occurs {twice[0]['counts'].as_py()} times, "
                          f"and {len(twice) - 1} more ids more than once; ids must be unique")
    for name, least in (("start", 0), ("samples", 0), ("rate", 1), ("channels", 1), (OFFSET.name, 0), ("bytes", 0)):
        if name not in table.column_names:
            continue
        lowest = pc.min(table[name]).as_py()
        if lowest is not None and lowest < least:
            raise FormatError(f"{path}: column {name} holds {lowest}; at least {least} is expected")
    if OFFSET.name in table.column_names:
        unknown = pc.and_(pc.is_valid(table[OFFSET.name]), pc.is_null(table["bytes"]))
        if pc.any(unknown).as_py():
            raise FormatError(f"{path}: {table['id'][pc.index(unknown, True).as_py()]} has an offset and no bytes; the "
                              "size of the inner file is needed")


def _sizes(audio: pa.ChunkedArray, folder: Path) -> pa.Array:
    """Size of each row's file, asked once for each file."""
    encoded = pc.dictionary_encode(pc.cast(audio, pa.large_string()).combine_chunks())
    sizes = pa.array([file_bytes(os.path.join(folder, name)) for name in encoded.dictionary.to_pylist()], pa.int64())
    return sizes.take(encoded.indices)


def _rebased(audio: pa.ChunkedArray, root: str, folder: str) -> pa.ChunkedArray:
    """Paths relative to `root` as paths relative to `folder` where they lie below it, absolute otherwise, or where it
    is empty."""
    inside, nothing = pa.scalar(os.path.join(root, ""), pa.large_string()), pa.scalar("", pa.large_string())
    absolute = pc.if_else(pc.starts_with(audio, "/"), audio, pc.binary_join_element_wise(inside, audio, nothing))
    if not folder:
        return absolute
    prefix = os.path.join(folder, "")
    return pc.if_else(pc.starts_with(absolute, prefix), pc.utf8_slice_codeunits(absolute, len(prefix)), absolute)
