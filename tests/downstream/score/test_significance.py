"""Two systems: worked examples, symmetry, false alarms, and systems that sclite's tests tell apart."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from test_rates import read_trn

from downstream.score import significance
from downstream.score.compare import compare_trainings, known_speakers
from downstream.score.intervals import resampled_rates
from downstream.score.rates import score
from downstream.score.significance import holm, p_value_text, paired_difference, randomisation_p_value
from upstream.errors import InputError, UsageError


def test_two_utterances_by_hand():
    """Differences of utterances -2 and 0 in 4 words each: draws -50, -25, -25, 0 points with 1/4 each.

    Swapped or not, the one utterance that differs differs by 2: p = 1.
    """
    difference = paired_difference(np.array([0, 1]), np.array([2, 1]), np.array([4, 4]))
    assert difference.points == -25.0
    assert (difference.interval.low, difference.interval.high) == (-50.0, 0.0)
    assert difference.p_value == 1


def test_the_same_errors_everywhere_are_no_difference():
    errors, words = np.array([1, 0, 3]), np.array([5, 5, 5])
    difference = paired_difference(errors, errors, words)
    assert (difference.points, difference.interval.low, difference.interval.high, difference.p_value) == (0, 0, 0, 1)


def test_a_system_that_is_better_everywhere_is_better_for_sure():
    difference = paired_difference(np.zeros(50), np.ones(50), np.full(50, 10), resamples=1000)
    assert (difference.points, difference.interval.high) == (-10, -10)
    assert difference.p_value == pytest.approx(1 / 1001)  # the least that 1000 draws can say


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 8)), min_size=1, max_size=20))
def test_the_other_way_round_is_the_negative(counts):
    first, second, words = np.array(counts).T
    there, back = (paired_difference(*pair, words, resamples=400) for pair in ((first, second), (second, first)))
    assert there.points == -back.points
    assert there.p_value == back.p_value
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert there.interval.low - 1e-9 <= there.points <= there.interval.high + 1e-9


def test_equal_systems_are_called_different_as_rarely_as_promised():
    """300 pairs of systems with the same true rate: p < 0.05 in about 15, and not in more than 30."""
    rng = np.random.default_rng(3)
    words = rng.integers(5, 20, size=80)
    alarms = sum(paired_difference(rng.binomial(words, 0.3), rng.binomial(words, 0.3), words, seed=i,
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
        difference = paired_difference(one.errors, two.errors, one.words)
        assert difference.points == pytest.approx(100 * points / 2841)
        assert difference.p_value < 0.01
        assert difference.interval.high < 0
        by_speaker = paired_difference(one.errors, two.errors, one.words, groups=speakers)
        assert by_speaker.points == pytest.approx(difference.points)
        assert by_speaker.interval != difference.interval


def test_other_utterances_are_refused():
    with pytest.raises(InputError, match="3 and 2 utterances"):
        paired_difference(np.zeros(3), np.zeros(2), np.ones(3))


def test_swaps_by_hand():
    """3, 1, -1: |sum| of the 8 signs is 5, 3, 3, 1, 1, 3, 3, 5, of which six are 3 at least. 0 plays no part."""
    assert randomisation_p_value(np.array([3, 0, 1, -1])) == 0.75


def test_level_seed_and_resamples_are_those_that_are_given():
    """Forty utterances by two speakers: differences of -2 to 2, of which 32 are not 0, too many to list all swaps."""
    errors, others, words = np.arange(40) % 5, np.full(40, 2), np.full(40, 10)
    given = paired_difference(errors, others, words, seed=1, resamples=500, level=0.5)
    rates = resampled_rates(np.column_stack([errors, others]), words, 1, 500)
    assert (given.interval.low, given.interval.high) == tuple(np.quantile(rates[:, 0] - rates[:, 1], [0.25, 0.75]))
    assert (given.interval.level, given.interval.clusters) == (0.5, 40)
    assert paired_difference(errors, others, words, groups=["a", "b"] * 20).interval.clusters == 2
    worse = np.minimum(errors, 3)
    found = {seed: paired_difference(worse, others, words, seed=seed, resamples=500).p_value for seed in (1, 2)}
    assert found[1] == randomisation_p_value(worse - others, 1, 500) != found[2]
    assert round(found[1] * 501, 9).is_integer()


def test_all_swaps_are_listed_where_they_are_no_more_than_asked_for_and_a_few_at_a_time_as_well(monkeypatch):
    """Ten differ: 1024 ways, of which as many as scipy finds reach the sum; drawn ones are one more in all."""
    differences = np.array([3.0, 0, 1, -1, 2, 2, -2, 1, 0, 4, -3, 1])
    exact = permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert randomisation_p_value(differences, swaps=1024) == exact
    drawn = randomisation_p_value(differences, swaps=1023)
    assert drawn != exact
    assert round(drawn * 1024, 9).is_integer()
    monkeypatch.setattr(significance, "_CHUNK", 70)
    assert randomisation_p_value(differences, swaps=1024) == exact


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_swaps_are_those_of_scipy(differences):
    found = np.array(differences, np.float64)
    wanted = permutation_test((found,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert randomisation_p_value(found) == pytest.approx(min(1, wanted))


def test_drawn_swaps_come_near_to_all_of_them():
    differences = np.random.default_rng(0).integers(-3, 6, size=16)
    exact = randomisation_p_value(differences, swaps=2**16)
    assert 0.005 < exact < 0.5
    assert randomisation_p_value(differences, swaps=20_000) == pytest.approx(exact, abs=0.01)


def test_utterances_on_which_both_agree_make_nothing_surer():
    """Four of 247 differ, all the same way: 2 / 16, where a bootstrap's tail said .04."""
    errors = np.zeros(247)
    errors[:4] = 1
    assert paired_difference(np.zeros(247), errors, np.full(247, 20)).p_value == 0.125


def test_six_speakers_are_called_different_as_rarely_as_promised():
    """Equal systems that speakers suit unequally: p < .05 in about 3 % of 300, where a bootstrap's tail said 13 %."""
    rng = np.random.default_rng(5)
    speakers, words = np.repeat(np.arange(6), 20), np.full(120, 15)
    alarms = 0
    for i in range(300):
        suits = rng.normal(0, 0.06, 6)[speakers]
        one, two = rng.binomial(words, np.clip(0.3 + suits, 0, 1)), rng.binomial(words, 0.3)
        alarms += paired_difference(one, two, words, seed=i, resamples=400, groups=speakers).p_value < 0.05
    assert alarms <= 20


def test_few_groups_that_all_agree_are_as_sure_as_a_sign_test():
    """Four speakers, each with fewer errors by the first system: of 16 ways to toss, two agree so. 2 / 16 = .125."""
    speakers = np.repeat(list("abcd"), 10)
    difference = paired_difference(np.zeros(40), np.ones(40), np.full(40, 10), groups=speakers.tolist())
    assert difference.p_value == 0.125
    assert paired_difference(np.zeros(1), np.ones(1), np.full(1, 10)).p_value == 1
    with pytest.raises(InputError, match="of one group"):
        paired_difference(np.zeros(40), np.ones(40), np.full(40, 10), groups=["a"] * 40)


def compared(references, hypotheses, rate, speakers=None):
    """Hypotheses beside the references themselves, as of two systems that were trained once."""
    first, second = ([score(references, texts).per_utterance] for texts in (hypotheses, references))
    return compare_trainings(first, second, rate, 0, speakers)


def test_characters_are_compared_by_characters():
    """Two characters of 20 against none: 10 points."""
    references = {"a": "ABCDE FGHIJKLMN", "b": "ABCDE"}
    found = compared(references, {"a": "ABCDE FGHIJKLMX", "b": "ABCDX"}, "cer")
    assert found["difference"] == 10.0
    assert compared(references, {**references, "b": "ABCDX"}, "wer")["difference"] == 33.333


def test_systems_are_compared_by_speaker_where_all_are_known():
    """Three utterances of two speakers, all with one word less: of 4 swaps of speakers 2 reach it, of 8 swaps of
    utterances 2."""
    references = {"a": "A B", "b": "A B", "c": "A B"}
    worse = dict.fromkeys(references, "A")
    found = compared(references, worse, "wer", ["ann", "ann", "bob"])
    assert (found["p_value"], found["by_speaker"]) == (0.25, {"p_value": 0.5, "interval": [50, 50]})
    assert "by_speaker" not in compared(references, worse, "wer", ["ann", "ann", None])
    assert "by_speaker" not in compared(references, worse, "wer", ["ann"] * 3)


@pytest.mark.parametrize(("speakers", "expected"), [
    (["ann", "bob", "ann"], ["ann", "bob", "ann"]), (["ann", "ann"], None), (["ann", "bob", None], None), ([], None),
    (None, None)])
def test_whole_speakers_are_drawn_where_all_are_known_and_two_at_least(speakers, expected):
    assert known_speakers(speakers) == expected


def test_a_rate_that_is_none_is_refused():
    """`WER` gave the difference of the character error rates."""
    with pytest.raises(UsageError, match="rate='WER': expected wer or cer"):
        compared({"a": "A B"}, {"a": "A"}, "WER")


def test_p_values_of_comparisons_are_not_rounded_for_they_may_be_of_many():
    """One word less in each of 13 utterances: 2 of 2 ** 13 swaps reach that."""
    references = {f"u{i}": "A B" for i in range(13)}
    assert compared(references, dict.fromkeys(references, "A"), "wer")["p_value"] == 2 / 2**13 != round(2 / 2**13, 5)


@pytest.mark.parametrize(("p_value", "text"), [
    (1.0, "1.000"), (0.0476, "0.048"), (0.0005, "0.001"), (0.00049, "0.0005"), (0.00005, "0.0001"),
    (0.000049, "<0.0001"), (None, "")])
def test_p_values_have_three_digits_or_four(p_value, text):
    assert p_value_text(p_value) == text


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def test_holm_by_hand():
    """.01 * 4 = .04; .03 * 3 = .09; .04 * 2 = .08, raised to the .09 before it; .5 * 1."""
    assert holm([0.04, 0.01, 0.5, 0.03]) == pytest.approx([0.09, 0.04, 0.5, 0.09])
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@settings(max_examples=60, deadline=None)
@given(P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """A comparison is as sure as the least sure of all families that it is in, each with Bonferroni's correction
    (Marcus, Peritz and Gabriel 1976)."""
    places = range(len(p_values))
    families = [family for size in places for family in combinations(places, size + 1)]
    wanted = [max(min(1, len(family) * min(p_values[i] for i in family)) for family in families if place in family)
              for place in places]
    assert holm(p_values) == pytest.approx(wanted)


@given(P_VALUES, st.randoms())
def test_holm_does_not_depend_on_the_order_and_makes_nothing_surer(p_values, random):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted))
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("odd", [-0.1, 1.5, float("nan")])
def test_holm_refuses_what_is_no_p_value(odd):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        holm([0.5, odd])


REFERENCES = {"u1": "A B C D", "u2": "E F G H"}


def counts(*texts):
    return score(REFERENCES, dict(zip(REFERENCES, texts))).per_utterance


def test_trainings_are_summed_within_utterances_by_hand():
    """Errors of the first in u1 and u2: 1 + 0 and 0 + 0; of the second 1 + 3 and 0 + 0. So -3 in one utterance, of 16
    words: -18.75 points, the mean of 0 and -37.5; the one that differs may as well be swapped: p = 1."""
    first = [counts("A B C X", "E F G H"), counts("A B C D", "E F G H")]
    second = [counts("X B C D", "E F G H"), counts("X Y Z D", "E F G H")]
    found = compare_trainings(first, second, "wer", 0)
    assert (found["difference"], found["p_value"]) == (-18.75, 1)
    each = [compare_trainings([a], [b], "wer", 0)["difference"] for a, b in zip(first, second)]
    assert each == [0, -37.5]


def test_the_same_training_twice_is_that_training():
    """Nothing becomes surer by repeating what is known."""
    first, second = counts("A B C X", "E F G H"), counts("A X Y D", "E F X H")
    for rate in ("wer", "cer"):
        assert compare_trainings([first] * 3, [second] * 3, rate, 0) == compare_trainings([first], [second], rate, 0)


def test_trainings_without_a_partner_are_refused():
    one = counts("A B C D", "E F G H")
    for first, second in (([], []), ([one, one], [one])):
        with pytest.raises(InputError, match="as many of both"):
            compare_trainings(first, second, "wer", 0)
