"""Units come back as they went in, by id, and an interrupted writer changes nothing."""

import json

import numpy as np
import pytest
from full_disk import files_up_to
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import FormatError, HubertkitError, InputError, UsageError
from upstream.rows import are_offsets
from upstream.teacher.units import Units, UnitsWriter


def write(folder, utterances, classes=(100,), **options):
    with UnitsWriter(folder, classes, **options) as writer:
        for utterance_id, sequences in utterances.items():
            writer.add(utterance_id, *sequences)
    return Units.load(folder)


@given(lengths=st.lists(st.integers(0, 30), max_size=6), seed=st.integers(0, 99),
       classes=st.lists(st.integers(1, 65_536), min_size=1, max_size=3))
def test_units_come_back_as_they_went_in(tmp_path_factory, lengths, classes, seed):
    rng = np.random.default_rng(seed)
    utterances = {f"ü{i}": [rng.integers(k, size=n) for k in classes] for i, n in enumerate(lengths)}
    units = write(tmp_path_factory.mktemp("u"), utterances, classes, meta={"teacher_hash": "t", "manifest_hash": "m"})
    assert units.ids == list(utterances)
    assert len(units) == len(lengths)
    assert (units.classes, units.rate) == (tuple(classes), 50.0)
    assert (units.teacher_hash, units.manifest_hash) == ("t", "m")
    for utterance_id in reversed(units.ids):
        for stream, labels in enumerate(utterances[utterance_id]):
            found = units.labels(utterance_id, stream)
            assert found.dtype == np.uint16
            np.testing.assert_array_equal(found, labels)


def test_labels_are_slices_of_a_memory_map(tmp_path):
    units = write(tmp_path, {"a": [[1, 2]], "b": [[3]]})
    assert isinstance(units.streams[0], np.memmap)
    assert np.shares_memory(units.labels("a"), units.streams[0])


def test_the_hash_follows_the_content_and_not_the_place_or_provenance(tmp_path):
    one = {"a": [[1, 2]], "b": [[3]]}
    first = write(tmp_path / "1", one, meta={"made": "today"}).hash
    assert write(tmp_path / "2", one).hash == first
    others = ({"a": [[1, 2]], "c": [[3]]}, {"a": [[1]], "b": [[2, 3]]}, {"a": [[1, 2]], "b": [[4]]}, {"a": [[1, 2]]})
    hashes = [write(tmp_path / f"other{i}", other).hash for i, other in enumerate(others)]
    hashes += [write(tmp_path / "k", one, classes=(101,)).hash, write(tmp_path / "r", one, rate=100.0).hash]
    assert len({first, *hashes}) == 7


@pytest.mark.parametrize(("sequences", "words"), [
    ([[1, 2]], "one sequence for each of 2 streams"),
    ([[1, 2], [1]], "all of the same length"),
    ([[1, 2], [0, 7]], r"stream 1 holds labels from 0 to 7 .*\[0, 7\)"),
    ([[-1, 2], [0, 1]], "stream 0 holds labels from -1 to 2"),
    ([[0.5, 2], [0, 1]], "expected integers"),
])
def test_labels_that_cannot_be_are_refused_by_the_name_of_the_utterance(tmp_path, sequences, words):
    with UnitsWriter(tmp_path, (100, 7)) as writer:
        writer.add("good", [1], [2])
        with pytest.raises(InputError, match=f"^bad: .*{words}"):
            writer.add("bad", *sequences)
        with pytest.raises(InputError, match=r"^good: units given twice"):
            writer.add("good", [1], [2])
    assert Units.load(tmp_path).ids == ["good"]


@pytest.mark.parametrize("classes", [(), (0,), (5, 65_537)])
def test_impossible_numbers_of_classes_are_refused(tmp_path, classes):
    with pytest.raises(InputError, match="1 to 65536"):
        UnitsWriter(tmp_path, classes)


def test_a_writer_that_fails_leaves_the_units_and_the_files_of_before(tmp_path):
    before = write(tmp_path, {"a": [[1, 2]]})
    (tmp_path / "stage.json").write_text("{}")
    with pytest.raises(InputError), UnitsWriter(tmp_path, (100,)) as writer:
        writer.add("b", [500])
    assert Units.load(tmp_path).hash == before.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ids.arrow", "offsets.npy", "stage.json", "stream0.npy",
                                                          "units.json"]


def test_units_are_replaced_as_a_whole(tmp_path):
    write(tmp_path, {"a": [[1, 2], [3, 4]]}, classes=(100, 100))
    units = write(tmp_path, {"b": [[5]]})
    assert (units.ids, units.classes, units.labels("b").tolist()) == (["b"], (100,), [5])
    assert not (tmp_path / "stream1.npy").exists()


def test_units_touch_no_other_file_of_the_folder(tmp_path):
    """Every `stream*.npy` was taken for a stream of units that the folder had held, and removed."""
    mine = {"streams.npy": b"mine", "stream1.npy": b"mine too", "notes.txt": b"and mine"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    for _ in range(2):  # into a folder without units, and over units
        write(tmp_path, {"a": [[1, 2]]})
        assert {name: (tmp_path / name).read_bytes() for name in mine} == mine
    (tmp_path / "units.json").write_text("[]")
    write(tmp_path, {"a": [[1, 2]]})
    assert (tmp_path / "stream1.npy").read_bytes() == b"mine too"


def test_what_a_killed_writer_left_is_no_units_and_does_no_harm(tmp_path):
    UnitsWriter(tmp_path, (100,)).add("b", [5])  # never closed
    with pytest.raises(FormatError, match=r"no units\.json"):
        Units.load(tmp_path)
    assert write(tmp_path, {"a": [[1, 2]]}).ids == ["a"]
    assert not (tmp_path / ".writing").exists()


def test_an_unknown_utterance_is_named(tmp_path):
    units = write(tmp_path, {"a": [[1, 2]]})
    assert "a" in units
    assert "b" not in units
    with pytest.raises(InputError, match=r"^b: no units in .* 1 utterances"):
        units.labels("b")


def test_files_that_do_not_fit_each_other_are_refused(tmp_path):
    write(tmp_path, {"a": [[1, 2]]})
    np.save(tmp_path / "stream0.npy", np.array([1, 2, 3], np.uint16))
    with pytest.raises(FormatError, match="do not fit together"):
        Units.load(tmp_path)
    np.save(tmp_path / "stream0.npy", np.array([1, 2], np.int64))
    with pytest.raises(FormatError, match="do not fit together"):
        Units.load(tmp_path)
    for rubbish in (b"", b"nothing"):
        (tmp_path / "stream0.npy").write_bytes(rubbish)
        with pytest.raises(FormatError, match="cannot be read"):
            Units.load(tmp_path)


def test_another_version_or_another_json_is_refused(tmp_path):
    write(tmp_path, {"a": [[1, 2]]})
    header = json.loads((tmp_path / "units.json").read_text())
    for broken, words in (({**header, "version": 2}, "version 1"), ([], "version 1"),
                          ({k: v for k, v in header.items() if k != "hash"}, "lacks hash")):
        (tmp_path / "units.json").write_text(json.dumps(broken))
        with pytest.raises(FormatError, match=words):
            Units.load(tmp_path)


@pytest.mark.parametrize(("name", "value"), [
    ("meta", []), ("rate", "x"), ("rate", 0), ("hash", 5), ("classes", ["3"]), ("classes", []), ("classes", [True]),
    ("classes", [70_000]), ("frames", None)])
def test_a_header_with_wrong_values_is_named(tmp_path, name, value):
    """Folders of others: they ended in tracebacks, some only in what reads the units."""
    write(tmp_path, {"a": [[1, 2]]})
    header = json.loads((tmp_path / "units.json").read_text())
    (tmp_path / "units.json").write_text(json.dumps({**header, name: value}))
    with pytest.raises(FormatError, match=rf"units\.json: {name} is .*; expected"):
        Units.load(tmp_path)


def test_provenance_that_json_cannot_hold_is_named_before_anything_is_replaced(tmp_path):
    """The units that the folder held were gone when the error came."""
    before = write(tmp_path, {"a": [[1, 2]]}).hash
    with pytest.raises(UsageError, match=r"units\.json: made cannot be written as JSON"):
        write(tmp_path, {"b": [[3]]}, meta={"made": tmp_path})
    assert Units.load(tmp_path).hash == before


@pytest.mark.parametrize("offsets", [[0, 1000, 8], [1, 5, 8], [[0, 5, 8]], [0.0, 5.0, 8.0], 8])
def test_places_that_are_none_are_refused(tmp_path, offsets):
    """Labels of one utterance were read as another's."""
    with UnitsWriter(tmp_path, [4], {}) as writer:
        writer.add("x", np.zeros(5, int))
        writer.add("y", np.zeros(3, int))
    np.save(tmp_path / "offsets.npy", np.array(offsets))
    with pytest.raises(FormatError, match="do not fit together"):
        Units.load(tmp_path)


@given(lengths=st.lists(st.integers(0, 9), max_size=6))
def test_places_of_any_lengths_are_taken(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    assert are_offsets(offsets, len(lengths), sum(lengths))
    assert not are_offsets(offsets, len(lengths) + 1, sum(lengths))
    assert not are_offsets(offsets, len(lengths), sum(lengths) + 1)


def test_a_label_beyond_the_classes_is_named(tmp_path):
    with UnitsWriter(tmp_path, [4], {}) as writer:
        writer.add("x", np.array([0, 3, 1]))
    header = json.loads((tmp_path / "units.json").read_text())
    (tmp_path / "units.json").write_text(json.dumps({**header, "classes": [3]}))
    with pytest.raises(InputError, match=r"x has the label 3; units\.json says that there are 3 classes"):
        Units.load(tmp_path).labels("x")


def test_a_full_disk_under_an_array_is_one_line(tmp_path):
    """`np.save` gives an error without its number: a traceback."""
    before = write(tmp_path, {"a": [[1, 2]]}).hash
    with files_up_to(300), pytest.raises(HubertkitError, match="larger than is allowed"):
        write(tmp_path, {f"b{i}": [[1]] for i in range(50)})  # 400 bytes of offsets
    assert Units.load(tmp_path).hash == before
    assert not (tmp_path / ".writing").exists()


@pytest.mark.parametrize("frames", [1000, 100_000])
def test_what_a_full_disk_stopped_leaves_no_unfinished_folder(tmp_path, frames):
    """Closing the files failed once more, for the same reason."""
    with files_up_to(300), pytest.raises(HubertkitError, match="larger than is allowed"):
        write(tmp_path, {"a": [[1] * frames]})
    assert not list(tmp_path.iterdir())


def test_a_header_of_zeros_is_one_line(tmp_path):
    write(tmp_path, {"a": [[1, 2]]})
    content = (tmp_path / "stream0.npy").read_bytes()
    (tmp_path / "stream0.npy").write_bytes(content[:40] + bytes(60) + content[100:])
    with pytest.raises(FormatError, match="cannot be read"):
        Units.load(tmp_path)


def test_a_full_disk_under_the_header_leaves_the_units_that_were_there(tmp_path):
    """They were replaced first, and then their header could not be written."""
    before = write(tmp_path, {"a": [[1, 2]]}).hash
    with files_up_to(2000), pytest.raises(HubertkitError, match="larger than is allowed"):
        write(tmp_path, {"b": [[1]]}, meta={"made by": "x" * 3000})
    assert Units.load(tmp_path).hash == before
    assert not (tmp_path / ".writing").exists()
