"""What each format writes, by hand; and that cues fit on a screen."""

import json
import unicodedata
from itertools import pairwise

import pytest
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

SAID = Transcript("my talk.wav", (SpokenWord("R&D", 0.5, 0.98, 0.5), SpokenWord("PAYS", 3661.25, 3661.5, 1.0)), 3700.0,
                  "my_talk")
NONE = Transcript("a.wav", (), 1.0, "a")


def test_each_format_by_hand():
    assert as_txt(SAID) == "R&D PAYS\n"
    assert as_srt(SAID) == ("1\n00:00:00,500 --> 00:00:00,980\nR&D\n\n"
                            "2\n01:01:01,250 --> 01:01:01,500\nPAYS\n\n")
    assert as_vtt(SAID).startswith("WEBVTT\n\n00:00:00.500 --> 00:00:00.980\nR&amp;D\n\n01:01:01.250")
    assert as_ctm(SAID) == "my_talk.wav 1 0.500 0.480 R&D 0.5000\nmy_talk.wav 1 3661.250 0.250 PAYS 1.0000\n"
    record = json.loads(as_json(SAID))
    assert (record["id"], record["file"], record["text"]) == ("my_talk", "my talk.wav", "R&D PAYS")
    assert record["words"][0] == {"word": "R&D", "start_s": 0.5, "end_s": 0.98, "confidence": 0.5}


def test_milliseconds_are_rounded():
    """4.02 s, the end of a frame, are 4019.9999999999995 ms to a computer."""
    assert as_srt(Transcript("a.wav", (SpokenWord("A", 1.0, 4.02, 1.0),), 5.0, "a")).startswith(
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


@pytest.mark.parametrize(("sign", "marks", "signs", "seconds"), [
    ("\u5b57", "", 168, 40.0), ("\u5b57", "", 300, 5.0), ("\u5b57", "", 3, 10.0), ("\u0e01", "\u0e35\u0e48", 30, 14.0)])
def test_a_phrase_without_spaces_is_cut_into_cues_that_fit(sign, marks, signs, seconds):
    """Forty seconds of Mandarin were one word, so one cue of 168 signs; Thai has marks that go with their letter."""
    words = [SpokenWord("A", 0.0, 0.5, 1.0), SpokenWord((sign + marks) * signs, 0.6, 0.6 + seconds, 0.5),
             SpokenWord("B", 0.7 + seconds, 0.8 + seconds, 1.0)]
    found = list(cues(words))
    assert "".join(word.word for cue in found for word in cue) == "A" + words[1].word + "B"
    assert [(w.word, w.start_s) for w in found[0]] == [("A", 0.0)]
    assert all(word.word.startswith((sign, "A", "B")) for cue in found for word in cue)
    for cue in found:
        assert len(" ".join(w.word for w in cue)) <= CUE_CHARACTERS
        assert cue[-1].end_s - cue[0].start_s <= CUE_SECONDS + 1e-9
    assert len(found) <= 2 + max(len(words[1].word) / CUE_CHARACTERS, seconds / CUE_SECONDS) * 1.5


def test_a_long_word_is_cut_in_proportion_to_its_time():
    """By hand: 8 s of 4 signs are at least two cues, of 2 signs each."""
    found = list(cues([SpokenWord("\u4e00\u4e8c\u4e09\u56db", 1.0, 9.0, 0.5)]))
    assert found == [[SpokenWord("\u4e00\u4e8c", 1.0, 5.0, 0.5)], [SpokenWord("\u4e09\u56db", 5.0, 9.0, 0.5)]]


@pytest.mark.parametrize("word", ["OH", "déjà", "привет", "it’s", "1984"])
def test_a_slow_word_stays_whole(word):
    """Found in review: OH, said over six seconds, was cut to O and H."""
    slow = SpokenWord(word, 0.5, 7.1, 1.0)
    assert list(cues([slow])) == [[slow]]


@pytest.mark.parametrize(("syllable", "name"), [
    ("क्ष", "a conjunct"), ("क्\u200dष", "a conjunct with a joiner"), ("เก่า", "vowels around a consonant"),
    ("น้ำ", "a vowel behind"), (unicodedata.normalize("NFD", "한"), "a syllable in parts"), ("ມື້", "Lao")])
def test_a_phrase_is_not_cut_within_a_syllable(syllable, name):
    """Cuts fell between the halves of a conjunct and before or behind vowels of Thai."""
    for times in (20, 31, 45):
        found = list(cues([SpokenWord(syllable * times, 0.0, 25.0, 1.0)]))
        assert len(found) > 1, name
        assert all(len(word.word) % len(syllable) == 0 for cue in found for word in cue), name
        assert "".join(word.word for cue in found for word in cue) == syllable * times
