import numpy as np
import pytest
import torch

from upstream.errors import InputError
from upstream.places import evenly, places, spread


@pytest.mark.parametrize(("given", "found"), [
    ([3, 1], [3, 1]), (range(2), [0, 1]), (iter([2]), [2]), (torch.tensor([2, 0]), [2, 0]), ([], []),
    ([False, True, False, True], [1, 3]), (np.array([True, False, False, True]), [0, 3]),
    (torch.tensor([False, True, False, False]), [1]), (np.uint8([3]), [3])])
def test_a_mask_means_the_places_where_it_is_true(given, found):
    """`np.asarray(mask, np.int64)` meant utterances 0 and 1, again and again."""
    indices = places(given, 4)
    assert (indices.dtype, indices.tolist()) == (np.int64, found)


@pytest.mark.parametrize(("given", "says"), [
    (np.array([True, False]), r"a mask of shape \(2,\) for 4 utterances"), (np.zeros(0, bool), "a mask"),
    ([0.0, 1.0], "indices of type float64"), (["u1"], "expected whole numbers"), ([1, 2, 1], "named twice")])
def test_what_names_no_utterances_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        places(given, 4, once=True)


def test_a_range_of_millions_is_no_list(monkeypatch):
    """Found in review: labels of 14 million utterances began with 650 MB of Python's numbers."""
    monkeypatch.setattr("upstream.places.list", None, raising=False)
    assert places(range(2, 10, 3), 10).tolist() == [2, 5, 8]


def test_some_of_all_lengths_are_spread_over_them():
    """By hand: of six sorted lengths the second, fourth and sixth; of one the middle; all of all."""
    lengths = np.array([60, 10, 50, 20, 40, 30])
    assert lengths[spread(lengths, 3)].tolist() == [60, 20, 40]
    assert lengths[spread(lengths, 1)].tolist() == [40]
    assert spread(lengths, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_every_beginning_of_an_order_is_evenly_spread():
    """By hand: of eight their bits reversed, of six the same without the places that are not there."""
    assert evenly(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert evenly(6).tolist() == [0, 4, 2, 1, 5, 3]
    assert [evenly(count).tolist() for count in (0, 1, 2)] == [[], [0], [0, 1]]
    for count in (7, 100, 1000):
        order = evenly(count)
        assert sorted(order) == list(range(count))
        for taken in range(1, count + 1):
            gaps = np.diff([0, *np.sort(order[:taken]), count])
            assert gaps.max() <= 4 * count / taken
