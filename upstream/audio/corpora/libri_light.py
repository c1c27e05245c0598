"""Libri-light's limited supervision (Kahn et al. 2020, section 3): 10 minutes, 1 hour and 10 hours of LibriSpeech.

    librispeech_finetuning/1h/0 ... 1h/5    six sets of ten minutes, each with `clean` and `other`; together one hour
    librispeech_finetuning/9h               what makes the hour ten
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.corpora.lines import write_lines
from upstream.audio.corpora.probing import Skip
from upstream.audio.cutting import flac, reported
from upstream.audio.manifest import Manifest
from upstream.disk import disk_errors
from upstream.errors import InputError, UsageError
from upstream.locks import filling

Part = Literal["10min", "1h", "10h"]
FOLDS = 6


def import_libri_light(src: Path, part: Part, fold: int = 0, skip: Skip | None = None) -> Manifest:
    """A manifest of one of the three amounts, sorted by speaker, chapter and number; each lies within the next.

    Args:
        src: the folder `librispeech_finetuning`.
        part: how much of it.
        fold: which of the six sets of ten minutes; for `10min` only.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: a folder of the layout is not there, or no such fold.
        InputError: as `import_librispeech`.
    """
    src = Path(src)
    if not 0 <= fold < FOLDS or (fold and part != "10min"):
        raise UsageError(f"fold {fold} of {part}: only 10min has folds, 0 to {FOLDS - 1}")
    folds = [fold] if part == "10min" else range(FOLDS)
    folders = [src / "1h" / str(number) for number in folds] + ([src / "9h"] if part == "10h" else [])
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; give Libri-light's librispeech_finetuning")
    return import_librispeech(src, skip=skip, folders=folders)


def export_libri_light(hour: Manifest, folder: Path, rest: Manifest | None = None) -> list[Path]:
    """Write the layout: an hour as six sets in `1h/0` to `1h/5`, and what makes it ten in `9h`.

    Utterances go to the sets in turn, speaker after speaker, so that each set has all of them. Audio is written as
    FLAC (16 kHz, one channel, 16 bits), with `SPEAKER-CHAPTER.trans.txt` beside it. Returns the folders.

    Raises:
        UsageError: the folder is there already.
        BusyError: another process writes it.
        InputError: an id that is not `SPEAKER-CHAPTER-NUMBER`, no text, an utterance in both, or one that cannot be
            read; nothing is left then.
    """
    folder = Path(folder)
    if folder.exists():
        raise UsageError(f"{folder}: is there already; give another folder to export to")
    ids = hour.ids  # which every look lists anew
    ordered = sorted(range(len(ids)), key=ids.__getitem__)
    sets = {Path("1h", str(n)): hour.select(sorted(ordered[n::FOLDS])) for n in range(FOLDS)}
    if rest is not None:
        both = min(set(ids).intersection(rest.ids), default=None)
        if both is not None:
            raise InputError(f"{both}: is in the hour and in what is to make it ten; give `corpus split` parts that "
                             "share nothing")
        sets[Path("9h")] = rest
    for u in (u for part in sets.values() for u in part):
        if len(u.id.split("-")) != 3 or not all(u.id.split("-")) or "/" in u.id or not u.text:
            raise InputError(f"{u.id}: Libri-light's layout wants ids SPEAKER-CHAPTER-NUMBER and texts, as LibriSpeech "
                             "has them")
    with disk_errors(folder), filling(folder) as unfinished:
        for place, part in sets.items():
            _write_set(part, unfinished / place)
    return [folder / place for place in sets]


def _write_set(part: Manifest, folder: Path) -> None:
    folder.mkdir(parents=True)
    texts: dict[Path, list[str]] = {}
    for u in reported(part):
        speaker, chapter, _ = u.id.split("-")
        place = folder / speaker / chapter
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{u.id}.flac").write_bytes(flac(u))
        line = f"{u.id} {' '.join((u.text or '').split())}"
        texts.setdefault(place / f"{speaker}-{chapter}.trans.txt", []).append(line)
    for path, lines in texts.items():
        write_lines(path, sorted(lines))
