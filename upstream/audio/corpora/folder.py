"""Any folder of recordings: with a `.txt` beside each, with one table of transcripts, or without any text."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from upstream.audio.corpora.lines import path_id
from upstream.audio.corpora.probing import AUDIO_SUFFIXES, BadFiles, Entry, Skip, manifest_of
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError

PATH_COLUMNS = ("path", "file", "audio")
DELIMITERS = {".tsv": "\t", ".csv": ","}


def import_folder(src: Path, table: Path | None = None, skip: Skip | None = None) -> Manifest:
    """A manifest of a folder of recordings, one utterance a file.

    Without a table every audio file below `src` is an utterance. Its id is its path below `src` without the suffix, `/`
    written as `-` and spaces as `_`; its text is in a `.txt` file of the same name beside it, if there is one. In a
    folder where some recordings have such a file, one without a recording is an error.

    Args:
        src: folder, searched to any depth.
        table: a `.tsv` or `.csv` file with a header: `path` (also called `file` or `audio`; relative to `src`), and
            optionally `text`, `speaker` and `id`. Then only the files that it names are taken, in its order; an empty
            cell means unknown.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: `src` is no folder, or the table is not there or neither `.tsv` nor `.csv`.
        InputError: nothing usable there, a file that is no audio, a row naming a file that is not there, a transcript
            without audio, an id that occurs twice.
    """
    src = Path(src)
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder; give the folder that holds the recordings")
    bad = BadFiles(skip)
    entries = list(_listed(src, Path(table)) if table is not None else _found(src, bad))
    if not entries and not len(bad):
        where = table if table is not None else src
        raise InputError(f"{where}: no recordings; looked for files ending in {', '.join(sorted(AUDIO_SUFFIXES))}"
                         if table is None else f"{where}: the table has no rows")
    return manifest_of(entries, bad, src)


def _found(src: Path, bad: BadFiles) -> Iterator[Entry]:
    """The recordings below a folder, sorted by path."""
    for folder, folders, names in os.walk(src, followlinks=True):
        folders.sort()
        texts = {os.path.splitext(n)[0]: Path(folder, n) for n in names if n.lower().endswith(".txt")}
        audio = [Path(folder, n) for n in sorted(names) if os.path.splitext(n)[1].lower() in AUDIO_SUFFIXES]
        stems = {path.stem for path in audio}
        if stems & texts.keys():
            for stem in sorted(texts.keys() - stems):
                bad.add(stem, texts[stem], "a transcript, but no audio of the same name beside it")
        for path in audio:
            text = _read_text(path.stem, texts[path.stem], bad) if path.stem in texts else None
            yield Entry(path_id(src, path), path, None, text)


def _read_text(stem: str, path: Path, bad: BadFiles) -> str | None:
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except (UnicodeDecodeError, OSError) as error:
        bad.add(stem, path, f"not a readable UTF-8 file ({error})")
        return None
    if not text:
        bad.add(stem, path, "an empty transcript")
    return text or None


def _listed(src: Path, table: Path) -> Iterator[Entry]:
    """The rows of a table of transcripts."""
    delimiter = DELIMITERS.get(table.suffix.lower())
    if not table.is_file():
        raise UsageError(f"{table}: no such table")
    if delimiter is None:
        raise UsageError(f"{table}: a table ends in {' or '.join(DELIMITERS)}")
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            if delimiter == "\t":  # tab-separated tables know no quotes
                reader = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            else:
                reader = csv.DictReader(lines, delimiter=delimiter)
            path_column = _path_column(table, reader.fieldnames)
            for row in reader:
                yield _entry(src, f"{table}, line {reader.line_num}", row, path_column)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a readable UTF-8 table ({error})") from error


def _path_column(table: Path, names: object) -> str:
    columns = list(names) if isinstance(names, list | tuple) else []
    for column in PATH_COLUMNS:
        if column in columns:
            return column
    raise InputError(f"{table}: the first line names the columns {', '.join(columns) or '(none)'}; "
                     f"one of {', '.join(PATH_COLUMNS)} is needed, and text, speaker and id are read")


def _entry(src: Path, where: str, row: dict[str | None, str | None], path_column: str) -> Entry:
    cells = {name: (value or "").strip() for name, value in row.items() if name is not None}
    if None in row or None in row.values():
        raise InputError(f"{where}: {len(cells)} columns are named, the line has more or fewer")
    if not cells[path_column]:
        raise InputError(f"{where}: the column {path_column} is empty")
    path = src / cells[path_column]
    text = " ".join(cells.get("text", "").split())
    return Entry(cells.get("id") or path_id(src, path), path, cells.get("speaker") or None, text or None)
