"""What the headers of audio files say, and what becomes of files that cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from pathlib import Path

import soundfile

from upstream.audio.containers import MP3_FORMATS, open_audio, open_bytes, reason
from upstream.audio.corpora.ogg import ogg_fault
from upstream.audio.corpora.unread import way_out
from upstream.audio.file_names import composed_name, stored_path
from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.mpeg import Content, mp3_samples
from upstream.errors import InputError
from upstream.progress import progress

# Formats that the bundled libsndfile decodes; found by suffix, because opening every file of a folder would be slow.
AUDIO_SUFFIXES = frozenset({".flac", ".wav", ".opus", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".w64",
                            ".caf", ".sph", ".nist"})
FILES_AT_ONCE = 1024
TOLERANCE_SECONDS = 0.02  # one frame: corpora round the times that they write, and may so go beyond the end

# libsndfile takes what is there of a file that was cut, and only its log says so: bytes that the header promises.
_PROMISED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_PROMISED_W64 = re.compile(r"^riff\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_PROMISED_RF64 = re.compile(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
_NO_LENGTH = re.compile(r"^Length : (\d+)$(?s:.)*^data : 0$", re.MULTILINE)
_SPHERE_SAMPLES = re.compile(rb"^sample_count -i (\d+)\s*$", re.MULTILINE)
_HEADER_BYTES = 1024  # that a WAV file without samples may have, and a SPHERE file has
# What programs that write into a pipe put there, since they do not know the size yet: 2 or 4 GiB, less some header.
_UNKNOWN_SIZES = (range(0x7FFF_E000, 0x8000_0001), range(0xFFFF_E000, 0x1_0000_0000))


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
    """A recording, or a part of one, as the corpus describes it, before its file was looked at.

    Attributes:
        start_seconds, end_seconds: the part; None is the end of the file.
        samples: how many the corpus says the file has, where it does: another number is a fault.
        offset, size: see `Utterance`.
    """

    id: str
    audio: Path
    speaker: str | None = None
    text: str | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    samples: int | None = None
    offset: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Header:
    """What is in a file: the samples that reading it gives, its rate in Hz and its channels."""

    frames: int
    samplerate: int
    channels: int


Skip = Callable[[Problem], None]
_MISSING = "there is no such file"
SKIP_BAD = "mend them, or leave them out (--skip-bad)"


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

    def folder(self, path: Path, what: str) -> None:
        """Note a folder that cannot be read, as `walk` tells it."""
        self.add(path.name, path, what)

    def __len__(self) -> int:
        return len(self._found)

    def refuse(self, advice: str = SKIP_BAD) -> None:
        """Raise InputError naming the first and how many more, unless they are to be skipped."""
        if self._found and self._skip is None:
            first, more = self._found[0], len(self._found) - 1
            others = f" ({more} more cannot be used)" if more else ""
            raise InputError(f"{first.path}: {first.what}{others}; {advice}")


def manifest_of(entries: Sequence[Entry], bad: BadFiles, source: Path, advice: str = SKIP_BAD) -> Manifest:
    """The manifest of what a corpus describes; files that cannot be used go to `bad`. Raises InputError if none can, or
    without `skip` with what to do, `advice`, if one cannot."""
    bad.refuse(advice)
    manifest = Manifest.of(utterances(entries, bad), str(source))
    bad.refuse(advice)
    if not len(manifest):
        raise InputError(f"{source}: none of {len(bad)} utterances can be used" if len(bad) else
                         f"{source}: no utterances")
    return manifest


def utterances(entries: Sequence[Entry], bad: BadFiles) -> Iterator[Utterance]:
    """An utterance of each recording whose header can be read; the others go to `bad`. Ids are in Unicode's NFC, and a
    file is found in whatever form its name has."""
    with progress("reading headers", len(entries)) as report:
        for done, (entry, info) in enumerate(zip(entries, probe(entries)), 1):
            if info == _MISSING and not str(entry.audio).isascii() and (stored := stored_path(entry.audio)):
                entry, info = replace(entry, audio=stored), _probe(stored, entry.offset, entry.size)
            span = info if isinstance(info, str) else _span(entry, info)
            if isinstance(info, str) or isinstance(span, str):
                bad.add(entry.id, entry.audio, str(span))
            else:
                yield Utterance(composed_name(entry.id), entry.audio, *span, info.samplerate, info.channels,
                                entry.speaker, entry.text, entry.offset, entry.size)
            report(done)


def probe(entries: Iterable[Entry]) -> Iterator[Header | str]:
    """For each entry in order what its file holds, or why it cannot be used. A file of many parts is opened once."""
    remaining = iter(entries)
    with ThreadPoolExecutor(max_workers=8) as pool:  # opening a file is waiting, mostly
        while chunk := list(islice(remaining, FILES_AT_ONCE)):
            places = [(entry.audio, entry.offset, entry.size) for entry in chunk]
            asked = {place: pool.submit(_probe, *place) for place in dict.fromkeys(places)}
            yield from (asked[place].result() for place in places)


def cut_short(file: soundfile.SoundFile) -> str | None:
    """That the header of an open file promises more than there is, in words; None where it does not, or cannot say.

    WAV, AIFF, AU, W64 and RF64. A cut FLAC or CAF file cannot be decoded; the headers of Ogg promise nothing,
    so of those only a manifest that was made before knows; of MP3 and SPHERE see `true_samples`.
    """
    log = file.extra_info
    for pattern in (_PROMISED, *([_PROMISED_W64] if file.format == "W64" else [])):
        for promised, there in (map(int, found) for found in pattern.findall(log)):
            if promised > there and not any(promised in sizes for sizes in _UNKNOWN_SIZES):
                return f"is cut short: its header promises {promised} bytes, {there} are there"
    for there, promised in (map(int, found) for found in _PROMISED_RF64.findall(log)):
        if promised > there:
            return f"is cut short: its header promises {promised} samples, {there} are there"
    return None


def true_samples(file: soundfile.SoundFile, content: Content, begin: int, end: int) -> int | str:
    """Samples that reading an open file gives, or in words why it cannot be used.

    Args:
        content: where its bytes are, [begin, end): what libsndfile says of an MP3 or an Ogg is compared with them.
    """
    fault = cut_short(file) or _of_format(file, content, begin, end)
    if fault is not None:
        return fault
    if file.format in MP3_FORMATS:
        return mp3_samples(content, begin, end, file.frames)
    length = _NO_LENGTH.search(file.extra_info)
    if file.frames == 0 and length is not None and int(length[1]) > _HEADER_BYTES:
        return (f"has no length in its header, and {length[1]} bytes: the program that wrote it was stopped; write it "
                "anew, e.g. ffmpeg -ignore_length 1 -i IN OUT.wav")
    return file.frames or "has no samples"


def _of_format(file: soundfile.SoundFile, content: Content, begin: int, end: int) -> str | None:
    """What only the bytes show: an Ogg that was joined, a SPHERE file whose header promises more than there is."""
    if file.format == "OGG":
        return ogg_fault(content, begin, end)
    found = _SPHERE_SAMPLES.search(content[begin:begin + _HEADER_BYTES]) if file.format == "NIST" else None
    if found is not None and int(found[1]) > file.frames:
        return f"is cut short: its header promises {int(found[1])} samples, {file.frames} are there"
    return None


def _probe(audio: Path, offset: int | None, size: int | None) -> Header | str:
    if "\0" in str(audio):  # libsndfile would read the name up to there
        return _MISSING
    try:
        if os.path.exists(audio) and not os.path.isfile(audio):  # a pipe: it would be waited for
            return "is no regular file"
        with open_audio(audio, offset, size) as file, open_bytes(audio, offset, size) as place:
            samples = true_samples(file, *place)
            return samples if isinstance(samples, str) else Header(samples, file.samplerate, file.channels)
    except (soundfile.SoundFileError, OSError, ValueError) as error:  # ValueError: a name that no file can have
        if not os.path.isfile(audio):
            return _MISSING
        whole = size if offset is not None else audio.stat().st_size
        return "an empty file" if whole == 0 else f"cannot be read as audio ({reason(error, audio)}){way_out(audio)}"


def _span(entry: Entry, info: Header) -> tuple[int, int] | str:
    """Start and samples of a part of a file, or why it cannot be."""
    rate, frames = info.samplerate, info.frames
    if not all(map(isfinite, (entry.start_seconds, entry.end_seconds or 0.0))):
        until = "the end" if entry.end_seconds is None else f"{entry.end_seconds:g} s"
        return f"from {entry.start_seconds:g} s to {until} is no part of a recording"
    if entry.samples is not None and entry.samples != frames:
        return f"{frames} samples, the corpus says {entry.samples}"
    if entry.start_seconds == 0 and entry.end_seconds is None:
        return 0, frames
    start = round(entry.start_seconds * rate)
    end = frames if entry.end_seconds is None else round(entry.end_seconds * rate)
    if start < 0 or end <= start:
        return f"from {entry.start_seconds:g} s to {end / rate:g} s is no part of a recording"
    if end > frames + TOLERANCE_SECONDS * rate:
        return f"ends after {frames / rate:.3f} s, before the {end / rate:.3f} s that the corpus says"
    end = min(end, frames)
    return (start, end - start) if end > start else f"has no samples after {entry.start_seconds:g} s"
