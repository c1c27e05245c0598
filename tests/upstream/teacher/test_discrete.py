"""Discrete units on their way out: nothing is lost in collapsing, bit rates are those of arithmetic, files say all."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError
from upstream.teacher.discrete import bit_rate, bit_rates, collapse, describe, write_arrow, write_jsonl, write_km
from upstream.teacher.units import Units, UnitsWriter

LABELS = st.lists(st.integers(0, 5), max_size=60).map(lambda x: np.array(x, np.uint16))
META = {"teacher_hash": "t", "manifest_hash": "m", "encoder_hash": "e", "layer": 6, "normalize": True, "hop": 320,
        "features": {"name": "layer"}}


@pytest.fixture
def one(tmp_path):
    with UnitsWriter(tmp_path / "store", (8,), META) as writer:
        writer.add("a", np.array([3, 3, 3, 5, 5, 3]))
        writer.add("empty", np.array([], int))
        writer.add("b", np.array([7]))
    return Units.load(tmp_path / "store")


@pytest.fixture
def two(tmp_path):
    with UnitsWriter(tmp_path / "store", (8, 4), META) as writer:
        writer.add("a", np.array([3, 3, 5]), np.array([1, 2, 2]))
    return Units.load(tmp_path / "store")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@given(labels=LABELS)
def test_collapsing_is_that_of_groupby_and_can_be_undone(labels):
    units, durations = collapse(labels)
    expected = [(k, len(list(g))) for k, g in itertools.groupby(labels.tolist())]
    assert list(zip(units.tolist(), durations.tolist())) == expected
    assert np.repeat(units, durations).tolist() == labels.tolist()


def test_a_bit_rate_worked_by_hand():
    """Two of one unit and one each of two others: 1.5 bits; 4 in .08 s are 50 a second: 75 bits, 150 with 8 classes."""
    found = bit_rate([np.array([0, 0]), np.array([1, 2])], 8, 0.08)
    assert (found.units_per_second, found.entropy_bits, found.entropy_rate, found.uniform_rate) == \
        pytest.approx((50, 1.5, 75, 150))


@given(sequences=st.lists(LABELS, min_size=1, max_size=4))
def test_entropy_is_that_of_scipy_and_no_more_than_uniform(sequences):
    stats = pytest.importorskip("scipy.stats")
    found = bit_rate(sequences, 6, 1.0)
    counts = np.bincount(np.concatenate(sequences).astype(int), minlength=6)
    expected = stats.entropy(counts, base=2) if counts.sum() else 0.0
    assert found.entropy_bits == pytest.approx(expected, abs=1e-9)
    assert found.entropy_rate <= found.uniform_rate + 1e-9


def test_jsonl_has_a_description_and_then_units_with_times(one, tmp_path):
    write_jsonl(one, tmp_path / "u.jsonl")
    head, first, empty, last = lines(tmp_path / "u.jsonl")
    assert first == {"id": "a", "seconds": 0.12, "units": [3, 3, 3, 5, 5, 3],
                     "starts": [0, 0.02, 0.04, 0.06, 0.08, 0.1]}
    assert (empty["units"], empty["seconds"], last["units"]) == ([], 0, [7])
    assert (head["rate"], head["hop"], head["layer"], head["normalize"]) == (50, 320, 6, True)
    assert (head["teacher_hash"], head["encoder_hash"], head["manifest_hash"]) == ("t", "e", "m")
    assert (head["classes"], head["collapsed"], head["units_hash"]) == ([8], False, one.hash)


def test_collapsed_jsonl_has_durations(one, tmp_path):
    write_jsonl(one, tmp_path / "u.jsonl", collapsed=True)
    head, first, _, _ = lines(tmp_path / "u.jsonl")
    assert first == {"id": "a", "seconds": 0.12, "units": [3, 5, 3], "starts": [0, 0.06, 0.1], "durations": [3, 2, 1]}
    assert head["bit_rate"][0]["units_per_second"] == pytest.approx(4 / (7 / 50))
    write_jsonl(one, tmp_path / "u.jsonl", collapsed=True, times=False)
    assert set(lines(tmp_path / "u.jsonl")[1]) == {"id", "seconds", "units", "durations"}


def test_streams_are_lists_of_lists_and_collapse_by_themselves(two, tmp_path):
    write_jsonl(two, tmp_path / "u.jsonl", collapsed=True)
    row = lines(tmp_path / "u.jsonl")[1]
    assert (row["units"], row["durations"]) == ([[3, 5], [1, 2]], [[2, 1], [1, 2]])
    assert row["starts"] == [[0, 0.04], [0, 0.02]]
    assert [r.units_per_second for r in bit_rates(two, True)] == pytest.approx([2 / 0.06] * 2)


def test_km_is_lines_of_numbers_with_a_description_beside(one, tmp_path):
    assert write_km(one, tmp_path / "u.km") == [tmp_path / "u.km"]
    assert (tmp_path / "u.km").read_text() == "3 3 3 5 5 3\n\n7\n"
    beside = json.loads((tmp_path / "u.km.json").read_text())
    assert (beside["ids"], beside["files"]) == (["a", "empty", "b"], ["u.km"])
    assert {k: beside[k] for k in describe(one, False)} == describe(one, False)


def test_km_of_several_streams_is_several_files(two, tmp_path):
    assert [p.name for p in write_km(two, tmp_path / "u.km", collapsed=True)] == ["u.0.km", "u.1.km"]
    assert (tmp_path / "u.1.km").read_text() == "1 2\n"


def test_arrow_holds_what_jsonl_holds(one, two, tmp_path):
    for units, collapsed in ((one, True), (two, True), (one, False)):
        write_arrow(units, tmp_path / "u.arrow", collapsed)
        write_jsonl(units, tmp_path / "u.jsonl", collapsed)
        with pa.memory_map(str(tmp_path / "u.arrow")) as source:
            table = pa.ipc.open_file(source).read_all()
        head, *rows = lines(tmp_path / "u.jsonl")
        assert json.loads(table.schema.metadata[b"hubertkit"]) == head
        for found, row in zip(table.to_pylist(), rows, strict=True):
            assert found["id"] == row["id"]
            assert found["seconds"] == row["seconds"]
            for name in row.keys() - {"id", "seconds"}:
                streams = [row[name]] if units is one else row[name]
                for stored, written in zip(found[name], streams, strict=True):
                    assert stored == pytest.approx(written, abs=1e-6)


@pytest.mark.parametrize("labels", [(np.array([1, 1, 2]),), np.zeros((2, 3), int), 3, None])
def test_labels_of_one_stream_are_collapsed(labels):
    """What `Labeller.labels` gives, one array for each stream, ended with a traceback of numpy's."""
    with pytest.raises(InputError, match=r"^labels of shape .*: expected \(frames,\) of one stream"):
        collapse(labels)
