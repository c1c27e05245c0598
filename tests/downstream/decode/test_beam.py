"""Beam search: equal to exhaustive search and to pyctcdecode, its weights in nats, and the language model in charge."""

import itertools
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posteriors import read_slice
from small_arpa import write_arpa

from downstream.decode.beam import BeamDecoder
from downstream.decode.greedy import greedy
from downstream.score.rates import score
from upstream.errors import InputError, UsageError

SYMBOLS = ("<pad>", "|", "A", "B", "E")
LN10 = math.log(10)


def random_logprobs(frames: int, seed: int, symbols: int = len(SYMBOLS), sharpness: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, symbols)) * sharpness
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def every_text(logprobs: np.ndarray, characters: str) -> dict[str, float]:
    """Log-probability of every text: the sum over all paths that collapse to it. `_` is the blank."""
    totals: dict[str, float] = {}
    for path in itertools.product(range(len(characters)), repeat=len(logprobs)):
        collapsed = "".join(characters[s] for s, _ in itertools.groupby(path)).replace("_", "")
        text = " ".join(collapsed.replace("|", " ").split())
        value = sum(logprobs[frame, s] for frame, s in enumerate(path))
        totals[text] = np.logaddexp(totals.get(text, -np.inf), value)
    return totals


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_a_wide_beam_finds_what_exhaustive_search_finds(frames, seed):
    logprobs = random_logprobs(frames, seed, symbols=4)
    texts = every_text(logprobs, "_|AB")
    decoder = BeamDecoder(SYMBOLS[:4], 0, beam=100_000, beam_prune_logp=-1e9, token_min_logp=-1e9, nbest=100_000)
    found = decoder.decode("u", logprobs, 50.0)
    assert {c.text for c in found.nbest} == set(texts)
    for candidate in found.nbest:
        assert candidate.score == pytest.approx(texts[candidate.text], abs=1e-4)
    assert found.text == found.nbest[0].text
    assert found.score == pytest.approx(max(texts.values()), abs=1e-4)


def exhaustive_with_model(logprobs, lm_weight, word_score):
    """The objective of every text over the hand-written bigram model, from the numbers in the ARPA file."""
    known = {"A": (-0.75, -0.25), "B": (-1.0, -0.25), "AB": (-1.5, -0.125), "BE": (-2.0, -0.125)}
    pairs = {("<s>", "A"): -0.25, ("A", "B"): -0.25, ("B", "</s>"): -0.5, ("AB", "</s>"): -0.5}
    scores = {}
    for text, acoustic in every_text(logprobs, "_|ABE").items():
        words = text.split()
        log10, backoff, last = 0.0, -0.5, "<s>"
        for word in words:
            log10 += pairs[last, word] if (last, word) in pairs else backoff + known.get(word, (-2 - 10, 0))[0]
            backoff, last = known.get(word, (0, 0))[1], word
        log10 += pairs.get((last, "</s>"), backoff - 1.0)
        scores[text] = acoustic + lm_weight * LN10 * log10 + word_score * len(words)
    return scores


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2))
def test_with_a_language_model_it_finds_what_exhaustive_search_finds(tmp_path_factory, seed, lm_weight, word_score):
    lm = write_arpa(tmp_path_factory.getbasetemp())
    logprobs = random_logprobs(4, seed)
    expected = exhaustive_with_model(logprobs, lm_weight, word_score)
    found = BeamDecoder(SYMBOLS, 0, lm, lm_weight, word_score, beam=100_000, beam_prune_logp=-1e9,
                        token_min_logp=-1e9, nbest=100_000).decode("u", logprobs, 50.0)
    assert {c.text for c in found.nbest} == set(expected)
    for candidate in found.nbest:
        assert candidate.score == pytest.approx(expected[candidate.text], abs=1e-3)


def test_the_language_model_changes_the_winner_by_hand(tmp_path):
    """The last frame hears E a little better than B; the model knows that B follows A.

    Paths A|B and A|E have log .45 and log .55: E wins alone by .2 nats. The model gives `A B </s>`
    -.25 -.25 -.5 = -1 and `A E </s>` -.25 + (-.25 - 2 - 10) - 1 = -13.5 in log10.
    """
    rows = np.full((3, 5), 1e-12)
    rows[0, 2] = rows[1, 1] = 1
    rows[2, 3:] = 0.45, 0.55
    logprobs = np.log(rows / rows.sum(axis=1, keepdims=True))
    assert BeamDecoder(SYMBOLS, 0).decode("u", logprobs, 50.0).text == "A E"
    found = BeamDecoder(SYMBOLS, 0, write_arpa(tmp_path), lm_weight=1.0, word_score=0.5).decode("u", logprobs, 50.0)
    assert found.text == "A B"
    assert found.acoustic == pytest.approx(math.log(0.45), abs=1e-6)
    assert found.lm == pytest.approx(-1 * LN10, abs=1e-6)
    assert found.score == pytest.approx(math.log(0.45) - LN10 + 2 * 0.5, abs=1e-6)
    assert found.words == (("A", 0.0, 0.02), ("B", 0.04, 0.06))


def pyctcdecode_beams(logprobs, lm, lm_weight, word_score, **options):
    from pyctcdecode import build_ctcdecoder

    from downstream.lm.arpa import read_unigrams
    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    decoder = build_ctcdecoder(["", " ", *SYMBOLS[2:]], str(lm), read_unigrams(lm), alpha=lm_weight, beta=word_score)
    return decoder.decode_beams(logprobs, **options)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 40), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       hotwords=st.sampled_from([(), ("AB",), ("BE", "EEB")]))
def test_it_equals_pyctcdecode_called_directly(tmp_path_factory, seed, frames, lm_weight, word_score, hotwords):
    """Ending in a letter for sure, since pyctcdecode scores an utterance that ends in a separator otherwise."""
    lm = write_arpa(tmp_path_factory.getbasetemp(), zipped=seed % 2 == 0)
    logprobs = random_logprobs(frames, seed, sharpness=3.0)
    logprobs[-1] = np.log([1e-9, 1e-9, 1 - 4e-9, 1e-9, 1e-9])
    ours = BeamDecoder(SYMBOLS, 0, lm, lm_weight, word_score, beam=20, nbest=20, hotwords=hotwords,
                       hotword_weight=3.0).decode("u", logprobs, 50.0)
    theirs = pyctcdecode_beams(logprobs, lm, lm_weight, word_score, beam_width=20, hotwords=hotwords,
                               hotword_weight=3.0)
    assert [c.text for c in ours.nbest] == [beam[0] for beam in theirs]
    np.testing.assert_allclose([c.acoustic for c in ours.nbest], [beam[3] for beam in theirs], atol=1e-5)
    np.testing.assert_allclose([c.score for c in ours.nbest], [beam[4] for beam in theirs], atol=1e-5)
    assert [(w.word, round(w.start_s * 50), round(w.end_s * 50)) for w in ours.words] == [
        (word, *span) for word, span in theirs[0][2]]


def test_a_separator_at_the_end_is_no_unknown_word(tmp_path):
    """`A|` is A: the best and only text. pyctcdecode scores it as A and an empty unknown word, 12 orders worse."""
    lm = write_arpa(tmp_path)
    logprobs = np.log(np.array([[1, 1, 1e9, 1, 1], [1, 1e9, 1, 1, 1]]) / (1e9 + 4))
    ended = BeamDecoder(SYMBOLS, 0, lm, 1.0, 0.0).decode("u", logprobs, 50.0)
    assert ended.text == "A"
    assert ended.score == pytest.approx(LN10 * (-0.25 - 0.25 - 1), abs=1e-6)
    assert pyctcdecode_beams(logprobs, lm, 1.0, 0.0)[0][4] == pytest.approx(ended.score - 12 * LN10, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       tokens=st.sampled_from([None, 2, 3]))
def test_a_score_is_the_sum_of_its_parts(tmp_path_factory, seed, lm_weight, word_score, tokens):
    lm = write_arpa(tmp_path_factory.getbasetemp())
    decoder = BeamDecoder(SYMBOLS, 0, lm, lm_weight, word_score, beam=10, nbest=10, tokens_per_frame=tokens)
    found = decoder.decode("u", random_logprobs(12, seed), 50.0)
    for c in found.nbest:
        lm_score = c.lm - 10 * LN10 * c.unknown
        assert c.score == pytest.approx(c.acoustic + lm_weight * lm_score + word_score * len(c.text.split()), abs=1e-3)
    assert [c.score for c in found.nbest] == sorted((c.score for c in found.nbest), reverse=True)


def test_trying_fewer_symbols_leaves_the_scores_of_what_is_found(tmp_path):
    """Symbols left out remove other texts, not probability from those that stay."""
    logprobs = np.log(np.array([[0.1, 0.05, 0.8, 0.03, 0.02], [0.02, 0.03, 0.05, 0.8, 0.1]]))
    found = BeamDecoder(SYMBOLS, 0, tokens_per_frame=1).decode("u", logprobs, 50.0)
    assert (found.text, found.score) == ("AB", pytest.approx(2 * math.log(0.8), abs=1e-6))


def test_specials_never_appear_and_cost_nothing_to_the_rest():
    symbols = ("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B")
    logprobs = np.log(np.array([[0.5, 0.05, 0.1, 0.1, 0.05, 0.15, 0.05]] * 2))
    found = BeamDecoder(symbols, 1, beam=1000, beam_prune_logp=-1e9, token_min_logp=-1e9).decode("u", logprobs, 50.0)
    assert found.text == "A"
    # A, or _A, or A_, or |A, or A|
    assert found.score == pytest.approx(math.log(0.15**2 + 4 * 0.05 * 0.15), abs=1e-6)


def test_no_frames_are_an_empty_text(tmp_path):
    found = BeamDecoder(SYMBOLS, 0, write_arpa(tmp_path)).decode("u", np.zeros((0, 5), np.float32), 50.0)
    assert (found.text, found.words) == ("", ())


def test_silence_is_an_empty_text(tmp_path):
    silence = np.tile(np.log([0.96, 0.01, 0.01, 0.01, 0.01]), (20, 1))
    assert BeamDecoder(SYMBOLS, 0, write_arpa(tmp_path), 0.5, 0.0).decode("u", silence, 50.0).text == ""


def test_one_search_serves_decoders_of_different_weights(tmp_path):
    lm, logprobs = write_arpa(tmp_path), random_logprobs(20, 5)
    weak, strong = (BeamDecoder(SYMBOLS, 0, lm, weight, 0.0) for weight in (0.1, 2.0))
    first = weak.decode("u", logprobs, 50.0)
    strong.decode("u", logprobs, 50.0)
    assert weak.decode("u", logprobs, 50.0) == first


def test_on_simulated_posteriors_a_beam_without_a_model_is_no_worse_than_greedy():
    """Greedy has 40 word errors; summing over alignments changes little. Its score is never below the best path's."""
    utterances, references, symbols = read_slice()
    decoder = BeamDecoder(symbols, 0)
    found = {id: decoder.decode(id, rows, 50.0) for id, rows in utterances.items()}
    assert score(references, {id: h.text for id, h in found.items()}).errors <= 42
    for id, rows in utterances.items():
        assert found[id].score >= greedy(rows, symbols, 0, 50.0).score - 0.01


@pytest.mark.parametrize("settings", [{"beam": 0}, {"nbest": 0}, {"tokens_per_frame": 0}, {"lm_weight": -1.0},
                                      {"lm_weight": math.nan}, {"word_score": math.inf}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError):
        BeamDecoder(SYMBOLS, 0, **settings)


def test_a_language_model_in_the_other_case_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"0% of the 4 words .* lower case; build"):
        BeamDecoder(("<pad>", "|", "a", "b", "e"), 0, write_arpa(tmp_path)).prepare()
