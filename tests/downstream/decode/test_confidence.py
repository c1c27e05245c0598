"""Confidences of words: by hand, over all alignments, alike for every decoder, and for every spelling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posteriors import read_slice
from test_batched import sure_path
from test_beam import SYMBOLS, every_text, random_logprobs

from downstream.decode.alphabet import alphabet
from downstream.decode.batched import BatchedDecoder
from downstream.decode.confidence import confidences, with_confidences
from downstream.decode.greedy import GreedyDecoder, greedy
from downstream.decode.hypothesis import Word
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.pool import decode_all
from downstream.emissions import Emissions, EmissionsWriter
from downstream.text.lexicon import Lexicon

COLUMNS = alphabet(SYMBOLS, 0)


def test_confidence_by_hand():
    rows = np.log(np.array([[.1, .1, .8], [.5, .1, .4]]))  # blank, |, A: paths A-, AA and -A spell A
    wanted = (.8 * .5 + .8 * .4 + .1 * .4) ** 0.5
    found = confidences(rows, [Word("A", 0.0, 0.04)], alphabet(("_", "|", "A"), 0), 50.0)
    assert found == [pytest.approx(wanted)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), spans=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=3),
       data=st.data())
def test_it_is_the_sum_over_all_alignments_whatever_other_words_there_are(seed, spans, data):
    rows = random_logprobs(7, seed)
    words = [Word(data.draw(st.sampled_from(["A", "AB", "EBB", "E"])), first / 50, (first + count) / 50)
             for first, count in spans]
    for word, sure, (first, count) in zip(words, confidences(rows, words, COLUMNS, 50.0), spans, strict=True):
        every = every_text(rows[first:first + count, [0, 2, 3, 4]], "_ABE")  # of paths without a separator
        assert sure == pytest.approx(math.exp(every.get(word.word, -np.inf) / count), abs=1e-9)


def test_a_word_has_the_frames_of_its_times_however_these_are_rounded():
    """29 / 50 * 50 is a little less than 29 and 58 / 50 * 50 than 58; A is certain in these frames and nowhere else,
    and emissions in float32 may add up to a little more than 1."""
    rows = np.log(np.tile([.9, .05, .01, .03, .01], (70, 1)))
    rows[29:58] = np.log([1e-30, 1e-30, 1, 1e-30, 1e-30])
    assert (29 / 50 * 50, 58 / 50 * 50) < (29, 58)
    assert confidences(rows, [Word("A", 29 / 50, 58 / 50)], COLUMNS, 50.0) == [pytest.approx(1)]
    rows[29:58, 2] = 1e-6
    assert confidences(rows, [Word("A", 29 / 50, 58 / 50)], COLUMNS, 50.0) == [1]
    rows[57] = np.log([.3, .2, .2, .2, .1])  # the last one
    assert confidences(rows, [Word("A", 29 / 50, 58 / 50)], COLUMNS, 50.0) == [pytest.approx(0.5 ** (1 / 29), abs=1e-5)]
    early = [Word("A", -0.02, 0.04), Word("A", 0.0, 0.04)]
    assert len(set(confidences(rows, early, COLUMNS, 50.0))) == 1


@pytest.mark.parametrize("spellings", [["A", "AB", "xyz", ""], ["xyz", "", "AB", "A"]])
def test_the_likeliest_spelling_counts_and_one_that_there_is_not_is_nothing(spellings):
    word = [Word("1", 0.0, 0.04)]
    spelled = {"1": spellings}.__getitem__
    rows = sure_path("AB")
    found = confidences(rows, word, COLUMNS, 50.0, spelled)
    assert found == confidences(rows, [Word("AB", 0.0, 0.04)], COLUMNS, 50.0)
    assert found[0] > 0.99
    assert confidences(rows, word, COLUMNS, 50.0) == [0.0]
    assert confidences(rows, [Word("A", 9.0, 9.1)], COLUMNS, 50.0) == [0.0]
    assert confidences(rows, [], COLUMNS, 50.0) == []


def test_a_word_that_was_hardly_heard_is_less_sure():
    rows = np.concatenate([sure_path("A|"), np.log([[.02, .02, .06, .6, .3]])])
    found = with_confidences(greedy(rows, SYMBOLS, 0, 50.0), rows, COLUMNS, 50.0)
    assert [word.word for word in found.words] == ["A", "B"]
    assert found.confidences[0] > 0.99 > found.confidences[1] > 0.5


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_say_them_for_every_decoder_if_asked(tmp_path, workers):
    utterances, references, symbols = read_slice()
    with EmissionsWriter(tmp_path / "emissions", symbols, 0, 50.0) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    emissions = Emissions.load(tmp_path / "emissions")
    words = sorted(set(" ".join(references.values()).split()))
    spelled = Lexicon({f"<{word}>": ((*word, "|"),) for word in words})
    for decoder in (GreedyDecoder(symbols, 0), LexiconDecoder(symbols, 0, lexicon=spelled, beam=10),
                    BatchedDecoder(symbols, 0, lexicon=tuple(words), beam=10)):
        for found in decode_all(emissions, decoder, workers=workers, confidences=True):
            assert len(found.confidences) == len(found.words) > 0
            assert all(0 < sure <= 1 for sure in found.confidences)
    assert decode_all(emissions, GreedyDecoder(symbols, 0), workers=workers)[0].confidences == ()
