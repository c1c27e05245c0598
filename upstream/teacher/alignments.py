"""Phone alignments: reading TextGrid and CTM files, and the phone at the centre of each frame.

    TextGrid    Praat's long text format; the tier `phones` is read, else `phone` (P2FA), else `MAU` (MAUS)
    CTM         a line `ID CHANNEL START DURATION PHONE` for each phone; a file for each utterance, or for many
"""

from __future__ import annotations

import codecs
import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from upstream.audio.corpora.walking import walk
from upstream.audio.file_names import composed_name, fitting
from upstream.disk import content_hash
from upstream.errors import FormatError, InputError
from upstream.frames import CONV_GRID, FrameGrid, seconds
from upstream.progress import say
from upstream.teacher.ctm import COMMENT, CtmPart, ctm_parts, holds_words

SILENCE = "SIL"
# What aligners and corpora write for silence: HTK, MFA and Kaldi; Julius; Festvox; TIMIT; MAUS; MBROLA. `spn`, spoken
# noise, is a phone of its own.
SILENCES = ("", "sil", "sp", "<sil>", "[sil]", "silence", "<eps>", "silb", "sile", "pau", "pause", "ssil", "h#", "epi",
            "<p:>", "_", "#")
TIERS = ("phones", "phone", "MAU")
_SUFFIXES = (".textgrid", ".ctm")
_SLACK_SECONDS = 0.1  # by which an alignment may reach beyond its recording
_UNSAID_SECONDS = 5.0  # of silence at the end that a CTM may leave out
_MOST_PHONES = 200  # classes
_PHONE_LETTERS = 3  # that most names of phones have, at most
_FEW = 5  # utterances, whose ends may well be alike

# Vowels of ARPAbet with a stress digit; a digit behind another name is a part of it, such as a tone.
_STRESSED = re.compile(r"(A[AEHOWXY]|AXR|E[HRY]|I[HXY]|O[WY]|U[HWX])[012]")
_TONE = re.compile("(?<=.)[0-9\u02e5-\u02e9]+$")  # digits of pinyin and jyutping, IPA's letters for tones
_PLACE = re.compile(r"(?<=.)_[BIES]$")  # of a phone in its word: begin, inside, end, or alone
_DICTIONARY = "; align with a dictionary to have phones (hubertkit align ... --dictionary FILE)"
_ITEM = re.compile(r"^[ \t]*item \[\d+\]:", re.MULTILINE)
_NAME = re.compile(r'name = "((?:[^"]|"")*)"')
_SIZE = re.compile(r"intervals: size = (\d+)")
_INTERVAL = re.compile(r'intervals \[\d+\]:?\s*xmin = (\S+)\s*xmax = (\S+)\s*text = "((?:[^"]|"")*)"')


class Interval(NamedTuple):
    """A phone (or a silence) in a recording; seconds."""

    start: float
    end: float
    label: str


AlignmentFile: TypeAlias = Path | CtmPart


class Alignments(dict[str, AlignmentFile]):
    """{utterance id: file}, ids in Unicode's NFC. A long id is not to be had from its file's name, only the name from
    the id: so a key may be what `file_stem` cut, and is found by the whole id."""

    def __missing__(self, utterance: str) -> AlignmentFile:
        key = self._key(utterance)
        if key == utterance or not super().__contains__(key):
            raise KeyError(utterance)
        return super().__getitem__(key)

    def __contains__(self, utterance: object) -> bool:
        return super().__contains__(utterance) or (isinstance(utterance, str)
                                                   and super().__contains__(self._key(utterance)))

    def get(self, utterance: str, default: Any = None) -> Any:
        """As of a dictionary."""
        return super().get(utterance, super().get(self._key(utterance), default))

    def _key(self, utterance: str) -> str:
        """The key of an id that is none itself."""
        whole = composed_name(utterance)
        return whole if super().__contains__(whole) else _id(file_stem(whole))


def find_alignments(place: Path) -> Alignments:
    """{utterance id: file} of the TextGrid and CTM files below a folder, or of one such file.

    A file has its utterance's `file_stem`. Of a CTM of several utterances each has a `CtmPart`, named by the first
    column; so has that of a single one where it is no folder that is given.

    Raises:
        InputError: there is none, or two for the same utterance, or a folder or a CTM that cannot be read.
    """
    place = Path(place)
    found = Alignments()
    for path in [place] if place.is_file() else _files(place):
        for id, part in _utterances(path, named=not place.is_file()):
            id = composed_name(id)
            if id in found:
                raise InputError(f"{id}: two alignments, {found[id]} and {part}; remove one of them")
            found[id] = part
    if not found:
        raise InputError(f"{place}: no alignments here; expected files ID.TextGrid or ID.ctm, in subfolders or not, or "
                         "a .ctm of many utterances")
    return found


def alignments_hash(found: Mapping[str, AlignmentFile]) -> str:
    """Hash of what the alignments of these utterances say, wherever they lie."""
    return content_hash({id: hashlib.sha256(path.read_bytes()).hexdigest() for id, path in found.items()})


def _files(folder: Path) -> Iterator[Path]:
    return (inside / name for inside, names in walk(folder, _refuse) for name in names)


def _utterances(path: Path, named: bool) -> Iterator[tuple[str, AlignmentFile]]:
    """(id, file or part of it) of each utterance of a file; `named` for it, if it is of one."""
    suffix = path.suffix.lower()
    parts = ctm_parts(path) if suffix == ".ctm" else []
    if len(parts) > 1 or (parts and not named):
        yield from ((part.utterance, part) for part in parts)
    elif suffix in _SUFFIXES:
        yield _id(path.stem), path


def file_stem(utterance: str) -> str:
    """The name of an utterance's file without its suffix: the id, with `/` as `%2F` and so `%` as `%25`, cut where it
    is too long for a file system."""
    return fitting(utterance.replace("%", "%25").replace("/", "%2F"))


def _id(stem: str) -> str:
    return stem.replace("%2F", "/").replace("%25", "%")


def _refuse(folder: Path, what: str) -> None:
    if folder.exists():
        raise InputError(f"{folder}: {what}; make it readable, or move it away")


def read_alignment(path: AlignmentFile) -> list[Interval]:
    """The phones of a recording in order of time, labels as the file has them.

    Raises FormatError naming the file and what is wrong: not a TextGrid of the long format, no tier of phones, a CTM of
    words or of several utterances, times that are no numbers, run backwards or overlap.
    """
    where, text = str(path), _text(path)
    intervals = _read_ctm(where, text) if path.suffix.lower() == ".ctm" else _read_textgrid(where, text)
    for before, after in zip([None, *intervals], intervals):
        if not (math.isfinite(after.end) and 0 <= after.start <= after.end):
            raise FormatError(f"{where}: {after.label!r} from {after.start} s to {after.end} s; times must not run "
                              "back")
        if before is not None and after.start < before.end - 1e-3:
            raise FormatError(f"{where}: {after.label!r} starts at {after.start} s, before {before.label!r} ends")
    return intervals


def warn_of_words(labels: Iterable[str]) -> None:
    """Say so where labels that are to be phones look like words: too many different ones, or most of them too long."""
    names = sorted({_TONE.sub("", phone_class(label)) for label in labels} - {SILENCE})
    long = [name for name in names if _letters(name) > _PHONE_LETTERS]
    if len(names) > _MOST_PHONES or 2 * len(long) > len(names):
        say(f"warning: the alignments have {len(names)} different labels, such as {', '.join((long or names)[:3])}; "
            "they look like words, and phones are meant (hubertkit align writes them with --dictionary)")


def _letters(name: str) -> int:
    """Letters of a label, without what changes them: length, aspiration, accents."""
    return sum(unicodedata.category(c) not in ("Lm", "Mn", "Mc", "Sk") for c in name)


def warn_of_pauses(phones: Iterable[np.ndarray]) -> None:
    """Say so where phones (T,) of utterances hold no silence, but one label at most of their beginnings and ends: it is
    a pause by another name, and would be judged as a phone."""
    ends: Counter[str] = Counter()
    count = 0
    for row in phones:
        if (row == SILENCE).any():
            return
        if len(row):
            ends.update((str(row[0]), str(row[-1])))
            count += 1
    label, times = ends.most_common(1)[0] if ends else ("", 0)
    if count >= _FEW and times > count:
        say(f"warning: the alignments hold no silence, and {label!r} begins and ends most utterances; if it is a "
            f"pause, write it as sil, or as any of {', '.join(SILENCES[2:])}")


def frame_phones(path: AlignmentFile, length: int, grid: FrameGrid = CONV_GRID, whole: bool = False) -> np.ndarray:
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


def phones_at_frames(path: AlignmentFile, frames: int, grid: FrameGrid = CONV_GRID, duration: float | None = None,
                     whole: bool = False) -> np.ndarray:
    """As `frame_phones`, for a number of frames; `duration` in seconds if it is known, else what the frames say.

    With `whole`, a TextGrid, whose intervals leave nothing out, must reach the end of the recording as well; a CTM may
    leave out silence, five seconds of it at the end.
    """
    intervals = read_alignment(path)
    duration = seconds(grid.samples(frames + 1)) if duration is None else duration
    if intervals and intervals[-1].end > duration + _SLACK_SECONDS:
        raise InputError(f"{path}: the alignment ends at {intervals[-1].end:.2f} s, the recording at "
                         f"{duration:.2f} s; it is of another recording")
    reached = intervals[-1].end if intervals else 0.0
    is_ctm = path.suffix.lower() == ".ctm"
    if whole and reached < duration - (_UNSAID_SECONDS if is_ctm else _SLACK_SECONDS):
        silence = ", or give the silence at its end a line of its own" if is_ctm else ""
        raise InputError(f"{path}: the alignment ends at {reached:.2f} s, the recording goes on to "
                         f"{duration:.2f} s; it does not cover it: align the recording again, or remove the "
                         f"{'lines' if isinstance(path, CtmPart) else 'file'}{silence}")
    starts = np.array([i.start for i in intervals])
    ends = np.array([i.end for i in intervals])
    names = np.array([*(phone_class(i.label) for i in intervals), SILENCE])
    centres = grid.centre_seconds(0) + np.arange(frames) / grid.rate
    inside = np.searchsorted(starts, centres, side="right") - 1  # the last interval that has begun; -1 is none
    if intervals:
        inside[centres >= ends[inside]] = -1
    return names[inside]


def phone_class(label: str) -> str:
    """A label without its stress digit and Kaldi's place in the word (`AH1_B`); one class for all kinds of silence."""
    label = _PLACE.sub("", label.strip())
    return SILENCE if label.lower() in SILENCES else without_stress(label)


def without_stress(phone: str) -> str:
    """A phone without its stress digit, if it is a vowel of ARPAbet and has one."""
    return phone[:-1] if _STRESSED.fullmatch(phone) else phone


def _text(path: AlignmentFile) -> str:
    """Contents of a file in UTF-8 or, as Praat may write it, in UTF-16."""
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as text ({error})") from error


def _read_textgrid(where: str, text: str) -> list[Interval]:
    if "ooTextFile" not in text[:200]:
        raise FormatError(f"{where}: not a TextGrid")
    named = [(name[1], part) for part in _ITEM.split(text)[1:] if (name := _NAME.search(part)) is not None]
    if not named:
        raise FormatError(f"{where}: no tiers in Praat's long text format; save it as a (long) text file")
    of_phones = next(filter(None, (_called(named, tier) for tier in TIERS)), [])
    if not of_phones:
        raise FormatError(f"{where}: no tier {' or '.join(map(repr, TIERS))} among {', '.join(n for n, _ in named)}"
                          f"{_DICTIONARY}")
    if len(of_phones) > 1:
        raise FormatError(f"{where}: {len(of_phones)} tiers of phones ({', '.join(n for n, _ in of_phones[:3])}), as "
                          "of several speakers; cut the recording so that each part has one speaker")
    name_of_tier, part = of_phones[0]
    found = _INTERVAL.findall(part)
    size = _SIZE.search(part)
    if size is None or len(found) != int(size[1]):
        raise FormatError(f"{where}: tier {name_of_tier!r} holds {len(found)} intervals and announces "
                          f"{size[1] if size else 'none'}; the file is cut short or not a tier of intervals")
    return [Interval(_number(where, start), _number(where, end), label.replace('""', '"'))
            for start, end, label in found]


def _called(tiers: list[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    """The tiers of that name, also of `SPEAKER - NAME`, in upper case or lower."""
    return [tier for tier in tiers if tier[0].split(" - ")[-1].lower() == name.lower()]


def _read_ctm(where: str, text: str) -> list[Interval]:
    if holds_words(text):
        raise FormatError(f"{where}: words, not phones{_DICTIONARY}")
    intervals, names = [], set()
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        if not line.strip() or line.startswith(COMMENT):
            continue
        fields = line.split()
        if len(fields) not in (5, 6):  # a sixth is the confidence
            raise FormatError(f"{where}: line {number} has {len(fields)} fields; expected "
                              "ID CHANNEL START DURATION PHONE")
        start = _number(where, fields[2])
        intervals.append(Interval(start, start + _number(where, fields[3]), fields[4]))
        names.add(fields[0])
    if len(names) > 1:
        raise FormatError(f"{where}: phones of {len(names)} utterances ({', '.join(sorted(names)[:2])}, ...); "
                          "`find_alignments` tells them apart")
    return sorted(intervals)


def _number(where: str, word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise FormatError(f"{where}: {word!r} is no time in seconds") from error
