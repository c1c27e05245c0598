"""The score of a text computed whole equals what each decoder gives it when its beam is wide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_arpa import write_arpa
from test_beam import SYMBOLS, random_logprobs
from test_likelihood import ONE, TWO

from downstream.decode.alphabet import alphabet
from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.objective import Objective, text_scores, without_language_model
from downstream.lm.arrays import pack
from downstream.text.lexicon import Lexicon
from upstream.errors import UsageError

WIDE = {"beam": 10_000, "nbest": 10_000}
DECODERS = {
    "beam": (BeamDecoder, {**WIDE, "beam_prune_logp": -1e9, "token_min_logp": -1e9}),
    "lexicon": (LexiconDecoder, {**WIDE, "beam_threshold": 1e9}),
    "batched": (BatchedDecoder, {**WIDE, "beam_threshold": 600.0, "token_min_logp": -1e9, "tokens_per_frame": None,
                                 "blank_threshold": 1.0}),
    "open": (BatchedDecoder, {**WIDE, "beam_threshold": 600.0, "token_min_logp": -1e9, "tokens_per_frame": None,
                              "blank_threshold": 1.0, "unknown_penalty": -2.0}),
}


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    return write_arpa(tmp_path_factory.mktemp("lm"))


def test_a_score_by_hand():
    """Of A: acoustic log .58; language .5 * (-4 - 3 * 1) + .25 = -3.25. Spaces do not count."""
    [found] = Objective(lambda text: (-4.0, 1), 0.5, 0.25, unknown_penalty=-3.0).weigh([" A "], TWO, ONE)
    assert (found.text, found.language) == ("A", -3.25)
    assert found.score == pytest.approx(np.log(0.58) - 3.25)


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=10)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_it_is_the_score_of_the_decoder(arpa, name, frames, seed):
    kind, settings = DECODERS[name]
    decoder = kind(SYMBOLS, 0, arpa, lm_weight=0.7, word_score=-0.4, **settings)
    logprobs, objective = random_logprobs(frames, seed), Objective.of(decoder)
    found = decoder.decode("u", logprobs, 50.0)
    if found.nbest and not getattr(found, "unfinished", False):
        texts = [c.text for c in found.nbest]
        weighed = objective.weigh(texts, logprobs, alphabet(SYMBOLS, 0))
        assert weighed[0].score == pytest.approx(found.score, abs=1e-3)
        assert max(w.score for w in weighed) == pytest.approx(found.score, abs=1e-3)


@pytest.mark.parametrize("name", ["beam", "open"])
def test_unknown_words_cost_what_the_decoder_takes_for_them(arpa, name):
    """E and EB are none of the model's; emissions are so sure that nothing else is found."""
    kind, settings = DECODERS[name]
    decoder = kind(SYMBOLS, 0, arpa, lm_weight=0.7, word_score=-0.4, **settings)
    logprobs = np.full((6, 5), -90.0)
    logprobs[range(6), [SYMBOLS.index(s) for s in ("E", "|", "A", "|", "E", "B")]] = 0
    found = decoder.decode("u", logprobs, 50.0)
    assert found.text == "E A EB"
    [weighed] = Objective.of(decoder).weigh([found.text], logprobs, alphabet(SYMBOLS, 0))
    assert weighed.score == pytest.approx(found.score, abs=1e-3)
    [known] = Objective.of(decoder).weigh(["A"], logprobs, alphabet(SYMBOLS, 0))
    assert weighed.language < known.language - 2 * 0.7 * 1.9


def test_packed_arrays_score_as_kenlm_does(arpa, tmp_path):
    pack(arpa, tmp_path / "lm.ngrams")
    (kenlm, words), (ours, same) = text_scores(arpa), text_scores(tmp_path / "lm.ngrams")
    assert words == same == {"A", "B", "AB", "BE"}
    for text in ("", "A", "A B", "AB BE A", "X A Y"):
        assert ours(text) == (pytest.approx(kenlm(text)[0], abs=1e-4), kenlm(text)[1])


def test_what_each_decoder_can_find(arpa):
    known = {"A", "B", "AB", "BE"}
    beam, lexicon, batched = (kind(SYMBOLS, 0, arpa) for kind in (BeamDecoder, LexiconDecoder, BatchedDecoder))
    assert [(Objective.of(d).closed, Objective.of(d).vocabulary) for d in (beam, lexicon, batched)] == [
        (False, known), (True, known), (True, known)]
    assert Objective.of(BatchedDecoder(SYMBOLS, 0, arpa, ("A",))).vocabulary == {"A"}
    either = Objective.of(BatchedDecoder(SYMBOLS, 0, arpa, ("A",), unknown_penalty=-1.0))
    assert (either.closed, either.vocabulary) == (False, known)
    assert without_language_model(beam, frozenset(known)) is None
    alone = without_language_model(batched, frozenset({*known, "ABC", "a"}))  # which the alphabet cannot spell
    assert (alone.lm, alone.lexicon) == (None, ("A", "AB", "B", "BE"))
    with pytest.raises(UsageError, match="needs a language model"):
        Objective.of(BeamDecoder(SYMBOLS, 0))
    with pytest.raises(UsageError, match="by characters"):
        Objective.of(LexiconDecoder(SYMBOLS, 0, arpa, Lexicon({"A": (("B", "|"),)})))


def test_without_the_model_goes_its_word_score(arpa):
    alone = without_language_model(BatchedDecoder(SYMBOLS, 0, arpa, word_score=2.0, nbest=5), frozenset({"A"}))
    assert (alone.lm_weight, alone.word_score, alone.nbest) == (0.0, 0.0, 1)
