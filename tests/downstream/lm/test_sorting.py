import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from downstream.lm.packing import pack, unpack, width_of
from downstream.lm.sorting import Sorter


def summed(records):
    new = np.append(True, records["key"][1:] != records["key"][:-1])
    found = records[new]
    found["count"] = np.add.reduceat(records["count"], np.flatnonzero(new))
    return found


@given(keys=st.lists(st.integers(0, 50), max_size=200), part=st.integers(1, 30), memory=st.integers(1, 20_000))
def test_any_memory_gives_the_sums_of_sorted_keys(tmp_path_factory, keys, part, memory):
    folder = tmp_path_factory.mktemp("sort")
    sorter = Sorter(folder / "runs", memory, summed)
    records = np.array([(key, 1) for key in keys], [("key", np.int64), ("count", np.int64)])
    for first in range(0, len(records), part):
        sorter.add(records[first:first + part])
    blocks = list(sorter.blocks())
    found = [tuple(row) for block in blocks for row in block.tolist()]
    assert found == [(key, keys.count(key)) for key in sorted(set(keys))]
    assert not list(folder.iterdir())


def test_merging_many_runs_takes_as_many_steps_as_runs_and_not_their_square(tmp_path):
    """Found in review: at fifty gigabytes of text the million steps of a thousand runs were hours of opening files."""
    keys = np.random.default_rng(0).permutation(48_000)
    sorter = Sorter(tmp_path / "runs", 4 * 8 * 1_200)
    for first in range(0, len(keys), 300):
        sorter.add(keys[first:first + 300].astype([("key", np.int64)]))
    blocks = list(sorter.blocks())
    assert np.concatenate(blocks)["key"].tolist() == list(range(48_000))
    assert len(blocks) < 200  # of 32 runs of 50 blocks each; 1,400 where each waited until it was empty


@given(keys=st.lists(st.binary(min_size=3, max_size=3), unique=True), memory=st.integers(1, 2000))
def test_byte_strings_sort_as_bytes_do_zeros_at_their_ends_included(tmp_path_factory, keys, memory):
    sorter = Sorter(tmp_path_factory.mktemp("sort") / "runs", memory)
    for key in keys:
        sorter.add(np.array([(key,)], [("key", "S3")]))
    found = np.concatenate([np.empty(0, [("key", "S3")]), *sorter.blocks()])
    assert [bytes(key).ljust(3, b"\0") for key in found["key"]] == sorted(keys)


@given(words=st.integers(1, 2**32), data=st.data())
def test_packed_ngrams_compare_as_their_ids_and_unpack(words, data):
    ids = data.draw(st.lists(st.tuples(*[st.integers(0, words - 1)] * 3), min_size=2, max_size=20, unique=True))
    width = width_of(words)
    keys = pack(np.array(ids, np.int64), width)
    assert unpack(keys, width).tolist() == [list(gram) for gram in ids]
    assert [ids[i] for i in np.argsort(keys, kind="stable")] == sorted(ids)
