"""Audio inside Parquet files, as Hugging Face's `datasets` writes them: a column `audio` of `{bytes, path}`.

Where the values are stored without compression, they are read where they lie. Usually Parquet compresses its pages
(snappy, in blocks of 64 KiB): reading one utterance would then mean decoding a page or a whole row group, some 50 MB,
each time. Such values are written once into a plain tar for each Parquet file, beside the manifest, and read there.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upstream.audio.corpora.folder import say_untold
from upstream.audio.corpora.probing import BadFiles, Entry, Skip, manifest_of
from upstream.audio.corpora.tar_shards import SPEAKER_NAMES, TEXT_NAMES, first_of
from upstream.audio.corpora.walking import files_below
from upstream.audio.cutting import flac, reported
from upstream.audio.manifest import Manifest
from upstream.audio.manifest_file import file_bytes, look
from upstream.claims import MARK, claim, refuse_others, remove
from upstream.disk import disk_errors, writing
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE

ROWS_AT_ONCE = 32  # whose audio is in memory
MAGIC = {b"fLaC": ".flac", b"RIFF": ".wav", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff": ".mp3"}


def import_parquet(src: Path, extracted: Path, skip: Skip | None = None, column: str | None = None) -> Manifest:
    """A manifest of a Parquet file, or of a folder of them in the order of their names.

    Ids are the column `id`, or the stems of the files that the audio was made of, where all have one and no two are
    alike, or `FILE-ROW`. Text: the column `text`, `sentence`, `transcription` or `transcript`; speaker: `speaker`,
    `speaker_id` or `client_id`; the first that is there.

    Args:
        src: `.parquet`, or a folder with such files at any depth.
        extracted: folder for the tars with the audio of compressed files; made if it is needed.
        skip: called with each row that cannot be used, which is left out then; without it the first is an error.
        column: with the audio; None takes the only one of `{bytes, path}` or of bytes.

    Raises:
        UsageError: nothing there.
        InputError: no Parquet, no column of audio or several, audio that cannot be read.
    """
    src, extracted, bad = Path(src), Path(extracted), BadFiles(skip)
    files = sorted(files_below(src, ".parquet", bad.folder)) if src.is_dir() else [src]
    if not files or not src.exists():
        raise UsageError(f"{src}: no such Parquet file, or no folder with any")
    tars = _tar_names(files, extracted)
    made: list[Path] = []
    for aside in extracted.glob(".*.tar.before"):  # by an import that was killed
        _put_back(aside.with_name(aside.name[1:].removesuffix(".before")))
    refuse_others(extracted, [tar.name for tar in tars.values()])
    try:
        rows = [row for path in files for row in _rows(path, column, tars[path], made, bad)]
        entries = [_entry(row, name) for row, name in zip(rows, _ids(rows))]
        columns = _string_columns(files[0])
        if entries and not any(entry.text for entry in entries) and not {*columns} & {*TEXT_NAMES}:
            say_untold(files[0], columns)
        manifest = manifest_of(entries, bad, src)
    except BaseException:
        for path in made:
            if not _put_back(path):
                remove(path.parent, [path.name])
        if made and all(path.name == MARK for path in extracted.iterdir()):
            (extracted / MARK).unlink(missing_ok=True)
            extracted.rmdir()
        raise
    for path in made:
        _aside(path).unlink(missing_ok=True)
    return manifest


def export_parquet(manifest: Manifest, path: Path) -> Path:
    """Write a Parquet file with the audio inside (FLAC: 16 kHz, one channel, 16 bits), as `datasets` reads it.

    Columns: `id`, `audio` of `{bytes, path}`, `text`, `speaker`. Nothing is compressed again, so that an import reads
    the audio where it lies. Raises InputError for an utterance that cannot be read, or where the file is there and no
    export wrote it; nothing is left then.
    """
    path = Path(path)
    refuse_others(path.parent, [path.name])
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = {"dtype": "string", "_type": "Value"}
    features = {"id": text, "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}, "text": text, "speaker": text}
    schema = pa.schema([("id", pa.string()), ("audio", audio), ("text", pa.string()), ("speaker", pa.string())],
                       metadata={"huggingface": json.dumps({"info": {"features": features}})})
    with disk_errors(path), writing(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as file:
            rows: list[dict[str, Any]] = []
            for u in reported(manifest):
                rows.append({"id": u.id, "audio": {"bytes": flac(u), "path": f"{u.id.replace('/', '-')}.flac"},
                             "text": u.text, "speaker": u.speaker})
                if len(rows) == ROWS_AT_ONCE:
                    file.write_table(pa.Table.from_pylist(rows, schema))
                    rows.clear()
            if rows:
                file.write_table(pa.Table.from_pylist(rows, schema))
        claim(path.parent, [path.name])  # now, before it takes its name
    return path


@dataclass(frozen=True)
class _Row:
    """A value of the audio column, by the place of its bytes."""

    file: Path
    number: int
    audio: Path
    offset: int
    size: int
    name: str | None
    others: dict[str, Any]


def _rows(path: Path, column: str | None, tar: Path, made: list[Path], bad: BadFiles) -> Iterator[_Row]:
    """The rows of a file that have audio; audio that cannot be read in place goes into the tar."""
    try:
        with pq.ParquetFile(path) as file, ExitStack() as stack:
            audio = _audio_column(path, file.schema_arrow, column)
            wanted = [n for n in ("id", *TEXT_NAMES, *SPEAKER_NAMES) if n in file.schema_arrow.names and n != audio]
            store = _Store(path, tar, made, stack)
            number = 0
            for group in range(file.num_row_groups):
                store.look_in(*_chunk(file, group, audio))
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[audio, *wanted]):
                    for row in batch.to_pylist():
                        value = row.pop(audio)
                        content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else \
                            (value, None)
                        number += 1
                        if content:
                            yield _Row(path, number - 1, *store.place(content, f"{number - 1:08d}"), name, row)
                        else:
                            bad.add(f"{path.stem}-{number - 1}", path, f"row {number - 1} has no audio inside"
                                    + (f", only the path {name}" if name else ""))
    except (pa.ArrowException, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; what pyarrow finds wrong in a file has no number
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason})") from error


def _string_columns(path: Path) -> list[str]:
    kinds = (pa.string(), pa.large_string())
    return [field.name for field in pq.read_schema(path) if field.type in kinds]


class _Store:
    """Where the bytes of values are: in the Parquet file itself, or else in a tar that is begun when it is needed."""

    def __init__(self, source: Path, tar: Path, made: list[Path], stack: ExitStack) -> None:
        self._source, self._name, self._made, self._stack = source.absolute(), tar.absolute(), made, stack
        self._map = stack.enter_context(mmap.mmap(stack.enter_context(source.open("rb")).fileno(), 0,
                                                  access=mmap.ACCESS_READ))
        self._tar: tarfile.TarFile | None = None
        self._begin = self._at = self._end = 0

    def look_in(self, begin: int, end: int) -> None:
        """The part of the Parquet file to look for the next values in; none where it is compressed."""
        self._begin, self._at, self._end = begin, begin, end

    def place(self, content: bytes, name: str) -> tuple[Path, int, int]:
        """File, offset and size of a value."""
        if self._begin < self._end:
            # Values lie one after another, except those that occur twice: they are found where they were first.
            found = self._map.find(content, self._at, self._end)
            found = self._map.find(content, self._begin, self._end) if found < 0 else found
            if found >= 0:
                self._at = max(self._at, found + len(content))
                return self._source, found, len(content)
        return self._name, self._append(content, name), len(content)

    def _append(self, content: bytes, name: str) -> int:
        if self._tar is None:
            self._stack.enter_context(disk_errors(self._name))
            temporary = self._stack.enter_context(writing(self._name))
            claim(self._name.parent, [self._name.name])
            if self._name.is_file():  # of an earlier import, whose manifest needs it if this one fails
                os.replace(self._name, _aside(self._name))
            self._made.append(self._name)  # now, for what is made is removed again where the import fails
            self._tar = self._stack.enter_context(tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT))
        suffix = next((s for magic, s in MAGIC.items() if content.startswith(magic)), ".audio")
        member = tarfile.TarInfo(name + suffix)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))
        return self._tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _aside(tar: Path) -> Path:
    """Where the tar of an earlier import lies while another is made."""
    return tar.with_name(f".{tar.name}.before")


def _put_back(tar: Path) -> bool:
    """Whether an earlier import's tar lay aside; it is in its place again."""
    found = _aside(tar).is_file()
    if found:
        os.replace(_aside(tar), tar)
    return found


def _chunk(file: pq.ParquetFile, group: int, audio: str) -> tuple[int, int]:
    """Begin and end of the bytes of the audio of a row group; (0, 0) where they are compressed."""
    meta = file.metadata.row_group(group)
    for number in range(meta.num_columns):
        column = meta.column(number)
        if column.path_in_schema in (f"{audio}.bytes", audio) and column.compression == "UNCOMPRESSED":
            begin = min(o for o in (column.dictionary_page_offset, column.data_page_offset) if o is not None)
            return begin, begin + column.total_compressed_size
    return 0, 0


def _audio_column(path: Path, schema: pa.Schema, column: str | None) -> str:
    found = [f.name for f in schema if _holds_audio(f.type) and column in (None, f.name)]
    if len(found) != 1:
        what = f"the column {column}" if column else f"{len(found)} columns ({', '.join(found)})" if found else "none"
        raise InputError(f"{path}: expected one column of audio, {{bytes, path}} or bytes; found {what} among "
                         f"{', '.join(schema.names)}; name it (column, --column)")
    return found[0]


def _holds_audio(kind: pa.DataType) -> bool:
    binary = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    return pa.types.is_binary(binary) or pa.types.is_large_binary(binary)


def _tar_names(files: list[Path], folder: Path) -> dict[Path, Path]:
    """Where the audio of each goes. A changed file gets another tar: manifests of what it was still read theirs."""
    stems = [path.stem for path in files]
    names = stems if len(set(stems)) == len(stems) else [f"{i:05d}-{stem}" for i, stem in enumerate(stems)]
    return {path: folder / f"{name}-{file_bytes(str(path)) or 0:x}-{look(str(path)) or 0:08x}.tar"
            for path, name in zip(files, names)}


def _ids(rows: list[_Row]) -> list[str]:
    given = ["_".join((first_of(row.others, ("id",)) or "").split()) for row in rows]
    if all(given) and len(set(given)) == len(given):  # FLEURS numbers sentences, which several people read
        return given
    stems = ["_".join(Path(row.name or "").stem.split()) for row in rows]
    if all(stems) and len(set(stems)) == len(stems):
        return stems
    return [f"{'_'.join(row.file.stem.split())}-{row.number}" for row in rows]


def _entry(row: _Row, name: str) -> Entry:
    text = " ".join((first_of(row.others, TEXT_NAMES) or "").split())
    return Entry(name, row.audio, first_of(row.others, SPEAKER_NAMES), text or None, offset=row.offset, size=row.size)
