"""What the headers of audio files say, and what becomes of files that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import soundfile

from upstream.audio.manifest import Utterance
from upstream.errors import InputError
from upstream.progress import progress

# Formats that the bundled libsndfile decodes; found by suffix, because opening every file of a folder would be slow.
AUDIO_SUFFIXES = frozenset({".flac", ".wav", ".opus", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"})
FILES_AT_ONCE = 1024


@dataclass(frozen=True)
class Problem:
    """What is wrong with an utterance or a file.

    Attributes:
        id: of the utterance; the file's stem where it has none yet.
        path: of the file.
        what: in words.
        usable: the utterance can be used as it is; the remark is only worth knowing.
    """

    id: str
    path: Path
    what: str
    usable: bool = False


@dataclass(frozen=True)
class Entry:
    """A recording as the corpus describes it, before its file was looked at."""

    id: str
    audio: Path
    speaker: str | None
    text: str | None


Skip = Callable[[Problem], None]


class BadFiles:
    """Collects the files of an import that cannot be used: passes each to `skip`, or refuses them all at the end."""

    def __init__(self, skip: Skip | None) -> None:
        self._skip = skip
        self._found: list[Problem] = []

    def add(self, name: str, path: Path, what: str) -> None:
        """Note a bad file."""
        problem = Problem(name, path, what)
        if self._skip is not None:
            self._skip(problem)
        self._found.append(problem)

    def __len__(self) -> int:
        return len(self._found)

    def refuse(self) -> None:
        """Raise InputError naming the first and how many more, unless they are to be skipped."""
        if self._found and self._skip is None:
            first, more = self._found[0], len(self._found) - 1
            others = f" ({more} more cannot be used)" if more else ""
            raise InputError(f"{first.path}: {first.what}{others}; mend them, or leave them out with --skip-bad")


def utterances(entries: Sequence[Entry], bad: BadFiles) -> Iterator[Utterance]:
    """An utterance of each recording whose header can be read; the others go to `bad`."""
    with progress("reading headers", len(entries)) as report:
        for done, (entry, info) in enumerate(zip(entries, probe(e.audio for e in entries)), 1):
            if isinstance(info, str):
                bad.add(entry.id, entry.audio, info)
            else:
                yield Utterance(entry.id, entry.audio, 0, info.frames, info.samplerate, info.channels, entry.speaker,
                                entry.text)
            report(done)


def probe(files: Iterable[Path]) -> Iterator[soundfile._SoundFileInfo | str]:
    """For each file in order what its header says (frames, samplerate, channels), or why it cannot be used."""
    remaining = iter(files)
    with ThreadPoolExecutor(max_workers=8) as pool:  # opening a file is waiting, mostly
        while chunk := list(islice(remaining, FILES_AT_ONCE)):
            yield from pool.map(_probe, chunk)


def _probe(path: Path) -> soundfile._SoundFileInfo | str:
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        if not path.is_file():
            return "there is no such file"
        return "an empty file" if path.stat().st_size == 0 else f"cannot be read as audio ({_reason(error)})"
    return info if info.frames > 0 else "has no samples"


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
