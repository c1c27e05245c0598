"""Our batched search: equal to exhaustive search, the same alone and in company, and over numpy and torch."""

import itertools
import math
import os

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from posteriors import read_slice
from small_arpa import ARPA, write_arpa
from test_beam import LN10, SYMBOLS, every_text, random_logprobs

from downstream.decode import batched, lexicon_trie
from downstream.decode.batched import BatchedDecoder
from downstream.decode.batched_backend import NumpyBackend
from downstream.decode.batched_search import Limits, _kept
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import MOST_HOTWORD_NATS
from downstream.decode.greedy import greedy
from downstream.decode.health_words import read_model_words
from downstream.decode.hypothesis import write_hypotheses
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.objective import text_scores
from downstream.lm.array_file import map_arrays, write_arrays
from downstream.lm.arrays import NgramArrays, pack, packed_from
from downstream.score.rates import score
from upstream.errors import InputError, UsageError

EVERYTHING = {"beam": 1_000_000, "beam_threshold": 600.0, "token_min_logp": -1e9, "tokens_per_frame": None,
              "blank_threshold": 1.0}
WORDS = {"A": (-0.75, -0.25), "B": (-1.0, -0.25), "AB": (-1.5, -0.125), "BE": (-2.0, -0.125)}
PAIRS = {("<s>", "A"): -0.25, ("A", "B"): -0.25, ("B", "</s>"): -0.5, ("AB", "</s>"): -0.5}


def log10_of(words, unknown=-2.0):
    """Of a sentence, and how many words are unknown, from the numbers in the ARPA file."""
    log10, backoff, last = 0.0, -0.5, "<s>"
    for word in words:
        known = WORDS.get(word, (unknown, 0.0))
        log10 += PAIRS[last, word] if (last, word) in PAIRS else backoff + known[0]
        backoff, last = known[1], word
    return log10 + PAIRS.get((last, "</s>"), backoff - 1.0), sum(word not in WORDS for word in words)


def assert_candidates(found, expected):
    """`expected`: text -> score."""
    assert {c.text for c in found.nbest} == set(expected)
    for candidate in found.nbest:
        assert candidate.score == pytest.approx(expected[candidate.text], abs=1e-4)
    assert [c.score for c in found.nbest] == sorted((c.score for c in found.nbest), reverse=True)
    assert (found.text, found.score) == (found.nbest[0].text, found.nbest[0].score)


def test_lists_are_taken_for_symbols_words_and_hotwords():
    """`TypeError: unhashable type: 'list'` when it came to decoding."""
    given = BatchedDecoder(list(SYMBOLS[:4]), 0, lexicon=["A", "AB"], hotwords=[["B", 1.0]])
    decoder = BatchedDecoder(SYMBOLS[:4], 0, lexicon=("A", "AB"), hotwords=(("B", 1.0),))
    assert given == decoder
    logprobs = random_logprobs(5, 0, symbols=4)
    assert given.decode("u", logprobs, 50.0) == decoder.decode("u", logprobs, 50.0)


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000), device=st.sampled_from([None, "cpu"]))
def test_without_a_model_it_finds_what_exhaustive_search_finds(frames, seed, device):
    logprobs = random_logprobs(frames, seed, symbols=4)
    decoder = BatchedDecoder(SYMBOLS[:4], 0, nbest=100_000, device=device, **EVERYTHING)
    assert_candidates(decoder.decode("u", logprobs, 50.0), every_text(logprobs, "_|AB"))


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       penalty=st.sampled_from([None, 0.0, -3.0]), device=st.sampled_from([None, "cpu"]))
def test_with_a_model_it_finds_what_exhaustive_search_finds(tmp_path_factory, frames, seed, lm_weight, word_score,
                                                            penalty, device):
    """With a closed vocabulary (penalty None) only texts of known words."""
    logprobs = random_logprobs(frames, seed)
    expected = {}
    for text, acoustic in every_text(logprobs, "_|ABE").items():
        log10, unknown = log10_of(text.split())
        if penalty is not None or not unknown:
            lm = LN10 * log10 + (penalty or 0.0) * unknown
            expected[text] = acoustic + lm_weight * lm + word_score * len(text.split())
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, lm_weight, word_score,
                             unknown_penalty=penalty, nbest=100_000, device=device, **EVERYTHING)
    found = decoder.decode("u", logprobs, 50.0)
    assert_candidates(found, expected)
    for c in found.nbest:
        log10, unknown = log10_of(c.text.split())
        assert (c.lm, c.unknown) == (pytest.approx(LN10 * log10, abs=1e-4), unknown)
        assert c.acoustic == pytest.approx(every_text(logprobs, "_|ABE")[c.text], abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2),
       penalty=st.sampled_from([None, 0.0, -3.0]), device=st.sampled_from([None, "cpu"]),
       lexicon=st.lists(st.sampled_from(["A", "AB", "EE", "EBE"]), min_size=1, unique=True))
def test_with_a_model_and_a_lexicon_it_finds_what_exhaustive_search_finds(tmp_path_factory, frames, seed, lm_weight,
                                                                          word_score, penalty, device, lexicon):
    """With a penalty any spelling is a word, and the model's that the lexicon lacks were scored as unknown ones."""
    logprobs = random_logprobs(frames, seed)
    acoustic = every_text(logprobs, "_|ABE")
    expected = {}
    for text in acoustic:
        log10, unknown = log10_of(text.split())
        if penalty is not None or set(text.split()) <= set(lexicon):
            lm = LN10 * log10 + (penalty or 0.0) * unknown
            expected[text] = acoustic[text] + lm_weight * lm + word_score * len(text.split())
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), tuple(lexicon), lm_weight,
                             word_score, unknown_penalty=penalty, nbest=100_000, device=device, **EVERYTHING)
    found = decoder.decode("u", logprobs, 50.0)
    assert_candidates(found, expected)
    for c in found.nbest:
        log10, unknown = log10_of(c.text.split())
        assert (c.lm, c.unknown) == (pytest.approx(LN10 * log10, abs=1e-4), unknown)
        assert c.acoustic == pytest.approx(acoustic[c.text], abs=1e-4)


@settings(max_examples=30, deadline=None, derandomize=True)  # how much is lost has no strict bound
@given(seed=st.integers(0, 10_000), lm_weight=st.floats(0, 2), word_score=st.floats(-2, 2))
def test_joining_what_goes_on_alike_finds_a_text_of_nearly_the_best_score(tmp_path_factory, seed, lm_weight,
                                                                          word_score):
    """A text's alignments may be lost to another text's at a join."""
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, lm_weight, word_score,
                             nbest=100, **EVERYTHING)
    logprobs = random_logprobs(6, seed)
    every = decoder.decode("u", logprobs, 50.0)
    one = BatchedDecoder(**{**vars(decoder), "nbest": 1}).decode("u", logprobs, 50.0)
    scores = {c.text: c.score for c in every.nbest}
    assert one.score <= scores.get(one.text, math.inf) + 1e-6
    assert one.score >= every.score - 3 * math.log(2)


def utterances_of_many_lengths(seed, longest=25, count=9):
    rng = np.random.default_rng(seed)
    rows = [random_logprobs(int(rng.integers(0, longest)), seed + i, sharpness=3.0) for i in range(count)]
    silence = np.log([1 - 4e-6, 1e-6, 1e-6, 1e-6, 1e-6])
    for each in rows:
        each[rng.random(len(each)) < 0.4] = silence
    return [f"u{i}" for i in range(count)], [each.reshape(-1, len(SYMBOLS)) for each in rows]


def alike(one, other):
    assert (one.id, one.text, one.words) == (other.id, other.text, other.words)
    np.testing.assert_allclose([one.score, one.acoustic, one.lm], [other.score, other.acoustic, other.lm], atol=1e-8)
    assert [c.text for c in one.nbest] == [c.text for c in other.nbest]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 9), nbest=st.sampled_from([1, 5]),
       penalty=st.sampled_from([None, -1.0]))
def test_company_changes_nothing(tmp_path_factory, seed, batch, nbest, penalty):
    ids, rows = utterances_of_many_lengths(seed)
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, 0.7, 0.3, beam=6,
                             unknown_penalty=penalty, nbest=nbest, batch=batch)
    for id, each, found in zip(ids, rows, decoder.decode_batch(ids, rows, 50.0), strict=True):
        alike(found, decoder.decode(id, each, 50.0))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), nbest=st.sampled_from([1, 5]), penalty=st.sampled_from([None, -1.0]))
def test_torch_finds_what_numpy_finds(tmp_path_factory, seed, nbest, penalty):
    ids, rows = utterances_of_many_lengths(seed)
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, 0.7, 0.3, beam=6,
                             unknown_penalty=penalty, nbest=nbest)
    torch = BatchedDecoder(**{**vars(decoder), "device": "cpu"})
    for ours, theirs in zip(torch.decode_batch(ids, rows, 50.0), decoder.decode_batch(ids, rows, 50.0), strict=True):
        alike(ours, theirs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
@example(seed=1280)
def test_frames_that_are_surely_blank_need_no_search(tmp_path_factory, seed):
    ids, rows = utterances_of_many_lengths(seed)
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), None, 0.7, 0.3, beam=1000,
                             beam_threshold=100.0)
    searched = BatchedDecoder(**{**vars(decoder), "blank_threshold": 1.0})
    for fast, slow in zip(decoder.decode_batch(ids, rows, 50.0), searched.decode_batch(ids, rows, 50.0), strict=True):
        assert fast.text == slow.text
        # A letter of 1e-6 in such a frame is left out: .002 nats in the example, where others are hardly likelier.
        assert fast.score == pytest.approx(slow.score, abs=0.02)


def test_the_language_model_changes_the_winner_by_hand(tmp_path):
    """The last frame hears A a little better than B; the model knows that B follows A.

    `A A` has log .55 and log10 -.25 + (-.25 - .75) + (-.25 - 1) = -2.5, `A B` log .45 and -.25 -.25 -.5 = -1.
    """
    rows = np.full((4, 5), 1e-12)
    rows[0, 2] = rows[1, 0] = rows[2, 1] = 1
    rows[3, 2:4] = 0.55, 0.45
    logprobs = np.log(rows / rows.sum(axis=1, keepdims=True))
    lm = write_arpa(tmp_path)
    assert BatchedDecoder(SYMBOLS, 0, lm, lm_weight=0.0).decode("u", logprobs, 50.0).text == "A A"
    found = BatchedDecoder(SYMBOLS, 0, lm, lm_weight=1.0, word_score=0.5).decode("u", logprobs, 50.0)
    assert found.text == "A B"
    assert found.acoustic == pytest.approx(math.log(0.45), abs=1e-6)
    assert found.lm == pytest.approx(-1 * LN10, abs=1e-5)
    assert found.score == pytest.approx(math.log(0.45) - LN10 + 2 * 0.5, abs=1e-5)
    assert found.words == (("A", 0.0, 0.02), ("B", 0.06, 0.08))
    assert (tmp_path / "small.ngrams").is_file()  # made once, for the next time


def test_arrays_go_into_the_users_cache_where_the_models_folder_cannot_be_written(tmp_path, monkeypatch):
    arpa = write_arpa(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    decoder = BatchedDecoder(SYMBOLS, 0, arpa)
    assert decoder.decode("u", sure_path("AB"), 50.0).text == "AB"
    assert not list(tmp_path.glob("*.ngrams"))
    assert [p.name.endswith("-small.ngrams") for p in (tmp_path / "cache" / "hubertkit").iterdir()] == [True]


def sure_path(path):
    rows = np.full((len(path), len(SYMBOLS)), 1e-3)
    rows[np.arange(len(path)), ["_|ABE".index(c) for c in path]] = 1
    return np.log(rows / rows.sum(axis=1, keepdims=True))


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from(["A", "B", "AB", "BE"]), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_word_times_are_those_of_the_best_path(tmp_path_factory, words, seed):
    rng = np.random.default_rng(seed)
    path = "".join(c * int(rng.integers(1, 4)) + "_" * int(rng.integers(0, 3)) for c in "|".join(words))
    found = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path_factory.getbasetemp()), lm_weight=0.1).decode(
        "u", sure_path(path), 50.0)
    assert found.words == greedy(sure_path(path), SYMBOLS, 0, 50.0).words
    assert [word.word for word in found.words] == words


def test_a_lexicon_says_which_words_there_are_and_the_model_scores_the_others_as_unknown(tmp_path):
    lm = write_arpa(tmp_path)
    decoder = BatchedDecoder(SYMBOLS, 0, lm, ("BE", "EBB"), lm_weight=0.01)
    assert decoder.decode("u", sure_path("EB_B"), 50.0).text == "EBB"
    assert decoder.decode("u", sure_path("BA|BE"), 50.0).text == "BE BE"
    assert BatchedDecoder(SYMBOLS, 0, lexicon=("BE",)).decode("u", sure_path("BA"), 50.0).text == "BE"


def test_a_hotword_is_found_where_it_was_not_and_counts_in_the_score(tmp_path):
    rows = np.full((3, 5), 1e-3)
    rows[0, 4], rows[1, 3], rows[2, [3, 4]] = 1, 1, (0.6, 0.4)  # EB, then B rather than E
    logprobs = np.log(rows / rows.sum(axis=1, keepdims=True))
    plain = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), lm_weight=0.1, nbest=50, **EVERYTHING)
    hot = BatchedDecoder(**{**vars(plain), "hotwords": (("EBE", 4.0),)})
    assert "EBE" not in {c.text for c in plain.decode("u", logprobs, 50.0).nbest}
    found = hot.decode("u", logprobs, 50.0)
    assert (found.text, found.nbest[0].unknown) == ("EBE", 1)
    assert found.score == pytest.approx(found.acoustic + 0.1 * found.lm + 4.0, abs=1e-6)
    assert found.acoustic == pytest.approx(every_text(logprobs, "_|ABE")["EBE"], abs=1e-4)


@pytest.mark.parametrize("bonus", [MOST_HOTWORD_NATS, -MOST_HOTWORD_NATS])
def test_hotwords_of_the_highest_bonus_leave_numbers(tmp_path, bonus):
    """exp of 710 is none: no hypothesis was left, and a traceback."""
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), hotwords=(("AB", bonus),), nbest=3)
    found = decoder.decode("u", np.log(np.full((60, 5), 0.2)), 50.0)
    assert math.isfinite(found.score)
    assert ("AB" in found.text.split()) == (bonus > 0)


def test_a_model_that_knows_none_of_the_words_leaves_numbers(tmp_path):
    lm = write_arpa(tmp_path)
    lm.write_text(lm.read_text().replace("-2\t<unk>", "-99\t<unk>"))
    decoder = BatchedDecoder(SYMBOLS, 0, lm, ("EBB",), lm_weight=9.0)
    assert math.isfinite(decoder.decode("u", sure_path("EB_B"), 50.0).score)  # nothing, rather than 2,000 nats


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize(("lm_weight", "text"), [(1.0, "A B A B"), (3.0, "A B A B"), (3.3, "A B A B"), (9.0, "A B")])
def test_a_model_without_sentence_ends_decodes_at_any_weight(tmp_path, lm_weight, text, device):
    """Some have a log10 probability of -99 for them: its 3.3rd power is 0, and so was the score of every text."""
    lm = tmp_path / "endless.arpa"
    lm.write_text(ARPA.replace("-1\t</s>", "-99\t</s>").replace("-0.5\tB </s>\n-0.5\tAB", "-99\tB </s>\n-99\tAB"))
    decoder = BatchedDecoder(SYMBOLS, 0, lm, lm_weight=lm_weight, nbest=9, device=device)
    found = decoder.decode("u", sure_path("A|B|A_|B"), 50.0)
    assert (found.text, found.unfinished) == (text, False)
    assert found.lm == pytest.approx(text_scores(lm)[0](text)[0], rel=1e-5)
    for candidate in found.nbest:
        assert candidate.score == pytest.approx(candidate.acoustic + lm_weight * candidate.lm)
        assert -1000 < candidate.acoustic < 0
    write_hypotheses(tmp_path / "found.jsonl", [found])  # which refuses what is no number


def test_on_a_device_a_model_lies_once_whatever_the_weights(tmp_path, monkeypatch):
    """Tuning left a copy for each pair of weights there."""
    moved = []
    monkeypatch.setattr(NgramArrays, "to", lambda self, device: moved.append(device) or self)
    for weight in (0.5, 1.0, 1.5):
        BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), lm_weight=weight, device="cpu").decode(
            "u", sure_path("AB"), 50.0)
    assert moved == ["cpu"]


def test_on_simulated_posteriors_it_is_as_good_as_pyctcdecode(tmp_path):
    """Without a model, over an open vocabulary, it gives nearly what pyctcdecode gives."""
    utterances, references, symbols = read_slice()
    ids, rows = list(utterances), list(utterances.values())
    found = {h.id: h.text for h in BatchedDecoder(symbols, 0).decode_batch(ids, rows, 50.0)}
    peer = {id: BeamDecoder(symbols, 0).decode(id, each, 50.0).text for id, each in utterances.items()}
    assert abs(score(references, found).errors - score(references, peer).errors) <= 2
    assert sum(found[id] == peer[id] for id in ids) >= len(ids) - 2


def test_a_lexicon_corrects_simulated_posteriors():
    """Words of the references alone halve greedy's errors at least, without any language model."""
    utterances, references, symbols = read_slice()
    lexicon = tuple(sorted(set(itertools.chain.from_iterable(text.split() for text in references.values()))))
    found = BatchedDecoder(symbols, 0, lexicon=lexicon).decode_batch(list(utterances), list(utterances.values()), 50.0)
    errors = score(references, {h.id: h.text for h in found}).errors
    plain = score(references, {id: greedy(rows, symbols, 0, 50.0).text for id, rows in utterances.items()}).errors
    assert errors < plain / 2
    for hypothesis in found:
        assert [word.word for word in hypothesis.words] == hypothesis.text.split()
        assert all(one.end_s <= next.start_s for one, next in itertools.pairwise(hypothesis.words))


def test_no_frames_and_silence_are_empty_texts(tmp_path):
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path))
    silence = np.tile(np.log([0.96, 0.01, 0.01, 0.01, 0.01]), (20, 1))
    sure = np.tile(np.log([1 - 4e-5, 1e-5, 1e-5, 1e-5, 1e-5]), (20, 1))
    for rows in (np.zeros((0, 5), np.float32), silence, sure):
        found = decoder.decode("u", rows, 50.0)
        assert (found.text, found.words) == ("", ())
    assert decoder.decode_batch([], [], 50.0) == []


def test_a_piece_of_a_word_at_the_end_is_dropped_where_there_is_nothing_else(tmp_path):
    """Cut off inside BE, with nothing else possible: one letter was heard, and no word is E."""
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("EB",))
    rows = np.full((1, 5), -np.inf)
    rows[0, 4] = 0.0
    assert decoder.decode("u", rows, 50.0).text == ""
    assert decoder.decode("u", np.concatenate([rows, sure_path("B|E")]), 50.0).text == "EB"


@pytest.mark.parametrize("nbest", [1, 5])
def test_an_utterance_that_ends_inside_a_word_says_so_and_has_the_score_of_flashlights_search(tmp_path, nbest):
    """It was told of as if the text were all that was heard. Both searches: the path with its piece, the model's
    probability of the finished words."""
    rows = np.full((4, 5), -np.inf)
    rows[range(4), [2, 3, 1, 2]] = 0.0  # AB|A, where no word is A
    settings = {"lm": write_arpa(tmp_path), "lexicon": ("AB", "BE"), "lm_weight": 0.7, "word_score": 0.3}
    ours, theirs = (kind(SYMBOLS, 0, **settings, nbest=nbest).decode("u", rows, 50.0)
                    for kind in (BatchedDecoder, LexiconDecoder))
    assert (ours.text, ours.unfinished) == (theirs.text, theirs.unfinished) == ("AB", True)
    assert [ours.score, ours.acoustic, ours.lm] == pytest.approx([theirs.score, theirs.acoustic, theirs.lm], abs=1e-4)
    assert ours.lm == pytest.approx(LN10 * log10_of(["AB"])[0], abs=1e-4)
    whole = BatchedDecoder(SYMBOLS, 0, **settings).decode("u", rows[:3], 50.0)
    assert (whole.text, whole.unfinished) == ("AB", False)


def test_texts_of_words_come_alone_and_those_that_lost_a_piece_come_once(tmp_path):
    logprobs = np.log([[.1, .2, .3, .2, .2], [.1, .2, .3, .2, .2]])
    decoder = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("AB", "BE"), nbest=50, **EVERYTHING)
    found = decoder.decode("u", logprobs, 50.0)
    assert {c.text for c in found.nbest} == {"", "AB", "BE"}
    assert not found.unfinished
    pieces = logprobs.copy()
    pieces[1] = [-np.inf, -np.inf, 0, -np.inf, -np.inf]  # _A or AA or |A: a piece of AB, whatever came before
    found = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("AB", "BE"), nbest=50).decode("u", pieces, 50.0)
    assert ([c.text for c in found.nbest], found.unfinished) == ([""], True)


@pytest.mark.parametrize("decoder", [BeamDecoder(SYMBOLS, 0, tokens_per_frame=2, token_min_logp=-0.1),
                                     BatchedDecoder(SYMBOLS, 0, token_min_logp=-0.1),
                                     BatchedDecoder(SYMBOLS, 0, token_min_logp=-0.1, tokens_per_frame=2)])
def test_the_likeliest_letter_of_a_frame_is_tried_however_unsure(decoder):
    """Here 0.6, where nothing under 0.9 is to be tried."""
    logprobs = np.log([[.1, .05, .6, .15, .1], [.1, .05, .15, .6, .1]])
    found = decoder.decode("u", logprobs, 50.0)
    assert (found.text, found.score) == ("AB", pytest.approx(2 * math.log(0.6), abs=1e-6))


def test_impossible_emissions_end_nothing(tmp_path):
    """A frame that only fits no word still lets the utterance end."""
    rows = np.full((3, 5), -np.inf)
    rows[:, 4] = 0.0
    assert BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("A",)).decode("u", rows, 50.0).text == ""


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"nbest": 0}, {"batch": 0}, {"tokens_per_frame": 0},
                                   {"lm_weight": -1.0}, {"lm_weight": math.nan}, {"word_score": math.inf},
                                   {"beam_threshold": 0.0}, {"blank_threshold": 0.0}, {"blank_threshold": 1.5},
                                   {"unknown_penalty": 1.0}, {"hotwords": (("A", math.inf),)}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        BatchedDecoder(SYMBOLS, 0, **wrong)


def test_what_cannot_be_decoded_with_is_refused(tmp_path):
    lm = write_arpa(tmp_path)
    with pytest.raises(InputError, match=r"lower case; build"):
        BatchedDecoder(("<pad>", "|", "a", "b", "e"), 0, lm).prepare()
    with pytest.raises(InputError, match="none of the words can be spelled"):
        BatchedDecoder(SYMBOLS, 0, lexicon=("xyz",)).prepare()
    with pytest.raises(UsageError, match="no such file"):
        BatchedDecoder(SYMBOLS, 0, tmp_path / "none.arpa").prepare()
    for number, name in ((np.nan, "NaN"), (np.inf, "infinity")):
        with pytest.raises(InputError, match=f"{name} in the emissions of u, first at frame 1"):
            BatchedDecoder(SYMBOLS, 0, lm).decode("u", [[0] * 5, [number] + [0] * 4], 50.0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hubertkit"


def test_arrays_that_can_be_kept_nowhere_are_one_line_that_names_the_way_out(tmp_path, monkeypatch):
    arpa = write_arpa(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"neither beside it nor in .*set XDG_CACHE_HOME to a folder"):
        BatchedDecoder(SYMBOLS, 0, arpa, beam=52).prepare()


def test_arrays_of_another_model_stay_as_they_are(tmp_path, cache):
    """`lm.ngrams` beside `lm.arpa` may be of another file, and somebody's only copy."""
    arpa = write_arpa(tmp_path)
    (tmp_path / "other").write_text(ARPA.replace("BE", "EB").replace("EE", "BE"))
    pack(tmp_path / "other", tmp_path / "small.ngrams")
    before = (tmp_path / "small.ngrams").read_bytes()
    assert BatchedDecoder(SYMBOLS, 0, arpa).decode("u", sure_path("BE"), 50.0).text == "BE"
    assert (tmp_path / "small.ngrams").read_bytes() == before
    assert [path.name.endswith("-small.ngrams") for path in cache.iterdir()] == [True]
    (tmp_path / "small.ngrams").write_text("notes of somebody's")
    assert BatchedDecoder(SYMBOLS, 0, arpa, beam=51).decode("u", sure_path("BE"), 50.0).text == "BE"
    assert (tmp_path / "small.ngrams").read_text() == "notes of somebody's"


def test_arrays_of_another_model_in_a_folder_that_cannot_be_written_do_no_harm(tmp_path, cache, monkeypatch):
    arpa = write_arpa(tmp_path)
    (tmp_path / "other").write_text(ARPA.replace("BE", "EB"))
    pack(tmp_path / "other", tmp_path / "small.ngrams")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert BatchedDecoder(SYMBOLS, 0, arpa).decode("u", sure_path("BE"), 50.0).text == "BE"
    assert len(list(cache.iterdir())) == 1


def test_arrays_of_the_same_model_in_a_folder_that_cannot_be_written_are_used(tmp_path, cache, monkeypatch):
    arpa = write_arpa(tmp_path)
    pack(arpa, tmp_path / "small.ngrams")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert BatchedDecoder(SYMBOLS, 0, arpa).decode("u", sure_path("BE"), 50.0).text == "BE"
    assert not cache.exists()


def test_arrays_of_the_same_model_by_an_older_version_are_made_anew(tmp_path, cache):
    arpa = write_arpa(tmp_path)
    pack(arpa, tmp_path / "small.ngrams")
    about, arrays = map_arrays(tmp_path / "small.ngrams")
    write_arrays(tmp_path / "small.ngrams", {**about, "version": 0}, {"words": arrays["words"]})
    assert BatchedDecoder(SYMBOLS, 0, arpa).decode("u", sure_path("BE"), 50.0).text == "BE"
    assert packed_from(tmp_path / "small.ngrams", about["arpa_sha256"])
    assert not cache.exists()


def test_a_model_built_anew_under_its_name_is_never_decoded_with_the_old_arrays(tmp_path, cache):
    """Not even where nothing but the bytes tells it from the old one: the size and the time are the same."""
    arpa = write_arpa(tmp_path)
    assert BatchedDecoder(SYMBOLS, 0, arpa).decode("u", sure_path("BE"), 50.0).text == "BE"
    old, before = arpa.stat(), text_scores(arpa)[1]
    arpa.write_text(ARPA.replace("BE", "EB"))
    os.utime(arpa, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (arpa.stat().st_size, arpa.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    another = BatchedDecoder(SYMBOLS, 0, arpa, beam=53)  # what a decoder has loaded it keeps
    assert another.decode("u", sure_path("EB"), 50.0).text == "EB"
    assert text_scores(tmp_path / "small.ngrams")[1] == before  # the old arrays stay, and are of no model that is there


@pytest.mark.parametrize(("change", "later", "warned"), [("EB", 1, True), ("BE", 1, False), ("EB", -1, False)])
def test_arrays_that_are_older_than_another_model_of_their_name_are_told_of(tmp_path, capsys, change, later, warned):
    arpa, arrays = write_arpa(tmp_path), tmp_path / "small.ngrams"
    pack(arpa, arrays)
    arpa.write_text(ARPA.replace("BE", change))
    os.utime(arpa, (arrays.stat().st_mtime + later,) * 2)
    assert BatchedDecoder(SYMBOLS, 0, arrays).decode("u", sure_path("BE"), 50.0).text == "BE"
    assert ("small.arpa, which is newer" in capsys.readouterr().err) == warned


def test_packed_arrays_are_known_by_their_first_bytes(tmp_path):
    pack(write_arpa(tmp_path), tmp_path / "packed.bin")
    assert BatchedDecoder(SYMBOLS, 0, tmp_path / "packed.bin").decode("u", sure_path("BE"), 50.0).text == "BE"
    assert read_model_words(tmp_path / "packed.bin") == read_model_words(tmp_path / "small.arpa")
    assert text_scores(tmp_path / "packed.bin")[1] == {"A", "B", "AB", "BE"}


def test_a_model_that_calls_the_unknown_word_in_capitals_is_the_same(tmp_path):
    (tmp_path / "capitals.arpa").write_text(ARPA.replace("<unk>", "<UNK>"))
    rows = random_logprobs(5, 3)
    found = [BatchedDecoder(SYMBOLS, 0, lm, lexicon=("A", "B", "AB", "BE", "EE"), nbest=9).decode("u", rows, 50.0)
             for lm in (write_arpa(tmp_path), tmp_path / "capitals.arpa")]
    assert found[0] == found[1]
    assert any(candidate.unknown for candidate in found[0].nbest)


def test_as_many_hypotheses_are_kept_as_the_beam_allows():
    ranks, owners = [np.array([1.0, 0.1, 0.01, 0.001])], [np.zeros(4, np.int64)]
    for beam in (1, 2, 3):
        [rows], best = _kept(ranks, owners, 1, Limits(beam, 20.0, True), NumpyBackend())
        assert (rows.tolist(), best.tolist()) == (list(range(beam)), [1.0])


def test_equal_hypotheses_all_stay_however_narrow_the_beam():
    ranks, owners = [np.array([1.0, 1.0, 1.0, 0.1])], [np.zeros(4, np.int64)]
    [rows], _ = _kept(ranks, owners, 1, Limits(2, 20.0, True), NumpyBackend())
    assert rows.tolist() == [0, 1, 2]


def test_a_letter_ranks_as_the_best_word_that_it_can_begin(tmp_path):
    """B is heard better than A and E better than B, but AB is ten times as probable as BE: one hypothesis is enough."""
    logprobs = np.log([[.02, .02, .4, .5, .06], [.02, .02, .06, .4, .5]])
    lm = write_arpa(tmp_path)
    wide, narrow = (BatchedDecoder(SYMBOLS, 0, lm, ("AB", "BE"), lm_weight=2.0, beam=beam) for beam in (50, 1))
    assert wide.decode("u", logprobs, 50.0).text == "AB"
    assert narrow.decode("u", logprobs, 50.0).text == "AB"


def test_a_large_alphabet_has_fewer_utterances_in_step(monkeypatch):
    """With 4,300 signs a batch of 256 utterances of 5 s took 11 GB in each process. Texts do not depend on groups."""
    utterances, _, symbols = read_slice()
    ids, rows = list(utterances), list(utterances.values())
    decoder = BatchedDecoder(symbols, 0, nbest=3)
    whole, searched, frames_of = decoder.decode_batch(ids, rows, 50.0), [], batched.frames_of
    monkeypatch.setattr(batched, "_MOST_VALUES", 1000 * len(symbols))
    monkeypatch.setattr(batched, "frames_of", lambda group, *rest: (
        searched.append(sum(map(len, group))), frames_of(group, *rest))[1])
    assert decoder.decode_batch(ids, rows, 50.0) == whole
    assert len(searched) > 1
    assert sum(searched) == sum(map(len, rows))
    assert all(frames <= max(1000, *map(len, rows)) for frames in searched)


def test_groups_by_hand():
    assert list(batched._groups([3, 9, 4, 0], batched._MOST_VALUES // 8, 256)) == [[1], [2, 0, 3]]
    assert list(batched._groups([3, 9, 4], 1, 2)) == [[1, 2], [0]]
    assert list(batched._groups([], 1, 2)) == []


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("settings", [{}, {"words": True}, {"words": True, "unknown_penalty": -3.0}])
def test_the_tree_of_a_large_alphabet_finds_what_the_table_finds(monkeypatch, device, settings):
    """A table of 4,300 signs for each of a hundred thousand nodes took 1.7 GB."""
    utterances, references, symbols = read_slice()
    words = tuple(sorted({word for text in references.values() for word in text.split()})) if settings else None
    decoder = BatchedDecoder(symbols, 0, lexicon=words, unknown_penalty=settings.get("unknown_penalty"), nbest=3,
                             device=device)
    found = []
    for dense in (512, 0):
        batched._graph.cache_clear()
        batched._trie.cache_clear()
        monkeypatch.setattr(lexicon_trie, "_DENSE_COLUMNS", dense)
        found.append(decoder.decode_batch(list(utterances), list(utterances.values()), 50.0))
        assert (batched._graph(decoder)[0].edges is None) == (dense > 0)
    batched._graph.cache_clear()
    batched._trie.cache_clear()
    assert found[0] == found[1]
