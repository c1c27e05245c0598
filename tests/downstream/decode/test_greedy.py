"""Greedy decoding: collapse, word times, alphabets, and a recogniser's posteriors counted by independent code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posteriors import read_slice

from downstream.decode.alphabet import alphabet
from downstream.decode.greedy import GreedyDecoder, greedy
from downstream.score.rates import score
from upstream.errors import InputError

SYMBOLS = ("<pad>", "|", "A", "B")


def certain(path: str) -> np.ndarray:
    """Emissions that are sure of one symbol a frame: `_` blank, `|` separator."""
    rows = np.full((len(path), 4), np.log(0.01))
    for frame, character in enumerate(path):
        rows[frame, "_|AB".index(character)] = np.log(0.97)
    return rows.astype(np.float32)


def test_a_path_by_hand():
    # frames    0123456789
    hypothesis = greedy(certain("_AAB||_B_B"), SYMBOLS, 0, rate=50.0, id="u")
    assert hypothesis.id == "u"
    assert hypothesis.text == "AB BB"  # AA is one A; the blank in B_B keeps two Bs apart
    assert hypothesis.words == (("AB", 1 / 50, 4 / 50), ("BB", 7 / 50, 10 / 50))
    assert hypothesis.score == pytest.approx(10 * np.log(0.97), rel=1e-5)
    assert hypothesis.acoustic == hypothesis.score


@pytest.mark.parametrize(("path", "text"), [
    ("", ""), ("____", ""), ("||_|", ""), ("|A|", "A"), ("A_A", "AA"), ("A|_|B", "A B"), ("AAAA", "A"), ("A|A", "A A")])
def test_collapsing(path, text):
    hypothesis = greedy(certain(path) if path else np.zeros((0, 4), np.float32), SYMBOLS, 0, 50.0)
    assert hypothesis.text == text
    assert " ".join(w.word for w in hypothesis.words) == text


@given(st.text("_|AB", min_size=1, max_size=30))
def test_the_text_is_the_collapsed_path_and_times_are_inside_the_utterance(path):
    collapsed = "".join(c for i, c in enumerate(path) if i == 0 or path[i - 1] != c).replace("_", "")
    hypothesis = greedy(certain(path), SYMBOLS, 0, 50.0)
    assert hypothesis.text == " ".join(collapsed.replace("|", " ").split())
    edges = [t for w in hypothesis.words for t in (w.start_s, w.end_s)]
    assert edges == sorted(edges)
    assert all(0 <= t <= len(path) / 50 for t in edges)
    assert all(w.start_s < w.end_s for w in hypothesis.words)


def test_specials_never_appear():
    symbols = ("<s>", "<pad>", "</s>", "<unk>", "|", "A")
    logprobs = np.log(np.array([[0.9, 0.02, 0.02, 0.02, 0.02, 0.02], [0.0, 0.1, 0.2, 0.4, 0.1, 0.2]]) + 1e-9)
    assert greedy(logprobs[1:], symbols, 1, 50.0).text == "A"
    assert greedy(logprobs[:1], symbols, 1, 50.0).text == ""  # a tie of the rest goes to the lower column: blank
    assert alphabet(symbols, 1).columns == (1, 4, 5)
    assert alphabet(symbols, 1).letters == {"A"}


@pytest.mark.parametrize(("symbols", "blank", "words"), [
    (("_", "|", "A"), 3, "blank is column 3 of 3"),
    (("_", "|", "A", "A"), 0, "twice: 'A'"),
    (("_", "A", "B"), 0, "0 word separators"),
    (("_", "|", " ", "A"), 0, "2 word separators"),
    (("_", "|", "AB"), 0, "'AB' in column 2"),
    (("_", "|", ""), 0, "'' in column 2"),
])
def test_alphabets_that_cannot_be_decoded_with_are_refused(symbols, blank, words):
    with pytest.raises(InputError, match=words):
        GreedyDecoder(symbols, blank).prepare()


def test_emissions_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"\(3, 4\) do not fit 3 symbols"):
        greedy(certain("AAA"), ("_", "|", "A"), 0, 50.0)


def test_nan_is_refused():
    with pytest.raises(InputError, match="NaN"):
        greedy(np.full((2, 4), np.nan), SYMBOLS, 0, 50.0)


def test_error_rates_of_simulated_posteriors_are_those_counted_by_other_code():
    """40 of 90 words and 51 of 447 characters, by itertools.groupby and a full dynamic programming table.

    The whole set that the slice is from has WER 46.6 and CER 12.0.
    """
    utterances, references, symbols = read_slice()
    result = score(references, {id: greedy(rows, symbols, 0, 50.0).text for id, rows in utterances.items()})
    assert (result.errors, result.words) == (40, 90)
    assert (result.character_errors, result.characters) == (51, 447)


def test_a_frame_in_which_no_symbol_is_possible_says_nothing_and_costs_a_lot():
    symbols = ("A", "|", "<unk>", "<pad>")  # the first column is a letter
    with np.errstate(divide="ignore"):
        rows = np.log(np.array([[0, 0, 0, 1.0], [0, 0, 1.0, 0], [1.0, 0, 0, 0]]))
    found = greedy(rows, symbols, 3, 50.0)
    assert (found.text, found.score) == ("A", -10_000)
    assert found.words[0].start_s == 2 / 50
