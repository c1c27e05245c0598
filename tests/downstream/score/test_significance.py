"""The paired bootstrap: worked examples, symmetry, its false alarms, and systems that sclite's tests tell apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rates import read_trn

from downstream.score.compare import compare
from downstream.score.rates import score
from downstream.score.significance import paired_bootstrap
from upstream.errors import InputError, UsageError


def test_two_utterances_by_hand():
    """Differences of utterances -2 and 0 in 4 words each: draws -50, -25, -25, 0 points with 1/4 each.

    A quarter of the draws is at or above zero, all are at or below: p = 2 * 1/4.
    """
    difference = paired_bootstrap(np.array([0, 1]), np.array([2, 1]), np.array([4, 4]))
    assert difference.points == -25.0
    assert (difference.interval.low, difference.interval.high) == (-50.0, 0.0)
    assert difference.p_value == pytest.approx(0.5, abs=0.03)


def test_the_same_errors_everywhere_are_no_difference():
    errors, words = np.array([1, 0, 3]), np.array([5, 5, 5])
    difference = paired_bootstrap(errors, errors, words)
    assert (difference.points, difference.interval.low, difference.interval.high, difference.p_value) == (0, 0, 0, 1)


def test_a_system_that_is_better_everywhere_is_better_for_sure():
    difference = paired_bootstrap(np.zeros(50), np.ones(50), np.full(50, 10), resamples=1000)
    assert (difference.points, difference.interval.high) == (-10, -10)
    assert difference.p_value == pytest.approx(2 / 1001)  # the least that 1000 draws can say


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 8)), min_size=1, max_size=20))
def test_the_other_way_round_is_the_negative(counts):
    first, second, words = np.array(counts).T
    there, back = (paired_bootstrap(*pair, words, resamples=400) for pair in ((first, second), (second, first)))
    assert there.points == -back.points
    assert there.p_value == back.p_value
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert there.interval.low - 1e-9 <= there.points <= there.interval.high + 1e-9


def test_equal_systems_are_called_different_as_rarely_as_promised():
    """300 pairs of systems with the same true rate: p < 0.05 in about 15, and not in more than 30."""
    rng = np.random.default_rng(3)
    words = rng.integers(5, 20, size=80)
    alarms = sum(paired_bootstrap(rng.binomial(words, 0.3), rng.binomial(words, 0.3), words, seed=i,
                                  resamples=400).p_value < 0.05 for i in range(300))
    assert 3 <= alarms <= 30


def test_systems_of_the_reference_set_are_told_apart():
    """WER 10.2, 13.0 and 30.5 %: sclite's matched pairs test calls each pair different, and so does this."""
    references = read_trn("ref.trn")
    counts = {s: score(references, read_trn(f"{s}.trn")).per_utterance for s in ("sysa", "sysb", "sysc")}
    speakers = [id.split("-")[0] for id in references]
    pairs = (("sysa", "sysb", 291 - 368), ("sysa", "sysc", 291 - 867), ("sysb", "sysc", 368 - 867))
    for first, second, points in pairs:
        one, two = counts[first], counts[second]
        difference = paired_bootstrap(one.errors, two.errors, one.words)
        assert difference.points == pytest.approx(100 * points / 2841)
        assert difference.p_value < 0.01
        assert difference.interval.high < 0
        by_speaker = paired_bootstrap(one.errors, two.errors, one.words, groups=speakers)
        assert by_speaker.points == pytest.approx(difference.points)
        assert by_speaker.interval != difference.interval


def test_other_utterances_are_refused():
    with pytest.raises(InputError, match="3 and 2 utterances"):
        paired_bootstrap(np.zeros(3), np.zeros(2), np.ones(3))


def test_few_groups_that_all_agree_are_as_sure_as_a_sign_test():
    """Four speakers, each with fewer errors by the first system: of 16 ways to toss, two agree so. 2 / 16 = .125."""
    speakers = np.repeat(list("abcd"), 10)
    difference = paired_bootstrap(np.zeros(40), np.ones(40), np.full(40, 10), groups=speakers.tolist())
    assert difference.p_value == 0.125
    assert paired_bootstrap(np.zeros(1), np.ones(1), np.full(1, 10)).p_value == 1
    with pytest.raises(InputError, match="of one group"):
        paired_bootstrap(np.zeros(40), np.ones(40), np.full(40, 10), groups=["a"] * 40)


def test_characters_are_compared_by_characters():
    """Two characters of 20 against none: 10 points."""
    references = {"a": "ABCDE FGHIJKLMN", "b": "ABCDE"}
    found = compare(references, {**references, "a": "ABCDE FGHIJKLMX", "b": "ABCDX"}, references, "cer", 0)
    assert found["difference"] == 10.0
    assert compare(references, {**references, "b": "ABCDX"}, references, "wer", 0)["difference"] == 33.333


def test_a_rate_that_is_none_is_refused():
    """`WER` gave the difference of the character error rates."""
    with pytest.raises(UsageError, match="rate='WER': expected wer or cer"):
        compare({"a": "A B"}, {"a": "A"}, {"a": "A B"}, "WER", 0)
