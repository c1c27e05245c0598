"""What is said of the symbols of transcripts before a recogniser learns them."""

import pytest

from downstream.text.symbols import remarks
from downstream.text.vocabulary import Vocabulary


def said(texts):
    return list(remarks(texts, Vocabulary.of(text for text in texts if text)))


def test_symbols_of_plain_transcripts_are_named_and_nothing_else_is_said():
    assert said(["ab c", "cab", "b a c", None]) == ["symbols, of the training transcripts: abc"]


def test_marks_stand_on_a_circle_and_not_on_their_neighbours():
    """Hindi began with a mark on the colon: `transcripts: ंआक`."""
    assert said(["कं"] * 3) == ["symbols, of the training transcripts: \u25ccंक"]


@pytest.mark.parametrize(("odd", "remark"), [
    ("\u200f", "symbols that are not seen: U+200F (3 transcripts)"),
    ("\u200b", "symbols that are not seen: U+200B (3 transcripts)")])
def test_symbols_that_are_not_seen_are_named_by_their_numbers(odd, remark):
    """A mark of direction was a class like any other, and the line of symbols did not show it."""
    first, *rest = said([f"ab{odd}"] * 3)
    assert f"U+{ord(odd):04X}" in first
    assert [line.startswith(f"warning: {remark}") for line in rest] == [True]


def test_symbols_of_few_transcripts_are_named():
    assert said(["ab"] * 8 + ["a7", "a7", "aé"])[1:] == [
        "warning: 2 of 4 symbols stand in fewer than 3 transcripts and will hardly be learnt: 7 (2), é (1)"]


@pytest.mark.parametrize(("one", "other"), ["'’", "ʼ’", "3３", "3٣", "٣۳", "aａ", "-–", "カｶ"])
def test_ways_to_write_the_same_are_told(one, other):
    """Ukrainian with two apostrophes, Mandarin with digits of two widths, Arabic with those of two scripts."""
    assert said([f"x{one}"] * 3 + [f"x{other}"] * 4)[1:] == [
        f"warning: symbols that may be one: {one} (U+{ord(one):04X}, 3 transcripts) and {other} (U+{ord(other):04X}, "
        "4 transcripts); write them alike"]


def test_words_of_two_scripts_that_look_alike_are_told():
    """A Latin i in a word of Ukrainian is another symbol, and looks the same."""
    assert "in сiм’я; write each word" in said(["сiм’я", "сiм’я i", "сiм’я та i"] * 3)[-1]
    assert len(said(["今天 iPhone", "α beta"] * 3)) == 1


def test_a_large_alphabet_names_what_is_no_letter_in_it():
    texts = [chr(0x4e00 + i) + "，3" for i in range(50)] * 3
    assert said(texts) == ["symbols, of the training transcripts: 52 characters; no letters among them: 3，"]
