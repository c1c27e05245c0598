"""Holm's adjustment: worked by hand, against its definition as repeated tests, and what must hold of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.score.holm import holm


def test_four_p_values_by_hand():
    """Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, and .04, which must not lie below .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def rejected(p_values, level):
    """The procedure as the paper says it: from the smallest on, until one lies above level / (those left)."""
    found = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - rank):
            break
        found.add(index)
    return found


@given(st.lists(st.integers(0, 1024).map(lambda n: n / 1024), max_size=9), st.sampled_from([0.125, 0.0625, 0.25]))
def test_what_lies_below_a_level_is_what_the_procedure_rejects(p_values, level):
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p <= level} == rejected(p_values, level)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_none_gets_smaller_and_their_order_stays(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
