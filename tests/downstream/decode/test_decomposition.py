"""Errors taken apart: an example by hand, and that the parts always add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.decode.decomposition import BLAMES, Part, WordCounts, blame, decompose, oracle_errors
from downstream.decode.objective import Weighed
from downstream.score.rates import score, word_errors
from upstream.errors import InputError


@pytest.mark.parametrize(("reference", "found", "whose"), [
    ((-9.0, -2.0), (-8.0, -4.0), "search"),  # -11 beats -12: it was not met
    ((-9.0, -2.0), (-6.0, -4.0), "acoustic"),  # the emissions prefer the wrong text by 3, the model the right one by 2
    ((-6.0, -4.0), (-9.0, -0.5), "language"),
    ((-9.0, -4.0), (-8.0, -2.0), "both"),
    ((-9.0, -4.0), (-9.0, -4.0), "both"),  # worth the same
    ((-9.0, -4.0), (-9.0, -2.0), "language"),  # the emissions do not mind
    ((-np.inf, -1.0), (-9.0, -4.0), "acoustic"),  # no alignment of the reference
])
def test_whose_fault_it_is(reference, found, whose):
    right, wrong = Weighed("A B", *reference), Weighed("A C", *found)
    assert blame(right, wrong) == whose
    assert blame(right, wrong, reachable=False) == "vocabulary"
    assert blame(right, Weighed("A  B", *found)) is None


def test_a_text_in_another_form_of_unicode_is_right():
    """It was blamed on the search, with no errors."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    right, found = Weighed(apart, -1.0, -1.0), Weighed(composed, -2.0, -2.0)
    assert blame(right, found) is None
    whole = decompose({"a": apart}, {"greedy": {"a": composed}}, {"a": []}, {"a": (right, found)}, {apart})
    assert (whole.known, whole.insertions) == (WordCounts(1, 0), 0)


def test_an_example_by_hand():
    """Three utterances of 3, 2 and 1 words; Z is no word of the model.

    a: A B C found as A C: B deleted; the reference scores -5, the found text -6: a search error.
    b: A Z found as A B C: Z substituted, C inserted; -9 against -4, acoustic -8 against -3.5: language -1 against -.5,
       so both prefer it.
    c: right.
    """
    references = {"a": "A B C", "b": "A Z", "c": "B"}
    steps = {"greedy": {"a": "", "b": "A", "c": "C"}, "+ lm": {"a": "A C", "b": "A B C", "c": "B"}}
    nbest = {"a": ["A C", "A B C"], "b": ["A B C", "A B"], "c": []}
    weighed = {"a": (Weighed("A B C", -4.0, -1.0), Weighed("A C", -5.5, -0.5)),
               "b": (Weighed("A Z", -8.0, -1.0), Weighed("A B C", -3.5, -0.5)),
               "c": (Weighed("B", -1.0, -1.0), Weighed("B", -1.0, -1.0))}
    found = decompose(references, steps, nbest, weighed, {"A", "B", "C"})
    assert [(s.name, s.errors) for s in found.ladder] == [("greedy", 5), ("+ lm", 3), ("oracle", 1)]
    assert [s.wer for s in found.ladder] == [pytest.approx(100 * n / 6) for n in (5, 3, 1)]
    # Errors 3 1 1, 1 2 0, 0 1 0 of a, b, c: steps of -2 +1 -1 and -1 -1 0. Of 8 and 4 swaps 6 and 2 reach their sums.
    assert [step.change and (step.change.points, step.change.p_value) for step in found.ladder] == [
        None, (pytest.approx(-100 * 2 / 6), 0.75), (pytest.approx(-100 * 2 / 6), 0.5)]
    none = Part(0, 0)
    assert found.blamed == {"vocabulary": none, "search": Part(1, 1), "acoustic": none, "language": none,
                            "both": Part(1, 2)}
    assert (found.known, found.unknown, found.insertions) == (WordCounts(5, 1), WordCounts(1, 1), 1)
    assert (found.known.rate, found.unknown.rate) == (20.0, 100.0)
    closed = decompose(references, steps, nbest, weighed, {"A", "B", "C"}, closed=True)
    assert (closed.blamed["vocabulary"], closed.blamed["both"]) == (Part(1, 2), none)


def test_characters_by_hand():
    """Of A B C D and not Z is the vocabulary. CAB found as C B lacks A; of DZ as D EE Z is an E, and one is more."""
    references, found = {"a": "CAB", "b": "DZ"}, {"a": "C B", "b": "D EE"}
    result = decompose(references, {"+ lm": found}, {"a": ["CA B"], "b": []}, {}, {"AB", "CD"}, unit="character")
    assert [(s.name, s.errors, s.wer) for s in result.ladder] == [("+ lm", 3, 60.0), ("oracle", 2, 40.0)]
    assert (result.words, result.blamed, result.unit) == (5, {}, "character")
    assert (result.known, result.unknown, result.insertions) == (WordCounts(4, 1), WordCounts(1, 1), 1)


TEXT = st.lists(st.sampled_from("ABZ"), max_size=4).map(" ".join)
PARTS = st.tuples(st.floats(-50, 0), st.floats(-50, 0))
UTTERANCE = st.tuples(TEXT, TEXT, TEXT, st.lists(TEXT, max_size=4), PARTS, PARTS)


@given(utterances=st.lists(UTTERANCE, min_size=1, max_size=6), closed=st.booleans())
def test_the_parts_add_up_and_the_oracle_is_no_worse(utterances, closed):
    utterances.append(("A", "A", "B", [], (-1.0, 0.0), (-2.0, 0.0)))  # one reference has a word at least
    ids = [str(i) for i in range(len(utterances))]
    references, greedy, best = ({id: u[place] for id, u in zip(ids, utterances)} for place in range(3))
    nbest = {id: u[3] for id, u in zip(ids, utterances)}
    weighed = {id: (Weighed(u[0], *u[4]), Weighed(u[2], *u[5])) for id, u in zip(ids, utterances)}
    found = decompose(references, {"greedy": greedy, "best": best}, nbest, weighed, {"A", "B"}, closed)
    _, last, oracle = found.ladder
    whole = score(references, best)
    assert (last.errors, found.words, last.wer) == (whole.errors, whole.words, pytest.approx(whole.wer))
    assert sum(part.errors for part in found.blamed.values()) == last.errors
    assert sum(part.utterances for part in found.blamed.values()) == whole.sentence_errors
    assert found.known.errors + found.unknown.errors + found.insertions == last.errors
    assert (found.known.words + found.unknown.words, found.insertions) == (whole.words, whole.insertions)
    assert oracle.errors <= last.errors
    assert tuple(found.blamed) == BLAMES
    assert closed or found.blamed["vocabulary"].utterances == 0


@given(reference=TEXT, texts=st.lists(TEXT, min_size=1, max_size=5))
def test_the_oracle_is_one_of_the_texts(reference, texts):
    found = oracle_errors(reference, texts)
    assert found in {word_errors(reference, text) for text in texts}
    assert all(found <= word_errors(reference, text) for text in texts)


@pytest.mark.parametrize(("what", "says"), [("steps", "a: nothing from 'best'"), ("nbest", "a: nothing from 'n-best'"),
                                            ("weighed", "a: nothing from 'weighed'"), ("texts", "are empty")])
def test_what_is_missing_is_named(what, says):
    pair = (Weighed("A", 0, 0), Weighed("B", 0, 0))
    references, best, nbest, weighed = ({"a": each} for each in ("A", "B", [], pair))
    if what == "texts":
        references = {"a": " "}
    if what == "steps":
        best = {}
    if what == "nbest":
        nbest = {}
    if what == "weighed":
        weighed = {}
    with pytest.raises(InputError, match=says):
        decompose(references, {"best": best}, nbest, weighed, {"A"})


def test_a_difference_of_rounding_is_no_search_error():
    assert blame(Weighed("A B", -9.0, -4.0 + 1e-9), Weighed("A C", -9.0, -4.0)) == "both"
    assert blame(Weighed("A B", -9.0, -4.0 + 1e-5), Weighed("A C", -9.0, -4.0)) == "search"


def test_the_text_that_was_chosen_counts_as_listed():
    """Found by joining what goes on alike, it may be missing from the list, where the best has two errors."""
    pair = (Weighed("A B C", -1.0, -1.0), Weighed("A B", -2.0, 0.0))
    found = decompose({"a": "A B C"}, {"+ lm": {"a": "A B"}}, {"a": ["A", "B"]}, {"a": pair}, {"A", "B", "C"})
    assert [(step.name, step.errors) for step in found.ladder] == [("+ lm", 1), ("oracle", 1)]


def test_whether_a_vocabulary_holds_a_reference_is_asked_of_its_words_as_they_are_parted():
    """ABC is A and BC, which the vocabulary has, and BCA falls into BC and A; CAB does not fall into words of it."""
    parts = {"ABC": ["A", "BC"], "BCA": ["BC", "A"], "CAB": ["CAB"]}
    references, found, lists = {text: text for text in parts}, dict.fromkeys(parts, "A"), dict.fromkeys(parts, ())
    weighed = {text: (Weighed(text, -3.0, -1.0), Weighed("A", -1.0, -2.0)) for text in parts}
    result = decompose(references, {"+ lm": found}, lists, weighed, {"A", "BC"}, closed=True, unit="character",
                       words_of=parts.__getitem__)
    assert (result.blamed["vocabulary"], result.blamed["acoustic"]) == (Part(1, 2), Part(2, 4))


def test_characters_of_a_vocabulary_are_known_in_whatever_form_of_unicode():
    """An accent apart from its letter was a character of its own, and the letter with it unknown."""
    result = decompose({"a": "caf\u00e9"}, {"+ lm": {"a": "caf"}}, {"a": []}, {}, {"cafe\u0301"}, unit="character")
    assert (result.known, result.unknown) == (WordCounts(4, 1), WordCounts(0, 0))
