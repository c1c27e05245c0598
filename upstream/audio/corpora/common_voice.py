"""Mozilla's Common Voice: `train.tsv`, `validated.tsv` and others, with the recordings in `clips/` beside them."""

from __future__ import annotations

import csv
from pathlib import Path

from upstream.audio.corpora.lines import write_lines
from upstream.audio.corpora.probing import AUDIO_SUFFIXES, BadFiles, Entry, Skip, manifest_of
from upstream.audio.cutting import cut_audio
from upstream.audio.manifest import Manifest
from upstream.claims import claim, refuse_others
from upstream.errors import InputError, UsageError

NEEDED = ("client_id", "path", "sentence")


def import_common_voice(src: Path, skip: Skip | None = None) -> Manifest:
    """A manifest of one table, in its order. Ids are the clips' stems, speakers the `client_id`.

    Args:
        src: the `.tsv`; the clips are in `clips` beside it.
        skip: called with each clip that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: no such table.
        InputError: a column is missing, a line has more or fewer columns than the first, a clip cannot be used.
    """
    src, bad = Path(src), BadFiles(skip)
    if not src.is_file():
        raise UsageError(f"{src}: no such table; give Common Voice's train.tsv, validated.tsv, ...")
    entries = []
    try:
        with src.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{src}: no column {', '.join(missing)}; is it a table of Common Voice?")
            for row in reader:
                if None in row or None in row.values() or not row["path"].strip():
                    raise InputError(f"{src}, line {reader.line_num}: expected {len(reader.fieldnames or ())} columns "
                                     "and a path")
                entries.append(_entry(src.absolute().parent / "clips", row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{src}: not a readable UTF-8 table ({error})") from error
    return manifest_of(entries, bad, src)


def export_common_voice(manifest: Manifest, folder: Path, name: str = "train") -> Path:
    """Write `NAME.tsv` (`client_id`, `path`, `sentence`) and the recordings to `clips/`, as `cut_audio` does.

    Raises:
        UsageError: `clips` is there already.
        InputError: an utterance cannot be read, or the table is there and no export wrote it; nothing is left then.
    """
    folder = Path(folder)
    refuse_others(folder, [f"{name}.tsv"])
    clips = cut_audio(manifest, folder / "clips")
    claim(folder, [f"{name}.tsv"])
    rows = ["\t".join(NEEDED)]
    for u in clips:
        rows.append("\t".join(" ".join(cell.split()) for cell in (u.speaker or "", u.audio.name, u.text or "")))
    return write_lines(folder / f"{name}.tsv", rows)


def _entry(clips: Path, row: dict[str, str]) -> Entry:
    name = row["path"].strip()
    if Path(name).suffix.lower() not in AUDIO_SUFFIXES:
        name += ".mp3"  # releases before 4 leave it out
    return Entry("_".join(Path(name).stem.split()), clips / name, row["client_id"].strip() or None,
                 " ".join(row["sentence"].split()) or None)
