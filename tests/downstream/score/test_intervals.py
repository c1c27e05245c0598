"""Bootstrap intervals: enumeration by hand, the property that matters, clusters, keys, chunks and speed."""

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.score.intervals import bootstrap_interval, cluster_totals, resampled_rates
from downstream.score.significance import paired_difference
from upstream.errors import InputError
from upstream.keyed import keyed

utterances = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=30)


def test_two_utterances_by_hand():
    """Of two utterances (1 error, 2 words) and (0, 2) the draws are aa, ab, ba, bb: 50, 25, 25 and 0 %, each 1/4."""
    rates = resampled_rates(np.array([[1], [0]]), np.array([2, 2]), seed=0, resamples=10_000)
    values, counts = np.unique(rates, return_counts=True)
    assert values.tolist() == [0.0, 25.0, 50.0]
    np.testing.assert_allclose(counts / 10_000, [0.25, 0.5, 0.25], atol=0.02)
    interval = bootstrap_interval(np.array([1, 0]), np.array([2, 2]))
    assert (interval.low, interval.high, interval.level) == (0.0, 50.0, 0.95)


def test_the_interval_is_that_of_all_possible_draws():
    """Four utterances have 4 ** 4 draws, few enough to list: their quantiles are the limit of the bootstrap's."""
    errors, words = np.array([3, 0, 1, 5]), np.array([7, 4, 9, 6])
    draws = [list(draw) for draw in itertools.product(range(4), repeat=4)]
    exact = np.sort([100 * errors[d].sum() / words[d].sum() for d in draws])
    found = bootstrap_interval(errors, words, resamples=100_000, level=0.8)
    # 10 % of 256 draws lie below the 26th, and neighbours are close
    assert exact[23] <= found.low <= exact[28]
    assert exact[-29] <= found.high <= exact[-24]


@settings(max_examples=60, deadline=None)
@given(utterances, st.integers(0, 3))
def test_the_interval_contains_the_rate(counts, seed):
    errors, words = np.array(counts).T
    interval = bootstrap_interval(errors, words, seed=seed, resamples=1000)
    rate = 100 * errors.sum() / words.sum()
    assert interval.low - 1e-9 <= rate <= interval.high + 1e-9


@given(utterances)
def test_a_higher_level_widens_the_interval(counts):
    errors, words = np.array(counts).T
    narrow, wide = (bootstrap_interval(errors, words, resamples=200, level=level) for level in (0.5, 0.95))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_it_covers_the_truth_about_as_often_as_it_says():
    """200 sets of 100 utterances whose true rate is 30 %: 180 intervals of 90 % hold it, give or take 3 deviations."""
    rng = np.random.default_rng(7)
    held = 0
    for i in range(200):
        words = rng.integers(5, 20, size=100)
        interval = bootstrap_interval(rng.binomial(words, 0.3), words, seed=i, resamples=500, level=0.9)
        held += interval.low <= 30 <= interval.high
    assert 180 - 3 * 4.3 <= held <= 180 + 3 * 4.3


def test_speakers_are_drawn_whole():
    """Two speakers, all wrong and all right: 100 drawn singly say 40 to 60 %, drawn whole nothing is sure."""
    errors, words, speakers = np.repeat([10, 0], 50), np.full(100, 10), ["ann"] * 50 + ["bob"] * 50
    singly, whole = bootstrap_interval(errors, words), bootstrap_interval(errors, words, groups=speakers)
    assert singly.low == pytest.approx(40, abs=1.5)
    assert singly.high == pytest.approx(60, abs=1.5)
    assert (whole.low, whole.high) == (0, 100)
    assert cluster_totals(errors, words, speakers).tolist() == [[500, 500], [0, 500]]


def test_a_group_for_each_utterance_is_no_grouping():
    errors, words = np.array([3, 0, 1, 5]), np.array([7, 4, 9, 6])
    assert bootstrap_interval(errors, words, groups=list("abcd")) == bootstrap_interval(errors, words)


def test_chunks_change_nothing():
    errors, words = np.arange(30)[:, None] % 4, np.arange(30) % 7
    whole = resampled_rates(errors, words, 0, 500, chunk=1 << 20)
    np.testing.assert_array_equal(resampled_rates(errors, words, 0, 500, chunk=77), whole)


def test_the_seed_is_the_draw():
    errors, words = np.arange(40) % 5, np.arange(40) % 9 + 1
    assert bootstrap_interval(errors, words, seed=1) == bootstrap_interval(errors, words, seed=1)
    assert bootstrap_interval(errors, words, seed=1) != bootstrap_interval(errors, words, seed=2)


def test_draws_without_words_are_left_out():
    rates = resampled_rates(np.array([[2], [1]]), np.array([0, 4]), 0, 1000)
    assert 700 < len(rates) < 800  # a quarter of the draws is the empty reference twice
    assert np.isfinite(rates).all()


@pytest.mark.parametrize("kind", [torch.tensor, np.array, lambda groups: list(torch.tensor(groups))])
def test_numbers_of_groups_may_be_tensors(kind):
    """Each element of a tensor was a group of its own, and the interval that of single utterances."""
    errors, words, groups = np.arange(4), np.full(4, 5), [7, 7, 2, 7]
    np.testing.assert_array_equal(cluster_totals(errors, words, kind(groups)), cluster_totals(errors, words, groups))


@pytest.mark.parametrize(("errors", "words", "groups"), [
    ([1], [1, 2], None), ([], [], None), ([1, 2], [0, 0], None), ([1, 2], [3, 4], ["a"])])
def test_counts_that_do_not_fit_are_refused(errors, words, groups):
    with pytest.raises(InputError):
        bootstrap_interval(np.array(errors), np.array(words), groups=groups)


@pytest.mark.parametrize("level", [95, 1, 0, -0.5, np.nan])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(InputError, match=f"level {level} of an interval"):
        bootstrap_interval(np.array([1]), np.array([2]), level=level)


def test_what_is_not_given_is_seed_0_ten_thousand_resamples_and_95_percent():
    errors, words = np.arange(40) % 5, np.arange(40) % 9 + 1
    given = bootstrap_interval(errors, words, seed=0, resamples=10_000, level=0.95)
    assert bootstrap_interval(errors, words) == given
    assert bootstrap_interval(errors, words, resamples=5000) != given
    difference = paired_difference(errors, errors[::-1], words)
    assert difference == paired_difference(errors, errors[::-1], words, seed=0, resamples=10_000, level=0.95)
    assert difference.interval != paired_difference(errors, errors[::-1], words, level=0.9).interval


def test_an_interval_says_how_many_utterances_or_speakers_were_drawn_from():
    """Of one speaker, or one utterance, nothing is said of others."""
    errors, words = np.array([3, 0, 1]), np.array([7, 4, 9])
    every, speakers = (bootstrap_interval(errors, words, groups=groups) for groups in (None, ["a", "b", "a"]))
    assert (every.clusters, speakers.clusters) == (3, 2)
    assert speakers.ends == (speakers.low, speakers.high) == (0, 25)  # b has no error, a 4 in 16 words
    alone = bootstrap_interval(errors[:1], words[:1])
    assert (alone.clusters, alone.ends, alone.rounded) == (1, None, [42.857, 42.857])


def test_ten_thousand_resamples_of_250_utterances_take_under_a_second():
    errors, words = np.arange(250) % 5, np.arange(250) % 30
    began = time.process_time()
    bootstrap_interval(errors, words)
    assert time.process_time() - began < 1


def test_one_speaker_has_no_interval_by_speakers():
    with pytest.raises(InputError, match=r"3 utterances are of one group, ann;.*\(leave out groups, --by speaker\)"):
        bootstrap_interval(np.array([1, 0, 2]), np.array([5, 5, 5]), groups=["ann"] * 3)


def test_the_interval_of_a_single_utterance_is_its_rate():
    interval = bootstrap_interval(np.array([1]), np.array([4]))
    assert (interval.low, interval.high) == (25, 25)


@pytest.mark.parametrize(("given", "says"), [
    ({"resamples": 0}, "resamples=0: must be a whole number, 1 or more"), ({"resamples": -1}, "resamples=-1: must"),
    ({"resamples": 2.5}, r"resamples=2\.5: must"), ({"errors": [np.nan, 0, 2]}, "errors of utterances must be counts"),
    ({"errors": [-1, 0, 2]}, r"errors of utterances must be counts, 0 or more; found \[.*-1, 0"),
    ({"errors": ["a", "b", "c"]}, "errors of utterances must"), ({"errors": None}, "errors of utterances must"),
    ({"words": [4, np.inf, 1]}, "words of utterances must be counts")])
def test_what_is_no_count_is_refused(given, says):
    """No resamples ended with an IndexError; NaN among the errors gave an interval from nan to nan."""
    with pytest.raises(InputError, match=f"^{says}"):
        bootstrap_interval(**{"errors": [1, 0, 2], "words": [4, 3, 3], **given})
    if "words" not in given:
        other = {name: given.get(name, value) for name, value in {"errors": [1, 0, 2], "resamples": 9}.items()}
        with pytest.raises(InputError, match=f"^{says}|utterances; a paired test needs the same"):
            paired_difference(other["errors"], [0, 0, 0], [4, 3, 3], resamples=other["resamples"])


def test_too_few_draws_to_hold_a_word_are_told():
    seed = next(seed for seed in range(99) if keyed(seed, "bootstrap", 9, 1).integers(9, size=(1, 9)).all())
    with pytest.raises(InputError, match="no draw held a word; give more resamples"):
        bootstrap_interval([1, *[0] * 8], [1, *[0] * 8], resamples=1, seed=seed)
