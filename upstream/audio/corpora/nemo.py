"""NeMo's manifests: JSONL with `audio_filepath`, `duration` and perhaps `offset` (seconds), `text`, `speaker`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from upstream.audio.corpora.lines import ids_of, lines_of, span_ids, write_lines
from upstream.audio.corpora.probing import BadFiles, Entry, Skip, manifest_of
from upstream.audio.manifest import Manifest
from upstream.claims import claim
from upstream.errors import InputError

MOST_SECONDS = 10**9  # a whole number beyond cannot be seconds, and perhaps no float


def import_nemo(src: Path, skip: Skip | None = None) -> Manifest:
    """A manifest of a JSONL file, in its order.

    Ids are the values of `id` where a line has one; otherwise the file's stem (its path where two stems are alike),
    followed by the milliseconds of the start where a file has several parts. `channel_selector` is not supported.

    Args:
        src: the JSONL; relative paths are relative to its folder.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: no such file.
        InputError: naming the line: not JSON, no `audio_filepath`, a value of another type.
    """
    src, bad = Path(src), BadFiles(skip)
    rows = [_row(src, number, line) for number, line in lines_of(src) if line.strip()]
    paths = [src.absolute().parent / row["audio_filepath"] for row in rows]
    starts = [float(row.get("offset") or 0) for row in rows]
    ids = span_ids(ids_of(src.absolute().parent, paths), starts)
    entries = [Entry(_said(row, "id") or name, path, _said(row, "speaker"),
                     " ".join((row.get("text") or "").split()) or None, start,
                     start + row["duration"] if row.get("duration") is not None else None)
               for row, path, start, name in zip(rows, paths, starts, ids)]
    return manifest_of(entries, bad, src)


def export_nemo(manifest: Manifest, path: Path) -> Path:
    """Write a JSONL: for each utterance `audio_filepath` (absolute), `duration`, `text`, and `offset`, `speaker` where
    there is one; `id` is ours, and NeMo passes it over.

    Raises InputError for audio inside a tar or a Parquet file, or in a file of several channels: we read their mean,
    and no line can ask NeMo for that, which takes all of them or, where it is told so for a whole manifest, one.
    Likewise where the file is there and no export wrote it.
    """
    path, lines = Path(path), []
    for u in manifest:
        if u.offset is not None:
            raise InputError(f"{u.id}: lies inside {u.audio}; write it as a file first (--cut-audio)")
        if u.channels > 1:
            raise InputError(f"{u.id}: {u.audio} has {u.channels} channels, whose mean is read here and never by NeMo; "
                             "write that as a file first (--cut-audio)")
        row: dict[str, Any] = {"audio_filepath": str(u.audio), "duration": round(u.samples / u.rate, 6),
                               "text": u.text or "", "id": u.id}
        if u.start:
            row["offset"] = round(u.start / u.rate, 6)
        if u.speaker is not None:
            row["speaker"] = u.speaker
        lines.append(json.dumps(row, ensure_ascii=False))
    claim(path.parent, [path.name])
    return write_lines(path, lines)


def _said(row: dict[str, Any], key: str) -> str | None:
    """A value as a string; 0 is one."""
    return None if row.get(key) is None else str(row[key])


def _row(src: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{src}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str) or not row["audio_filepath"]:
        raise InputError(f"{src}, line {number}: no audio_filepath; expected NeMo's "
                         '{"audio_filepath": ..., "duration": ..., "text": ...}')
    if "channel_selector" in row:
        raise InputError(f"{src}, line {number}: channel_selector is not supported; channels are averaged when read")
    for key, types, wanted in (("duration", (int, float), "seconds"), ("offset", (int, float), "seconds"),
                               ("text", str, "a string"), ("id", (str, int), "a string or a number")):
        value = row.get(key)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool) or
                                  (wanted == "seconds" and isinstance(value, int) and abs(value) > MOST_SECONDS)):
            raise InputError(f"{src}, line {number}: {key} is {row[key]!r}; expected {wanted}")
    return row
