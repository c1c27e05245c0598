"""Phone alignments: reading TextGrid and CTM files, and the phone at the centre of each frame.

    TextGrid    Praat's long text format; the tier `phones` is read
    CTM         a line `ID CHANNEL START DURATION PHONE` for each phone, one file for each utterance
"""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from upstream.audio.corpora.walking import walk
from upstream.audio.file_names import fitting
from upstream.errors import FormatError, InputError
from upstream.frames import CONV_GRID, FrameGrid, seconds

SILENCE = "SIL"
SILENCES = ("", "sil", "sp")  # what aligners write for silence; `spn`, spoken noise, is a phone of its own
TIER = "phones"
_SUFFIXES = (".textgrid", ".ctm")
_SLACK_SECONDS = 0.1  # by which an alignment may reach beyond its recording
_UNSAID_SECONDS = 5.0  # of silence at the end that a CTM may leave out

_ITEM = re.compile(r"^[ \t]*item \[\d+\]:", re.MULTILINE)
_NAME = re.compile(r'name = "((?:[^"]|"")*)"')
_SIZE = re.compile(r"intervals: size = (\d+)")
_INTERVAL = re.compile(r'intervals \[\d+\]:?\s*xmin = (\S+)\s*xmax = (\S+)\s*text = "((?:[^"]|"")*)"')


class Interval(NamedTuple):
    """A phone (or a silence) in a recording; seconds."""

    start: float
    end: float
    label: str


class Alignments(dict[str, Path]):
    """{utterance id: file}. A long id is not to be had from its file's name, only the name from the id: so a key may be
    what `file_stem` cut, and is found by the whole id."""

    def __missing__(self, utterance: str) -> Path:
        short = _id(file_stem(utterance))
        if short == utterance or not super().__contains__(short):
            raise KeyError(utterance)
        return super().__getitem__(short)

    def __contains__(self, utterance: object) -> bool:
        return super().__contains__(utterance) or (isinstance(utterance, str)
                                                   and super().__contains__(_id(file_stem(utterance))))

    def get(self, utterance: str, default: Any = None) -> Any:
        """As of a dictionary."""
        return super().get(utterance, super().get(_id(file_stem(utterance)), default))


def find_alignments(folder: Path) -> Alignments:
    """{utterance id: file} of the TextGrid and CTM files below a folder; a file has its utterance's `file_stem`.

    Raises InputError where there is none, or two for the same utterance, or a folder that cannot be read.
    """
    found = Alignments()
    for place, names in walk(folder, _refuse):
        for path in (place / name for name in names):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            id = _id(path.stem)
            if id in found:
                raise InputError(f"{id}: two alignments, {found[id]} and {path}; remove one of them")
            found[id] = path
    if not found:
        raise InputError(f"{folder}: no alignments here; expected files ID.TextGrid or ID.ctm, in subfolders or not")
    return found


def file_stem(utterance: str) -> str:
    """The name of an utterance's file without its suffix: the id, with `/` as `%2F` and so `%` as `%25`, cut where it
    is too long for a file system."""
    return fitting(utterance.replace("%", "%25").replace("/", "%2F"))


def _id(stem: str) -> str:
    return stem.replace("%2F", "/").replace("%25", "%")


def _refuse(folder: Path, what: str) -> None:
    if folder.exists():
        raise InputError(f"{folder}: {what}; make it readable, or move it away")


def read_alignment(path: Path) -> list[Interval]:
    """The phones of a recording in order of time, labels as the file has them.

    Raises FormatError naming the file and what is wrong: not a TextGrid of the long format, no tier `phones`, a CTM of
    several utterances, times that are no numbers, run backwards or overlap.
    """
    path = Path(path)
    text = _text(path)
    intervals = _read_ctm(path, text) if path.suffix.lower() == ".ctm" else _read_textgrid(path, text)
    for before, after in zip([None, *intervals], intervals):
        if not (math.isfinite(after.end) and 0 <= after.start <= after.end):
            raise FormatError(f"{path}: {after.label!r} from {after.start} s to {after.end} s; times must not run back")
        if before is not None and after.start < before.end - 1e-3:
            raise FormatError(f"{path}: {after.label!r} starts at {after.start} s, before {before.label!r} ends")
    return intervals


def frame_phones(path: Path, length: int, grid: FrameGrid = CONV_GRID, whole: bool = False) -> np.ndarray:
    """The phone at the centre of each frame of a recording.

    Args:
        path: alignment file.
        length: samples of the recording at 16 kHz.
        whole: refuse an alignment that ends too early, as `phones_at_frames`.

    Returns:
        (T,) strings, T = grid.frames(length): phones without stress digits; silence, gaps between intervals and what
        lies after the last one are `SIL`.

    Raises:
        InputError: the alignment goes on after the recording ends or, with `whole`, does not cover it.
    """
    return phones_at_frames(path, grid.frames(length), grid, seconds(length), whole)


def phones_at_frames(path: Path, frames: int, grid: FrameGrid = CONV_GRID, duration: float | None = None,
                     whole: bool = False) -> np.ndarray:
    """As `frame_phones`, for a number of frames; `duration` in seconds if it is known, else what the frames say.

    With `whole`, a TextGrid, whose intervals leave nothing out, must reach the end of the recording as well; a CTM may
    leave out silence, five seconds of it at the end.
    """
    intervals = read_alignment(path)
    duration = seconds(grid.samples(frames + 1)) if duration is None else duration
    if intervals and intervals[-1].end > duration + _SLACK_SECONDS:
        raise InputError(f"{path}: the alignment ends at {intervals[-1].end:.2f} s, the recording at {duration:.2f} s; "
                         "it is of another recording")
    reached = intervals[-1].end if intervals else 0.0
    is_ctm = path.suffix.lower() == ".ctm"
    if whole and reached < duration - (_UNSAID_SECONDS if is_ctm else _SLACK_SECONDS):
        silence = ", or give the silence at its end a line of its own" if is_ctm else ""
        raise InputError(f"{path}: the alignment ends at {reached:.2f} s, the recording goes on to {duration:.2f} s; "
                         f"it does not cover it: align the recording again, or remove the file{silence}")
    starts = np.array([i.start for i in intervals])
    ends = np.array([i.end for i in intervals])
    names = np.array([*(phone_class(i.label) for i in intervals), SILENCE])
    centres = grid.centre_seconds(0) + np.arange(frames) / grid.rate
    inside = np.searchsorted(starts, centres, side="right") - 1  # the last interval that has begun; -1 is none
    if intervals:
        inside[centres >= ends[inside]] = -1
    return names[inside]


def phone_class(label: str) -> str:
    """A label without its stress digit; one class for all kinds of silence."""
    label = label.strip()
    return SILENCE if label.lower() in SILENCES else label.rstrip("0123456789") or label


def _text(path: Path) -> str:
    """Contents of a file in UTF-8 or, as Praat may write it, in UTF-16."""
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as text ({error})") from error


def _read_textgrid(path: Path, text: str) -> list[Interval]:
    if "ooTextFile" not in text[:200]:
        raise FormatError(f"{path}: not a TextGrid")
    tiers = {}
    for part in _ITEM.split(text)[1:]:
        name = _NAME.search(part)
        if name is not None:
            tiers[name[1]] = part
    if not tiers:
        raise FormatError(f"{path}: no tiers in Praat's long text format; save it as a (long) text file")
    name_of_tier = next((n for n in tiers if n.lower() == TIER or n.lower().endswith(f" - {TIER}")), None)
    if name_of_tier is None:
        raise FormatError(f"{path}: no tier {TIER!r} among {', '.join(tiers)}")
    part = tiers[name_of_tier]
    found = _INTERVAL.findall(part)
    size = _SIZE.search(part)
    if size is None or len(found) != int(size[1]):
        raise FormatError(f"{path}: tier {name_of_tier!r} holds {len(found)} intervals and announces "
                          f"{size[1] if size else 'none'}; the file is cut short or not a tier of intervals")
    return [Interval(_number(path, start), _number(path, end), label.replace('""', '"')) for start, end, label in found]


def _read_ctm(path: Path, text: str) -> list[Interval]:
    intervals, names = [], set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = line.split()
        if len(fields) not in (5, 6):  # a sixth is the confidence
            raise FormatError(f"{path}: line {number} has {len(fields)} fields; expected "
                              "ID CHANNEL START DURATION PHONE")
        start = _number(path, fields[2])
        intervals.append(Interval(start, start + _number(path, fields[3]), fields[4]))
        names.add(fields[0])
    if len(names) > 1:
        raise FormatError(f"{path}: phones of {len(names)} utterances ({', '.join(sorted(names)[:2])}, ...); "
                          "split it into a file for each, named ID.ctm")
    return sorted(intervals)


def _number(path: Path, word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise FormatError(f"{path}: {word!r} is no time in seconds") from error
