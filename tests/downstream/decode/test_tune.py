"""Tuning finds what a full search of decodes finds, stays within its bounds, and keeps off the final set."""

import math
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from posteriors import read_slice
from small_arpa import ARPA, write_arpa

from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import name_of
from downstream.decode.hypothesis import Candidate, Hypothesis
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.nbest_lists import NBestLists, Point, grid
from downstream.decode.nbest_lists import best as best_point
from downstream.decode.pool import decode_all
from downstream.decode.tune import Search, _unknown_penalty, evenly, tune
from downstream.decode.tune_plot import nearest, plot_tuning
from downstream.emissions import Emissions, EmissionsWriter
from downstream.score.intervals import bootstrap_interval
from downstream.score.rates import score
from upstream.errors import InputError, UsageError

SYMBOLS = ("<pad>", "|", "A", "B", "E")
TEXTS = {"u0": "A B", "u1": "A B", "u2": "AB", "u3": "A", "u4": "A B AB", "u5": "B"}


def noisy(text: str, seed: int) -> np.ndarray:
    """A frame for each character with a blank after it, and enough noise that many are wrong."""
    rng = np.random.default_rng(seed)
    columns = [c for character in text for c in (SYMBOLS.index("|" if character == " " else character), 0)]
    logits = rng.normal(size=(len(columns), 5)) * 1.5
    logits[range(len(columns)), columns] += 2.5
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def write(folder, meta=None):
    with EmissionsWriter(folder, SYMBOLS, 0, 50.0, meta if meta is not None else {"manifest_hash": "dev"}) as writer:
        for i, (id, text) in enumerate(TEXTS.items()):
            writer.add(id, noisy(text, i))
    return Emissions.load(folder)


@pytest.fixture
def emissions(tmp_path):
    return write(tmp_path / "emissions")


@pytest.fixture
def decoder(tmp_path):
    return BeamDecoder(SYMBOLS, 0, write_arpa(tmp_path), beam=30)


@pytest.fixture(params=["beam", "lexicon", "batched"])
def any_decoder(request, tmp_path):
    kind = {"beam": BeamDecoder, "lexicon": LexiconDecoder, "batched": BatchedDecoder}[request.param]
    return kind(SYMBOLS, 0, write_arpa(tmp_path), beam=30)


def test_it_finds_the_best_of_a_full_search(emissions, any_decoder):
    decoder = any_decoder
    search = Search(lm_weights=(0.0, 1.0), word_scores=(-2.0, 2.0), coarse=(0.5, 1.0), fine=(0.25, 0.5))
    found = tune(emissions, TEXTS, decoder, search, workers=1)

    def wer(lm_weight, word_score):
        weighed = replace(decoder, lm_weight=lm_weight, word_score=word_score, nbest=search.nbest)
        hypotheses = decode_all(emissions, weighed, workers=1)
        return score(TEXTS, {h.id: h.text for h in hypotheses}).wer

    assert found.wer == wer(found.lm_weight, found.word_score)
    assert found.wer == min(wer(w, s) for w in np.arange(0, 1.1, 0.25) for s in np.arange(-2, 2.1, 0.5))
    assert found.wer < wer(0.0, 0.0) or not isinstance(decoder, BeamDecoder)  # the model helps where any word may be
    assert found.decoder == name_of(decoder).value
    for point in found.surface:
        if point.decoded:
            assert point.wer == wer(point.lm_weight, point.word_score)


def test_rescored_lists_say_what_decoding_says(emissions, decoder):
    """With lists as long as there are texts, rescoring is decoding: every rescored point has its decoded rate."""
    search = Search(lm_weights=(0.0, 1.0), word_scores=(-1.0, 1.0), coarse=(0.5, 1.0), fine=(0.25, 0.5), nbest=2000)
    wide = replace(decoder, beam=2000, beam_prune_logp=-60.0, token_min_logp=-20.0)
    found = tune(emissions, TEXTS, wide, replace(search, seconds=0.21), workers=1)
    chosen = {id: TEXTS[id] for id in evenly(emissions, 0.21)}
    assert found.utterances == len(chosen) < len(TEXTS)
    for point in found.surface:
        hypotheses = decode_all(emissions, replace(wide, lm_weight=point.lm_weight, word_score=point.word_score),
                                list(chosen), workers=1)
        assert score(chosen, {h.id: h.text for h in hypotheses}).wer == point.wer


def test_rescored_lists_say_what_decoding_says_over_a_lexicon(emissions, tmp_path):
    """With words that the model does not know, in flashlight's search and in ours, closed and open."""
    search = Search(lm_weights=(0.0, 1.0), word_scores=(-1.0, 1.0), coarse=(0.5, 1.0), fine=(0.5, 1.0), nbest=5000,
                    decodes=2)
    lm, words, wide = write_arpa(tmp_path), ("A", "B", "AB", "EBB"), {"beam": 5000, "beam_threshold": 500.0}
    for decoder in (LexiconDecoder(SYMBOLS, 0, lm, words, **wide),
                    BatchedDecoder(SYMBOLS, 0, lm, words, **wide, token_min_logp=-50.0, blank_threshold=1.0),
                    BatchedDecoder(SYMBOLS, 0, lm, words, **wide, unknown_penalty=-2.0, blank_threshold=1.0)):
        found = tune(emissions, TEXTS, decoder, replace(search, seconds=0.21), workers=1)
        chosen = {id: TEXTS[id] for id in evenly(emissions, 0.21)}
        for point in found.surface:
            weighed = replace(decoder, lm_weight=point.lm_weight, word_score=point.word_score, nbest=5000)
            hypotheses = decode_all(emissions, weighed, list(chosen), workers=1)
            assert score(chosen, {h.id: h.text for h in hypotheses}).wer == point.wer


def test_a_hundred_settings_cost_less_than_ten_decodes(emissions, decoder):
    found = tune(emissions, TEXTS, decoder, workers=1)
    decoded = sum(point.decoded for point in found.surface)
    assert decoded < 10
    assert len({(point.lm_weight, point.word_score) for point in found.surface}) > 100


def test_the_interval_is_that_of_the_chosen_decode(emissions, any_decoder):
    found = tune(emissions, TEXTS, any_decoder, workers=1)
    weighed = replace(any_decoder, lm_weight=found.lm_weight, word_score=found.word_score, nbest=Search.nbest)
    counts = score(TEXTS, {h.id: h.text for h in decode_all(emissions, weighed, workers=1)}).per_utterance
    wanted = bootstrap_interval(counts.errors, counts.words)
    assert found.wer_interval == (wanted.low, wanted.high)
    assert found.wer_interval[0] <= found.wer <= found.wer_interval[1]


def test_the_beam_with_the_fewest_errors_is_chosen_and_the_smaller_of_equals(emissions, any_decoder):
    seen = []
    found = tune(emissions, TEXTS, any_decoder, Search(decodes=2), beams=(40, 1, 20), workers=1,
                 progress=lambda *done: seen.append(done))
    assert [point.beam for point in found.beams] == [1, 20, 40]
    assert all(point.audio_seconds_per_second > 0 and point.processes == 1 for point in found.beams)
    for point in found.beams:
        weighed = replace(any_decoder, lm_weight=found.lm_weight, word_score=found.word_score, beam=point.beam)
        hypotheses = decode_all(emissions, weighed, workers=1)
        assert score(TEXTS, {h.id: h.text for h in hypotheses}).wer == point.wer
    assert (found.wer, found.beam) == min((point.wer, point.beam) for point in found.beams)
    assert found.beam > 1 or not isinstance(any_decoder, LexiconDecoder)  # for it, a beam of 1 is too narrow
    assert seen[-1] == (30, 30)  # 2 pairs of weights and 3 beams
    with pytest.raises(UsageError, match="beams 5, 0"):
        tune(emissions, TEXTS, any_decoder, beams=(5, 0))


@pytest.mark.parametrize(("words", "part"), [(("A", "AB"), ["u2", "u3"]), (("A", "B"), ["u2"])])
def test_coverage_is_of_all_references_though_a_part_is_tuned_on(emissions, tmp_path, monkeypatch, words, part):
    """A self-training looked at all of dev first, and tuning at its part hours later: one refused what the other
    passed."""
    monkeypatch.setattr("downstream.decode.tune.evenly", lambda emissions, seconds: part)
    decoder = LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), words, beam=5)
    if "B" in words:
        assert tune(emissions, TEXTS, decoder, Search(decodes=3), workers=1).coverage == 0.8
    else:
        with pytest.raises(InputError, match=r"60% of the 10 words of the references, not 'B'"):
            tune(emissions, TEXTS, decoder, workers=1)


def test_words_that_a_lexicon_lacks_are_missed(emissions, tmp_path):
    with pytest.raises(InputError, match=r"60% of the 10 words of the references, not 'B'"):
        tune(emissions, TEXTS, LexiconDecoder(SYMBOLS, 0, write_arpa(tmp_path), ("A", "AB")), workers=1)
    packed = BatchedDecoder(SYMBOLS, 0, write_arpa(tmp_path))
    packed.prepare()
    assert tune(emissions, TEXTS, replace(packed, lm=tmp_path / "small.ngrams"), workers=1).coverage == 1.0


def test_the_picture_is_a_png_and_shows_the_nearest_point(emissions, decoder, tmp_path):
    for number, beams in enumerate([(), (5, 10)]):
        plot_tuning(tune(emissions, TEXTS, decoder, Search(decodes=2), beams=beams, workers=1), tmp_path / "a.png")
        content = (tmp_path / "a.png").read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width = int.from_bytes(content[16:20], "big")
        assert width == pytest.approx(816 * (number + 1), abs=2)
    one = Search(lm_weights=(0.5, 0.5), word_scores=(0.0, 0.0), starts=((0.5, 0.0),), decodes=1)
    plot_tuning(tune(emissions, TEXTS, decoder, one, workers=1), tmp_path / "b.png")
    points = (Point(0.0, 0.0, 7.0, False), Point(1.0, 0.0, 8.0, False), Point(1.0, 10.0, 9.0, False))
    np.testing.assert_array_equal(nearest(points, np.array([0.1, 0.6, 0.9]), np.array([0.0, 9.0])),
                                  [[7, 8, 8], [7, 9, 9]])


def test_what_it_was_found_on_is_recorded(emissions, decoder):
    found = tune(emissions, TEXTS, decoder, workers=1)
    assert (found.utterances, found.utterances_given, found.coverage) == (6, 6, 1.0)
    assert found.seconds == sum(2 * len(text) for text in TEXTS.values()) / 50
    assert (found.emissions_hash, found.manifest_hash) == (emissions.hash, "dev")
    assert (found.lm_weight, found.word_score) in {(p.lm_weight, p.word_score) for p in found.surface if p.decoded}


def test_decodes_are_bounded_and_progress_tells_of_them(emissions, decoder):
    seen = []
    found = tune(emissions, TEXTS, decoder, Search(decodes=2), workers=1, progress=lambda *done: seen.append(done))
    assert sum(p.decoded for p in found.surface) == 2
    assert seen == [(i, 12) for i in range(1, 13)]


def test_processes_change_nothing(emissions, decoder):
    assert tune(emissions, TEXTS, decoder, workers=2) == tune(emissions, TEXTS, decoder, workers=1)


def test_a_best_on_the_edge_is_said(emissions, decoder):
    one_place = Search(lm_weights=(0.5, 0.5), word_scores=(-5.0, 5.0), starts=((0.5, 0.0),), decodes=1)
    assert tune(emissions, TEXTS, decoder, one_place, workers=1).on_edge == ("lm_weight",)


def test_no_weight_is_no_edge(emissions, decoder):
    """Below 0 there is nothing to look for; tuning asked for a search beyond it."""
    no_model = Search(lm_weights=(0.0, 0.0), word_scores=(0.0, 5.0), starts=((0.0, 0.0),), decodes=1)
    assert tune(emissions, TEXTS, decoder, no_model, workers=1).on_edge == ("word_score",)


def test_the_set_of_the_final_score_is_refused(emissions, decoder, tmp_path):
    with pytest.raises(InputError, match="tune on another set"):
        tune(emissions, TEXTS, decoder, forbidden_manifest_hash="dev")
    with pytest.raises(InputError, match="do not say which manifest"):
        tune(write(tmp_path / "unknown", meta={}), TEXTS, decoder, forbidden_manifest_hash="test")
    with pytest.raises(InputError, match="2 of 6 utterances, u1 the first, are of the set that the final score"):
        tune(emissions, TEXTS, decoder, forbidden_manifest_hash="test", forbidden_ids=("u4", "x", "u1"))
    assert tune(emissions, TEXTS, decoder, forbidden_manifest_hash="test", workers=1).manifest_hash == "dev"


@pytest.mark.parametrize(("references", "words"), [
    ({k: v for k, v in TEXTS.items() if k != "u3"}, r"^u3: no reference"),
    (dict.fromkeys(TEXTS, ""), "are empty"),
    (dict.fromkeys(TEXTS, "XYZ"), "has 0% of the 6 words"),
])
def test_references_that_do_not_serve_are_refused(emissions, decoder, references, words):
    with pytest.raises(InputError, match=words):
        tune(emissions, references, decoder, workers=1)


def test_without_a_language_model_there_is_nothing_to_tune(emissions):
    with pytest.raises(UsageError, match=r"give one as lm \(--lm\)$"):
        tune(emissions, TEXTS, BeamDecoder(SYMBOLS, 0))


@pytest.mark.parametrize("settings", [{"lm_weights": (1.0, 0.0)}, {"lm_weights": (-1.0, 0.0)}, {"seconds": 0.0},
                                      {"seconds": math.nan}, {"seconds": math.inf},
                                      {"nbest": 1}, {"decodes": 1}, {"starts": ()}, {"coarse": (0.0, 1.0)}])
def test_searches_that_cannot_be_are_refused(settings):
    with pytest.raises(UsageError):
        Search(**settings)


def test_a_search_for_weak_recognisers_tries_higher_word_scores_from_three_starts():
    weak, usual = Search.for_weak(decodes=3, seconds=60.0), Search()
    assert weak.word_scores[1] > usual.word_scores[1]
    assert (len(weak.starts), weak.decodes, weak.seconds) == (3, 3, 60.0)
    assert all(low <= start[1] <= high for start in weak.starts for low, high in [weak.word_scores])
    with pytest.raises(UsageError, match="number of starts, 3"):
        Search.for_weak(decodes=2, seconds=60.0)


def test_thinning_out_keeps_the_spread_of_lengths(tmp_path):
    utterances, _, symbols = read_slice()
    with EmissionsWriter(tmp_path, symbols, 0, 50.0) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    emissions = Emissions.load(tmp_path)
    assert evenly(emissions, 1000) == emissions.ids
    chosen = evenly(emissions, 16.09)  # half of the seconds
    assert chosen == [id for id in emissions.ids if id in chosen]
    lengths = sorted(emissions.frames(id) for id in emissions.ids)
    ranks = sorted(lengths.index(emissions.frames(id)) for id in chosen)
    assert ranks == [1, 3, 5, 7, 9]
    assert len(evenly(emissions, 0.001)) == 1
    assert math.isclose(sum(emissions.seconds(id) for id in chosen), 16.09, rel_tol=0.1)


def test_references_without_spaces_are_tuned_on_by_characters(emissions, any_decoder):
    """A language model of segmented text and unsegmented references: the model was said to have none of the words."""
    unspaced = {id: text.replace(" ", "") for id, text in TEXTS.items()}
    found = tune(emissions, unspaced, any_decoder, Search(decodes=3), unit="character", workers=1)
    weighed = replace(any_decoder, lm_weight=found.lm_weight, word_score=found.word_score, nbest=Search.nbest)
    hypotheses = {h.id: h.text for h in decode_all(emissions, weighed, workers=1)}
    assert found.wer == score(unspaced, hypotheses, "character").cer
    assert (found.unit, found.coverage) == ("character", 1.0)


def test_references_with_letters_apart_from_their_accents_have_the_words_of_the_model(tmp_path):
    """The model was said to have a third of the words of references in NFD, which macOS and Korean texts often are."""
    symbols = tuple(s.replace("E", "\u00c9").replace("B", "\u00d6") for s in SYMBOLS)
    with EmissionsWriter(tmp_path / "e", symbols, 0, 50.0) as writer:
        for i, (id, text) in enumerate(TEXTS.items()):
            writer.add(id, noisy(text, i))
    (tmp_path / "lm.arpa").write_text(ARPA.replace("B", "\u00d6").replace("E\t", "\u00c9\t"), encoding="utf-8")
    composed = {id: text.replace("B", "\u00d6") for id, text in TEXTS.items()}
    apart = {id: unicodedata.normalize("NFD", text) for id, text in composed.items()}
    decoder = BatchedDecoder(symbols, 0, tmp_path / "lm.arpa", beam=30)
    emissions, search = Emissions.load(tmp_path / "e"), Search(decodes=2)
    assert tune(emissions, apart, decoder, search, workers=1) == tune(emissions, composed, decoder, search, workers=1)


def test_of_equal_points_the_smaller_weight_and_then_the_score_nearer_to_nothing_is_best():
    points = [Point(w, s, 5.0, True) for w in (1.0, 0.5) for s in (2.0, -1.0, 1.0)]
    found = best_point([*points, Point(0.1, 0.0, 6.0, True)])
    assert (found.lm_weight, found.word_score) == (0.5, -1.0)
    lower = best_point([*points, Point(0.5, -4.0, 5.0, True)])  # further from 0, though less
    assert (lower.lm_weight, lower.word_score) == (0.5, -1.0)


@pytest.mark.parametrize(("ends", "step", "values"), [
    ((0.0, 1.0), 0.3, [0, 0.3, 0.6, 0.9, 1]), ((0.0, 0.3), 0.1, [0, 0.1, 0.2, 0.3]), ((0.5, 0.5), 1.0, [0.5]),
    ((-1.0, 0.1), 0.55, [-1, -0.45, 0.1])])
def test_a_grid_has_both_ends_each_once(ends, step, values):
    assert grid(ends, step).tolist() == values


@pytest.mark.parametrize(("kind", "values"), [
    (BeamDecoder, {"beam": 500, "beam_prune_logp": -60.0}), (BatchedDecoder, {"unknown_penalty": -2.0}),
    (LexiconDecoder, {"lexicon": ("A", "B", "EE", "E")})])
def test_scores_of_lists_are_made_of_what_tuning_weighs(tmp_path, kind, values):
    """By every decoder, of texts with words that the model does not know."""
    decoder = kind(SYMBOLS, 0, write_arpa(tmp_path), lm_weight=0.7, word_score=-0.4, nbest=200, **values)
    found = decoder.decode("u", noisy("A EE B", 0), 50.0).nbest
    assert any(c.unknown for c in found)
    for c in found:
        lm = c.lm + _unknown_penalty(decoder) * c.unknown
        assert c.score == pytest.approx(c.acoustic + 0.7 * lm - 0.4 * c.word_count, abs=1e-3)


def test_unknown_words_are_counted_in_lists_by_hand():
    """A X: -1 - 3 - 2 for one unknown word; A: -2.5 - 3. With the 2 off both, or off none, A X would win."""
    lists = NBestLists({"u": "A"}, -2.0)
    lists.add([Hypothesis("u", "A X", 0.0, -1.0, nbest=(Candidate("A X", 0.0, -1.0, -3.0, 1),
                                                        Candidate("A", 0.0, -2.5, -3.0, 0)))])
    assert {p.wer for p in lists.search((1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0))} == {0.0}
    assert {p.wer for p in lists.search((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0))} == {100.0}


def test_of_two_decodes_the_one_that_has_seen_more_alignments_counts():
    lists = NBestLists({"u": "A"}, 0.0)
    for right, wrong in ((-1.0, -3.0), (-9.0, -2.0)):  # the second beam lost most of the alignments of A
        lists.add([Hypothesis("u", "A", 0.0, right, nbest=(Candidate("A", 0.0, right, 0.0, 0),
                                                           Candidate("B", 0.0, wrong, 0.0, 0)))])
    assert {p.wer for p in lists.search((0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0))} == {0.0}
