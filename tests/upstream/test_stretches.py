"""Stretches hold every utterance once, in order, and end where they end for anybody."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from upstream.stretches import remove_stretches, stretch_folder, stretches


@given(lengths=st.lists(st.integers(0, 64_000), max_size=30), seconds=st.floats(0.1, 8), data=st.data())
def test_every_utterance_is_in_one_stretch_in_order(lengths, seconds, data):
    start = data.draw(st.integers(0, len(lengths)))
    within = range(start, data.draw(st.integers(start, len(lengths))))
    found = stretches(np.array(lengths, np.int64), seconds, within)
    assert [i for rows in found for i in rows] == list(within)
    assert all(found)
    whole = stretches(np.array(lengths, np.int64), seconds)
    assert set(found[1:-1]) <= set(whole)  # only the first and the last may be cut by whose they are


def test_stretches_by_hand():
    """Of 2 s: the sums of 1, 1, 1, 5 and 1 s are 1, 2, 3, 8 and 9 s, half of which are 0, 1, 1, 4 and 4."""
    assert stretches(16_000 * np.array([1, 1, 1, 5, 1]), 2.0) == [range(1), range(1, 3), range(3, 5)]
    assert stretches(np.zeros(0, np.int64), 2.0) == []


def test_only_stretches_are_removed(tmp_path):
    stretch_folder(tmp_path, range(3, 7)).mkdir()
    for name in (".part-of-mine", "units.json"):
        (tmp_path / name).mkdir()
    remove_stretches(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-of-mine", "units.json"]
