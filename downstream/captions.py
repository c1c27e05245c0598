"""What was said, as text, subtitles (SubRip, WebVTT), JSON or NIST's CTM."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from downstream.text.clusters import belongs

CUE_CHARACTERS = 84  # two lines of 42, the usual limit of subtitles
CUE_SECONDS = 6.0
CUE_PAUSE_SECONDS = 1.0  # a longer pause ends a cue


class SpokenWord(NamedTuple):
    """A word, its time in the recording in seconds, how sure the recogniser is of it, in [0, 1], and whether a space
    parts it from the word before."""

    word: str
    start_s: float
    end_s: float
    confidence: float
    spaced: bool = True


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        name: of the file.
        words: in order.
        seconds: length of the recording.
        id: by which scores know it.
    """

    name: str
    words: tuple[SpokenWord, ...]
    seconds: float
    id: str

    @property
    def text(self) -> str:
        """The words, joined by single spaces where they are `spaced`."""
        return _text(self.words)


def as_txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, times as hh:mm:ss,mmm."""
    return "".join(f"{number}\n{_clock(cue[0].start_s, ',')} --> {_clock(cue[-1].end_s, ',')}\n{_text(cue)}\n\n"
                   for number, cue in enumerate(cues(transcript.words), 1))


def as_vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): times as hh:mm:ss.mmm; `&`, `<` and `>` written as entities."""
    found = ["WEBVTT\n\n"]
    for cue in cues(transcript.words):
        text = _text(cue).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        found.append(f"{_clock(cue[0].start_s, '.')} --> {_clock(cue[-1].end_s, '.')}\n{text}\n\n")
    return "".join(found)


def as_json(transcript: Transcript) -> str:
    """One JSON object on one line, as `hubertkit score` reads it: `id`, `file`, `text`, `seconds`, and `words` as
    objects; times in whole milliseconds."""
    words = [{"word": w.word, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3),
              "confidence": round(w.confidence, 4)} for w in transcript.words]
    record = {"id": transcript.id, "file": transcript.name, "text": transcript.text,
              "seconds": round(transcript.seconds, 3), "words": words}
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def as_ctm(transcript: Transcript) -> str:
    """NIST's CTM (sclite): name, channel 1, start, duration, word, confidence; spaces in the name become `_`."""
    name = "_".join(transcript.name.split())
    return "".join(f"{name} 1 {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.word} {w.confidence:.4f}\n"
                   for w in transcript.words)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_txt, "srt": as_srt, "vtt": as_vtt, "json": as_json, "ctm": as_ctm}


def cues(words: Sequence[SpokenWord]) -> Iterator[list[SpokenWord]]:
    """Words in groups that fit on a screen: at most 84 characters, 6 s, no pause of more than a second in them.

    A word of too many characters is cut into pieces, each of which ends a cue but the last. So is one of more than 6 s
    in a script without upper and lower case, where it may be a phrase without spaces; elsewhere it stays whole.
    """
    cue: list[SpokenWord] = []
    for whole in words:
        *pieces, word = _pieces(whole)
        if cue and (pieces or len(_text([*cue, word])) > CUE_CHARACTERS or word.end_s - cue[0].start_s > CUE_SECONDS
                    or word.start_s - cue[-1].end_s > CUE_PAUSE_SECONDS):
            yield cue
            cue = []
        yield from ([piece] for piece in pieces)
        cue.append(word)
    if cue:
        yield cue


def _pieces(word: SpokenWord) -> list[SpokenWord]:
    """A word cut where it is over a limit: into pieces of about equal lengths, their times in proportion to them, and
    never within what is read as one character (a letter with its vowel sign or accent, a conjunct, a syllable)."""
    text, seconds = word.word, word.end_s - word.start_s
    spaced = text.isascii() or any(c.lower() != c.upper() for c in text)  # scripts that have cases have spaces
    if len(text) <= CUE_CHARACTERS and (seconds <= CUE_SECONDS or spaced):  # a slow word is one all the same
        return [word]
    most = max(1, min(CUE_CHARACTERS, int(len(text) * CUE_SECONDS / max(seconds, CUE_SECONDS))))
    size = math.ceil(len(text) / math.ceil(len(text) / most))
    ends = [*(i for i in range(1, len(text)) if not belongs(text[i - 1], text[i])), len(text)]
    cuts = [0]
    while cuts[-1] < len(text):
        cuts.append(max((end for end in ends if cuts[-1] < end <= cuts[-1] + size),
                        default=next(end for end in ends if end > cuts[-1])))
    times = [word.start_s + seconds * cut / len(text) for cut in cuts]
    return [SpokenWord(text[a:b], *span, word.confidence, word.spaced)
            for a, b, span in zip(cuts, cuts[1:], pairwise(times))]


def _text(cue: Sequence[SpokenWord]) -> str:
    return "".join(f"{' ' * (word.spaced and place > 0)}{word.word}" for place, word in enumerate(cue))


def _clock(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{milliseconds:03d}"
