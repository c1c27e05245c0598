"""fairseq's labels: written as fairseq reads them, read as fairseq trains on them, and refused line by line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Manifest, Utterance
from upstream.errors import InputError, UsageError
from upstream.frames import CONV_GRID, KALDI_GRID
from upstream.teacher.fairseq_labels import export_labels, import_labels
from upstream.teacher.units import Units, UnitsWriter


def corpus(lengths):
    return Manifest.of([Utterance(f"u{i}", Path("/a.wav"), 0, n, 16_000, 1) for i, n in enumerate(lengths)], "a test")


def km(path, lines):
    path.write_text("".join(f"{' '.join(map(str, line))}\n" for line in lines))
    return path


@given(lengths=st.lists(st.integers(400, 9000), min_size=1, max_size=6), classes=st.lists(st.integers(1, 600),
       min_size=1, max_size=3), seed=st.integers(0, 9))
def test_labels_come_back_with_ids_classes_and_all_streams(tmp_path_factory, lengths, classes, seed):
    folder, manifest, rng = tmp_path_factory.mktemp("km"), corpus(lengths), np.random.default_rng(seed)
    with UnitsWriter(folder / "units", classes) as writer:
        for name, n in reversed(list(zip(manifest.ids, lengths))):  # another order than the manifest's
            writer.add(name, *(rng.integers(0, k, CONV_GRID.frames(n)) for k in classes))
    units = Units.load(folder / "units")
    files = [p for p in export_labels(units, manifest, folder, "train") if p.name.startswith("train")]
    found = import_labels(files, manifest, folder / "back")
    assert (found.ids, found.classes, found.manifest_hash) == (manifest.ids, units.classes, manifest.hash)
    for name in manifest.ids:
        for stream in range(len(classes)):
            np.testing.assert_array_equal(found.labels(name, stream), units.labels(name, stream))


@given(samples=st.integers(400, 20_000))
def test_of_100_labels_a_second_those_are_kept_that_fairseq_trains_on(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("km")
    labels = np.arange(KALDI_GRID.frames(samples))
    found = import_labels([km(folder / "a.km", [labels])], corpus([samples]), folder / "units", rate=100)
    frames = range(CONV_GRID.frames(samples))
    assert found.labels("u0").tolist() == [labels[2 * t] for t in frames]


def test_the_dictionary_says_how_many_classes_there_are(tmp_path):
    path = km(tmp_path / "train.km", [[0, 1] * 25][:1])
    path.write_text(" ".join("01" * 24 + "0") + "\n")
    manifest = corpus([16_000])
    assert import_labels([path], manifest, tmp_path / "a").classes == (2,)
    (tmp_path / "dict.km.txt").write_text("2 1\n0 1\n1 1\n9 1\n")
    assert import_labels([path], manifest, tmp_path / "b").classes == (10,)
    (tmp_path / "other.txt").write_text("0 1\n")
    with pytest.raises(InputError, match=r"train\.km, line 1 \(u0\): the label 1 is not in the dictionary"):
        import_labels([path], manifest, tmp_path / "c", dictionaries=[tmp_path / "other.txt"])
    (tmp_path / "other.txt").write_text("\n")
    with pytest.raises(InputError, match=r"other\.txt: no classes; an empty dictionary trains on nothing"):
        import_labels([path], manifest, tmp_path / "c", dictionaries=[tmp_path / "other.txt"])
    (tmp_path / "other.txt").write_text("0 1\nAA 3\n")
    with pytest.raises(InputError, match=r"other\.txt, line 2: 'AA' is no class"):
        import_labels([path], manifest, tmp_path / "c", dictionaries=[tmp_path / "other.txt"])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("lines", "said"), [
    ([[0] * 49, [0] * 48, [0] * 49], r"line 2 \(u1\): 48 labels for 16000 samples, expected 49; the labels are of oth"),
    ([[0] * 49, [0] * 98, [0] * 49], r"line 2 \(u1\): 98 labels .*at 100 Hz: give that rate \(--rate 100\)"),
    ([[0] * 49, [0] * 49], r"2 lines for 3 utterances; line 3 \(u2\) is missing"),
    ([[0] * 49] * 4, "line 4: one line too many: the manifest has 3 utterances"),
    ([[0] * 49, ["x"] * 49, [0] * 49], r"line 2 \(u1\): not numbers"),
    ([[0] * 49, [-1] * 49, [0] * 49], r"line 2 \(u1\): the label -1 is not in \[0, 65536\)"),
    ([[0] * 49, [1 << 16] * 49, [0] * 49], r"line 2 \(u1\): the label 65536 is not in"),
    ([[0] * 49, [1 << 70] * 49, [0] * 49], r"line 2 \(u1\): not numbers"),
])
def test_the_first_wrong_line_is_named_and_nothing_is_written(tmp_path, lines, said):
    with pytest.raises(InputError, match=said):
        import_labels([km(tmp_path / "a.km", lines)], corpus([16_000] * 3), tmp_path / "units")
    assert not (tmp_path / "units").exists()


def test_units_that_do_not_fit_the_manifest_are_not_written(tmp_path):
    with UnitsWriter(tmp_path / "units", (3,), {"manifest_hash": "e" * 64}) as writer:
        writer.add("u0", np.arange(49) % 3)
    units = Units.load(tmp_path / "units")
    with pytest.raises(InputError, match=r"^u1: no units .*made of manifest eeeeeeeeeeee and not of this one"):
        export_labels(units, corpus([16_000] * 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_told_as_such(tmp_path):
    with pytest.raises(UsageError, match="50 or 100"):
        import_labels([tmp_path / "a.km"], corpus([400]), tmp_path / "units", rate=25)
    with pytest.raises(UsageError, match="one for each file"):
        import_labels([tmp_path / "a.km"], corpus([400]), tmp_path / "units", dictionaries=[])
    with pytest.raises(UsageError, match=r"a\.km: no such file"):
        import_labels([tmp_path / "a.km"], corpus([400]), tmp_path / "units")
