"""Filters of pseudo labels: examples by hand, and what must hold of any labels and limits."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.decode.hypothesis import Hypothesis
from downstream.pseudo_labels import (
    CONFIDENCE,
    DISAGREEMENT,
    EMPTY,
    FAST,
    FAST_CHARACTERS,
    KEPT,
    LOOP,
    REST,
    SLOW,
    SLOW_CHARACTERS,
    PseudoLabel,
    confidence,
    counts,
    disagreement,
    fit_line,
    judge,
    most_repeats,
    share_of,
)
from downstream.selftrain_recipe import FilterRecipe
from upstream.errors import InputError

OPEN = FilterRecipe(loop_times=None)


def label(text, greedy=None, seconds=2.0, sure=-0.1, id="a"):
    return PseudoLabel(id, text, text if greedy is None else greedy, seconds, sure)


@pytest.mark.parametrize(("one", "filters", "expected"), [
    (label("", "A"), {}, EMPTY), (label("A"), {}, KEPT),
    (label("A B"), {"least_words_a_second": 1.0}, KEPT), (label("A"), {"least_words_a_second": 1.0}, SLOW),
    (label("A B"), {"most_words_a_second": 1.0}, KEPT), (label("A B C"), {"most_words_a_second": 1.0}, FAST),
    (label("A B C", seconds=0.0), {"most_words_a_second": 5.0}, FAST),
    (label("A B A B A"), {"loop_words": 2, "loop_times": 2}, KEPT),
    (label("A B A B A B"), {"loop_words": 2, "loop_times": 2}, LOOP),
    (label("THE CAT", "THE BAT"), {"most_disagreement": 15.0}, KEPT),  # 1 of 7 characters: 14.3 %
    (label("THE CAT", "THE BAT"), {"most_disagreement": 14.0}, DISAGREEMENT),
    (label("A", sure=-0.5), {"least_confidence": -0.5}, KEPT),
    (label("A", sure=-0.6), {"least_confidence": -0.5}, CONFIDENCE)])
def test_a_filter_drops_what_it_is_for(one, filters, expected):
    assert judge([one], dataclasses.replace(OPEN, **filters)) == {"a": expected}


@pytest.mark.parametrize(("one", "filters", "expected"), [
    (label("今天天气"), {"least_words_a_second": 2.0}, KEPT),
    (label("今天天"), {"least_words_a_second": 2.0}, SLOW_CHARACTERS),
    (label("今天 天气"), {"most_words_a_second": 2.0}, KEPT),
    (label("今天天气很"), {"most_words_a_second": 2.0}, FAST_CHARACTERS),
    (label("谢谢谢谢"), {"loop_words": 1, "loop_times": 3}, LOOP),
    (label("谢谢谢 谢"), {"loop_words": 2, "loop_times": 2}, LOOP),
    (label("我们都是好学生啊" * 2), {"loop_times": 2}, KEPT), (label("我们都是好学生啊" * 3), {"loop_times": 2}, LOOP),
    (label("你好吗" * 3), {"loop_times": 2}, KEPT),  # no run of 8 comes three times
    (label("今天天气", "今天 天汽"), {"most_disagreement": 25.0}, KEPT),  # 1 of 4, the space apart
    (label("今天天气", "今天 天汽"), {"most_disagreement": 24.0}, DISAGREEMENT), (label(" "), {}, EMPTY)])
def test_of_texts_without_spaces_characters_are_counted(one, filters, expected):
    """A bug once found: a whole phrase was a word, so that no label had too many a second, and none was a loop."""
    assert judge([one], dataclasses.replace(OPEN, **filters), "character") == {"a": expected}


def test_the_best_are_kept_of_what_the_other_filters_leave():
    """Of five, one is empty; half of four are two, and of the two that are equally sure the first."""
    sure = {"a": -0.3, "b": -0.1, "c": -0.9, "d": -0.3}
    labels = [label("", sure=-math.inf, id="e"), *(label("A", sure=s, id=i) for i, s in sure.items())]
    found = judge(labels, dataclasses.replace(OPEN, keep=0.5))
    assert found == {"e": EMPTY, "a": KEPT, "b": KEPT, "c": REST, "d": REST}
    assert counts(labels, found) == {
        "kept": {"utterances": 2, "hours": 0.0011}, EMPTY: {"utterances": 1, "hours": 0.0006},
        REST: {"utterances": 2, "hours": 0.0011}}


@pytest.mark.parametrize(("count", "share", "expected"), [(100, 0.07, 7), (10, 0.9, 9), (3, 0.5, 2), (0, 0.5, 0),
                                                          (10, 1e-9, 1)])
def test_a_share_is_what_it_is_in_decimals(count, share, expected):
    assert share_of(count, share) == expected


def test_runs_of_words_are_counted_with_overlaps():
    assert most_repeats(["A", "A", "A", "A"], 2) == 3
    assert most_repeats(["A", "B", "C"], 1) == 1
    assert most_repeats(["A", "B"], 3) == 0


def test_disagreement_is_over_the_characters_of_the_label():
    assert disagreement("ABCD", "ABXD") == 25
    assert disagreement("", "") == 0
    assert disagreement("", "A") == math.inf


def test_confidence_is_the_probability_of_a_character():
    """Four characters with log-probability -2; the decoder's score adds 1 of model and words."""
    found = Hypothesis("a", "AB C", -1.0, -2.0, confidences=(0.5, 1.0))
    assert confidence(found, "acoustic") == -0.5
    assert confidence(found, "score") == -0.25
    assert confidence(found, "words") == 0.75
    assert confidence(Hypothesis("a", "", 0.0, 0.0), "acoustic") == -math.inf
    with pytest.raises(InputError, match="no confidences"):
        confidence(dataclasses.replace(found, confidences=()), "words")


def test_normalised_confidence_is_how_far_a_score_lies_above_the_line_of_dev():
    """By hand: scores -1 and -3 at length 1, -4 and -8 at length 4: the line is -(4/3) l - 2/3, what is left +-1 at 1
    and +-2 at 4, which over the square root of the length is +-1 everywhere."""
    dev = [Hypothesis("a", text, score, 0.0) for text, score in (("A", -1.0), ("A", -3.0), ("ABCD", -4.0),
                                                                 ("ABCD", -8.0), ("", 0.0))]
    line = fit_line(dev)
    assert (line.slope, line.offset, line.spread) == pytest.approx((-4 / 3, -2 / 3, 1.0))
    assert [confidence(h, "normalised", line) for h in dev[:4]] == pytest.approx([1, -1, 1, -1])
    assert confidence(Hypothesis("b", "A" * 9, -12.0 - 2 / 3, 0.0), "normalised", line) == pytest.approx(0.0)
    for few in (dev[:2], dev[:1] * 3, dev[-1:]):
        with pytest.raises(InputError, match="confidence=acoustic"):
            fit_line(few)


def test_a_line_that_nothing_lies_beside_has_no_spread():
    """What rounding leaves would be taken for one; and two texts always lie on a line."""
    straight = [Hypothesis("a", "A" * length, -1.1 * length - 0.3, 0.0) for length in (1, 2, 4, 7)]
    with pytest.raises(InputError, match="the scores of dev's texts have no spread"):
        fit_line(straight)
    with pytest.raises(InputError, match="dev has 2 texts, of too few lengths"):
        fit_line(straight[:2])


texts = st.lists(st.sampled_from(["A", "B", "AB"]), max_size=8).map(" ".join)
many = st.lists(st.tuples(texts, texts, st.floats(0, 5), st.integers(-4, 0).map(float)), max_size=12).map(
    lambda rows: [PseudoLabel(str(i), *row) for i, row in enumerate(rows)])
limits = st.fixed_dictionaries({
    "least_words_a_second": st.none() | st.floats(0, 1), "most_words_a_second": st.none() | st.floats(2, 4),
    "loop_words": st.integers(1, 2), "loop_times": st.none() | st.integers(1, 3),
    "most_disagreement": st.none() | st.floats(0, 150), "least_confidence": st.none() | st.floats(-4, 0),
    "keep": st.sampled_from([0.1, 0.5, 0.9, 1.0])}).map(lambda values: FilterRecipe(**values))


def kept(labels, filters):
    return [id for id, reason in judge(labels, filters).items() if reason == KEPT]


@given(many, limits)
def test_every_label_is_judged_once_in_its_order_and_none_that_is_kept_is_empty(labels, filters):
    found = judge(labels, filters)
    assert list(found) == [one.id for one in labels]
    assert all(one.text for one in labels if found[one.id] == KEPT)
    assert sum(value["utterances"] for value in counts(labels, found).values()) == len(labels)


@given(many, limits, st.sampled_from(["least_words_a_second", "most_words_a_second", "loop_times",
                                      "most_disagreement", "least_confidence"]))
def test_without_a_limit_all_that_it_keeps_is_kept(labels, filters, name):
    whole = dataclasses.replace(filters, keep=1.0)
    assert set(kept(labels, whole)) <= set(kept(labels, dataclasses.replace(whole, **{name: None})))


@given(many, limits, st.floats(-4, 0), st.floats(-4, 0))
def test_a_higher_confidence_keeps_a_part_of_what_a_lower_one_keeps(labels, filters, one, other):
    low, high = (dataclasses.replace(filters, keep=1.0, least_confidence=c) for c in sorted((one, other)))
    assert set(kept(labels, high)) <= set(kept(labels, low))


@given(many, limits, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_smaller_share_is_the_better_part_of_a_larger_one(labels, filters, one, other):
    small, large = (kept(labels, dataclasses.replace(filters, keep=share)) for share in sorted((one, other)))
    assert set(small) <= set(large)
    sure = {label.id: label.confidence for label in labels}
    assert min((sure[i] for i in small), default=0) >= max((sure[i] for i in set(large) - set(small)), default=-9)


@pytest.mark.parametrize("values", [{"keep": 0.0}, {"keep": 1.1}, {"loop_words": 0}, {"loop_times": 0},
                                    {"most_disagreement": -1.0}, {"least_words_a_second": -1.0},
                                    {"least_words_a_second": 3.0, "most_words_a_second": 2.0}])
def test_limits_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="filter: "):
        FilterRecipe(**values)
