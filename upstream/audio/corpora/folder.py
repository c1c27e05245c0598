"""Any folder of recordings: with a `.txt` beside each, with one table of transcripts, or without any text."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from upstream.audio.corpora.lines import path_id
from upstream.audio.corpora.probing import AUDIO_SUFFIXES, BadFiles, Entry, Skip, manifest_of
from upstream.audio.corpora.tar_shards import SPEAKER_NAMES, TEXT_NAMES, first_of
from upstream.audio.corpora.unread import ANEW, left_out, unread_names, without_converted
from upstream.audio.corpora.walking import walk
from upstream.audio.file_names import composed_name
from upstream.audio.manifest import Manifest
from upstream.disk import path_given
from upstream.errors import InputError, UsageError
from upstream.progress import say

PATH_COLUMNS = ("path", "file", "audio")
DELIMITERS = {".tsv": "\t", ".csv": ","}


def import_folder(src: Path, table: Path | None = None, skip: Skip | None = None,
                  advice: str | None = None) -> Manifest:
    """A manifest of a folder of recordings, one utterance a file.

    Without a table every audio file below `src` is an utterance. Its id is its path below `src` without the suffix, `/`
    written as `-` and spaces as `_`; its text is in a `.txt` file of the same name beside it, if there is one. In a
    folder where some recordings have such a file, one without a recording is an error. Recordings of formats that are
    not read are counted in a warning; one with a transcript is an error.

    Args:
        src: folder, searched to any depth.
        table: a `.tsv` or `.csv` file with a header: `path` (also called `file` or `audio`; relative to `src`), and
            optionally `text` (also `sentence`, `transcription`, `transcript`), `speaker` (also `speaker_id`,
            `client_id`) and `id`, in upper case or lower. Then only the files that it names are taken, in its order;
            an empty cell means unknown.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.
        advice: what to do then, for a program that has an option for it; else it names the command that has.

    Raises:
        UsageError: `src` is no folder, or the table is not there or neither `.tsv` nor `.csv`.
        InputError: nothing usable there, a file that is no audio, a row naming a file that is not there, a transcript
            without audio, an id that occurs twice.
    """
    src = path_given(src, "src")
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder; give the folder that holds the recordings")
    bad = BadFiles(skip)
    unread: list[Path] = []
    entries = list(_listed(src, Path(table)) if table is not None else _found(src, bad, unread))
    if not entries and not len(bad):
        where = table if table is not None else src
        told = f"; {left_out(unread)}" if unread else ""
        raise InputError(f"{where}: no recordings; looked for files ending in {', '.join(sorted(AUDIO_SUFFIXES))}{told}"
                         if table is None else f"{where}: the table has no rows")
    if unread:
        say(f"warning: {src}: left out are {left_out(unread)}")
    return manifest_of(entries, bad, src, advice or (
        f"mend them, or leave them out: hubertkit corpus import folder {src} --skip-bad --out FILE.arrow, and "
        "give data=FILE.arrow"))


def _found(src: Path, bad: BadFiles, unread: list[Path]) -> Iterator[Entry]:
    """The recordings below a folder, sorted by path; to `unread` those of formats that are not read, but for those that
    have a transcript, which go to `bad`."""
    for folder, names in walk(src, bad.folder):
        texts = {_stem(n): folder / n for n in names if n.lower().endswith(".txt")}
        audio = without_converted([folder / n for n in names if os.path.splitext(n)[1].lower() in AUDIO_SUFFIXES])
        stems = {_stem(path.name) for path in audio}
        for path in (folder / name for name in unread_names(names, {path.stem for path in audio})):
            if _stem(path.name) in texts:
                del texts[_stem(path.name)]
                bad.add(path.stem, path, f"of a format that is not read; {ANEW}")
            else:
                unread.append(path)
        if stems & texts.keys():
            for stem in sorted(texts.keys() - stems):
                bad.add(stem, texts[stem], "a transcript, but no audio of the same name beside it")
        for path in audio:
            stem = _stem(path.name)
            text = _read_text(stem, texts[stem], bad) if stem in texts else None
            if text is None and stem in texts:
                continue  # what is counted as left out is left out: nobody asked for the audio alone
            yield Entry(path_id(src, path), path, None, text)


def _stem(name: str) -> str:
    """A name without its suffix, the same for a recording and a transcript whose names look alike."""
    return composed_name(os.path.splitext(name)[0])


def _read_text(stem: str, path: Path, bad: BadFiles) -> str | None:
    if not path.is_file():  # a pipe would be waited for
        bad.add(stem, path, "a transcript that is no regular file")
        return None
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
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            path_column = _path_column(table, reader.fieldnames)
            texts = False
            for row in reader:
                entry = _entry(src, f"{table}, line {reader.line_num}", row, path_column)
                texts = texts or entry.text is not None
                yield entry
            if not texts:
                say_untold(table, reader.fieldnames)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a readable UTF-8 table ({error})") from error


def say_untold(table: Path, columns: Sequence[str]) -> None:
    """Say that a table gave no text, unless it has no column that could be meant to."""
    others = [name for name in columns if name not in (*PATH_COLUMNS, *SPEAKER_NAMES, "id")]
    if others:
        say(f"warning: {table}: no transcripts in its columns {', '.join(columns)}; they are read from "
            f"{', '.join(TEXT_NAMES)}")


def _path_column(table: Path, columns: Sequence[str]) -> str:
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
    text = " ".join((first_of(cells, TEXT_NAMES) or "").split())
    return Entry(cells.get("id") or path_id(src, path), path, first_of(cells, SPEAKER_NAMES), text or None)
