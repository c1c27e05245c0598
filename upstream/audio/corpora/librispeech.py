"""LibriSpeech and corpora in its layout: `SPEAKER/CHAPTER/ID.flac` with `SPEAKER-CHAPTER.trans.txt` beside them.

Subset folders above (`train-clean-100/...`) may be there or not. Audio may be FLAC, Opus or anything else that can be
read, since the corpus is often kept in a smaller format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from upstream.audio.corpora.lines import lines_of
from upstream.audio.corpora.probing import AUDIO_SUFFIXES, BadFiles, Entry, Skip, manifest_of
from upstream.audio.corpora.walking import walk
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError

TRANSCRIPTS = ".trans.txt"


def import_librispeech(src: Path, ids: list[str] | None = None, skip: Skip | None = None,
                       folders: Sequence[Path] | None = None) -> Manifest:
    """A manifest of a LibriSpeech folder, sorted by speaker, chapter and number.

    Args:
        src: the corpus, one subset, or a folder of several.
        ids: only these utterances; all if None.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.
        folders: look only below these.

    Raises:
        UsageError: `src` is no folder.
        InputError: no transcripts there; an id of `ids` is not there; a transcript without audio, audio without a
            transcript, or a file that is no audio.
    """
    src = Path(src)
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder; give the folder that holds the LibriSpeech subsets")
    bad = BadFiles(skip)
    wanted = set(ids) if ids is not None else None
    entries = sorted(_entries(src, folders or [src], wanted, bad), key=lambda e: _natural(e.id))
    if not entries and not len(bad):
        raise InputError(f"{src}: no transcripts (*{TRANSCRIPTS}) with audio beside them; "
                         "for another layout use `hubertkit corpus import folder`")
    return manifest_of(entries, bad, src)


def _entries(src: Path, folders: Sequence[Path], ids: set[str] | None, bad: BadFiles) -> Iterator[Entry]:
    """The utterances that have both a transcript and audio; reports the others."""
    found: set[str] = set()
    for folder, names in (step for top in folders for step in walk(top, bad.folder)):
        audio = {os.path.splitext(n)[0]: folder / n for n in names
                 if os.path.splitext(n)[1].lower() in AUDIO_SUFFIXES}
        files = [folder / n for n in names if n.endswith(TRANSCRIPTS)]
        texts = {name: (text, file) for file in sorted(files) for name, text in _read_transcripts(file)}
        chapter = f"{folder.parent.name}-{folder.name}-"
        heard = {name for name in audio if files or name.startswith(chapter)}
        for name in sorted(texts.keys() | heard):
            if ids is not None and name not in ids:
                continue
            found.add(name)
            if name not in audio:
                bad.add(name, texts[name][1], f"a transcript for {name}, but no audio beside it")
            elif name not in texts:
                bad.add(name, audio[name], "audio without a transcript")
            else:
                yield Entry(name, audio[name], name.split("-")[0], texts[name][0])
    _all_there(src, ids, found)


def _read_transcripts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each line `ID TEXT`."""
    for number, line in lines_of(path):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        if not text.strip():
            raise InputError(f"{path}, line {number}: no text after the id {name}; expected `ID WORDS`")
        yield name, " ".join(text.split())


def _all_there(src: Path, ids: Iterable[str] | None, found: set[str]) -> None:
    missing = sorted(set(ids or ()) - found, key=_natural)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{src}: the list asks for {missing[0]}{more}, which the corpus does not have")


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts numbers as numbers: 19-198-0002 before 121-121726-0000."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part)
