"""What each format writes, by hand; and that cues fit on a screen."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from downstream.captions import (
    CUE_CHARACTERS,
    CUE_PAUSE_SECONDS,
    CUE_SECONDS,
    SpokenWord,
    Transcript,
    as_ctm,
    as_json,
    as_srt,
    as_txt,
    as_vtt,
    cues,
)

SAID = Transcript("my talk.wav", (SpokenWord("R&D", 0.5, 0.98, 0.5), SpokenWord("PAYS", 3661.25, 3661.5, 1.0)), 3700.0)
NONE = Transcript("a.wav", (), 1.0)


def test_each_format_by_hand():
    assert as_txt(SAID) == "R&D PAYS\n"
    assert as_srt(SAID) == ("1\n00:00:00,500 --> 00:00:00,980\nR&D\n\n"
                            "2\n01:01:01,250 --> 01:01:01,500\nPAYS\n\n")
    assert as_vtt(SAID).startswith("WEBVTT\n\n00:00:00.500 --> 00:00:00.980\nR&amp;D\n\n01:01:01.250")
    assert as_ctm(SAID) == "my_talk.wav 1 0.500 0.480 R&D 0.5000\nmy_talk.wav 1 3661.250 0.250 PAYS 1.0000\n"
    record = json.loads(as_json(SAID))
    assert record["text"] == "R&D PAYS"
    assert record["words"][0] == {"word": "R&D", "start_s": 0.5, "end_s": 0.98, "confidence": 0.5}


def test_milliseconds_are_rounded():
    """4.02 s, the end of a frame, are 4019.9999999999995 ms to a computer."""
    assert as_srt(Transcript("a.wav", (SpokenWord("A", 1.0, 4.02, 1.0),), 5.0)).startswith(
        "1\n00:00:01,000 --> 00:00:04,020\n")


def test_silence_is_an_empty_file_of_each_format():
    assert [as_txt(NONE), as_srt(NONE), as_vtt(NONE), as_ctm(NONE)] == ["\n", "", "WEBVTT\n\n", ""]


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 3), st.floats(0.02, 1)), max_size=60))
def test_cues_hold_every_word_once_and_fit(found):
    words, now = [], 0.0
    for letters, pause, length in found:
        words.append(SpokenWord("A" * letters, now + pause, now + pause + length, 1.0))
        now += pause + length
    groups = list(cues(words))
    assert [word for cue in groups for word in cue] == words
    for cue in groups:
        assert len(" ".join(w.word for w in cue)) <= CUE_CHARACTERS
        assert cue[-1].end_s - cue[0].start_s <= CUE_SECONDS
        assert all(b.start_s - a.end_s <= CUE_PAUSE_SECONDS for a, b in pairwise(cue))
