"""Emissions come back as they went in, broken ones are refused by name, and an interrupted writer changes nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from full_disk import files_up_to
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.emissions import Emissions, EmissionsWriter
from upstream.errors import FormatError, HubertkitError, InputError, UsageError

SYMBOLS = ("<pad>", "|", "A", "B")


def some_logprobs(frames: int, seed: int = 0, symbols: int = len(SYMBOLS)) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, symbols)) * 3
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def write(folder, utterances, **options):
    with EmissionsWriter(folder, SYMBOLS, 0, 50.0, **options) as writer:
        for id, logprobs in utterances.items():
            writer.add(id, logprobs)
    return Emissions.load(folder)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=6))
def test_emissions_come_back_as_they_went_in(tmp_path_factory, lengths):
    utterances = {f"u{i}": some_logprobs(frames, i) for i, frames in enumerate(lengths)}
    emissions = write(tmp_path_factory.mktemp("e"), utterances, meta={"manifest_hash": "m"}, dtype="float32")
    assert emissions.ids == list(utterances)
    assert (emissions.symbols, emissions.blank, emissions.rate, emissions.manifest_hash) == (SYMBOLS, 0, 50.0, "m")
    for id, logprobs in utterances.items():
        np.testing.assert_array_equal(emissions.logprobs(id), logprobs)
        assert emissions.seconds(id) == len(logprobs) / 50


def test_half_precision_keeps_three_digits(tmp_path):
    logprobs = some_logprobs(100)
    stored = write(tmp_path, {"a": logprobs}).logprobs("a")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, logprobs, rtol=1e-3, atol=1e-3)


def test_a_probability_of_zero_is_kept(tmp_path):
    certain = np.array([[0.0, -np.inf, -np.inf, -np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(write(tmp_path, {"a": certain}).logprobs("a"), certain)


def test_the_hash_follows_the_content_and_not_the_place(tmp_path):
    one = {"a": some_logprobs(5, 1), "b": some_logprobs(7, 2)}
    first = write(tmp_path / "1", one, meta={"made": "today"}).hash
    assert write(tmp_path / "2", one).hash == first
    assert write(tmp_path / "3", {"a": one["a"], "c": one["b"]}).hash != first
    assert write(tmp_path / "4", {"a": one["a"], "b": some_logprobs(7, 3)}).hash != first


@pytest.mark.parametrize(("broken", "words"), [
    (np.where(np.arange(20).reshape(5, 4) == 9, np.nan, -np.log(4)), "NaN.*frame 2"),
    (np.where(np.arange(20).reshape(5, 4) == 9, np.inf, -np.log(4)), "infinity.*frame 2"),
    (np.full((5, 3), -np.log(3)), r"\(5, 3\)"),
    (np.full((5, 4), 0.25), "frame 0 sums to 5.136, not 1"),
    (np.full((5, 4), -np.inf), "sums to 0, not 1"),
    (np.full((5, 4), np.inf), "infinity.*frame 0"),
])
def test_broken_emissions_are_refused_by_the_name_of_the_utterance(tmp_path, broken, words):
    with EmissionsWriter(tmp_path, SYMBOLS, 0, 50.0) as writer:
        writer.add("good", some_logprobs(3))
        with pytest.raises(InputError, match=f"^bad: .*{words}"):
            writer.add("bad", broken)
    assert Emissions.load(tmp_path).ids == ["good"]


def test_an_id_is_taken_once(tmp_path):
    with EmissionsWriter(tmp_path, SYMBOLS, 0, 50.0) as writer:
        writer.add("a", some_logprobs(3))
        with pytest.raises(InputError, match=r"^a: .*twice"):
            writer.add("a", some_logprobs(3))


def test_a_failure_leaves_the_emissions_that_were_there(tmp_path):
    before = write(tmp_path, {"a": some_logprobs(5)}).hash
    with pytest.raises(InputError, match="NaN"):
        write(tmp_path, {"b": some_logprobs(50), "c": np.full((5, 4), np.nan)})
    assert Emissions.load(tmp_path).hash == before
    assert not (tmp_path / ".writing").exists()


def test_a_killed_writer_is_no_obstacle_for_the_next(tmp_path):
    EmissionsWriter(tmp_path, SYMBOLS, 0, 50.0).add("a", some_logprobs(5))  # never closed
    with pytest.raises(FormatError, match=r"no emissions\.json"):
        Emissions.load(tmp_path)
    assert write(tmp_path, {"b": some_logprobs(5)}).ids == ["b"]


def test_files_beside_the_emissions_stay(tmp_path):
    (tmp_path / "stage.json").write_text("{}")
    write(tmp_path, {"a": some_logprobs(5)})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "emissions.json", "ids.arrow", "logprobs.npy", "offsets.npy", "stage.json"]


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    write(tmp_path, {"a": some_logprobs(5)})
    np.save(tmp_path / "offsets.npy", np.array([0, 4]))
    with pytest.raises(FormatError, match="do not fit together"):
        Emissions.load(tmp_path)
    (tmp_path / "offsets.npy").write_bytes(b"nothing")
    with pytest.raises(FormatError, match="cannot be read"):
        Emissions.load(tmp_path)


def test_another_version_is_refused(tmp_path):
    write(tmp_path, {"a": some_logprobs(5)})
    header = json.loads((tmp_path / "emissions.json").read_text())
    (tmp_path / "emissions.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(FormatError, match="version 1"):
        Emissions.load(tmp_path)


@pytest.mark.parametrize(("name", "value"), [
    ("symbols", None), ("symbols", ["a", 1]), ("blank", "0"), ("blank", True), ("frame_rate", 0), ("frame_rate", "x"),
    ("frame_rate", float("inf")), ("hash", None), ("meta", None)])
def test_a_header_with_wrong_values_is_named(tmp_path, name, value):
    """Folders of others: they ended in tracebacks, some only in decoding."""
    write(tmp_path, {"a": some_logprobs(5)})
    header = json.loads((tmp_path / "emissions.json").read_text())
    (tmp_path / "emissions.json").write_text(json.dumps({**header, name: value}))
    with pytest.raises(FormatError, match=rf"emissions\.json: {name} is .*; expected"):
        Emissions.load(tmp_path)


def test_a_header_of_another_format_is_refused(tmp_path):
    write(tmp_path, {"a": some_logprobs(5)})
    header = json.loads((tmp_path / "emissions.json").read_text())
    (tmp_path / "emissions.json").write_text(json.dumps({**header, "format": "hubertkit units"}))
    with pytest.raises(FormatError, match="not emissions of format version 1"):
        Emissions.load(tmp_path)


@pytest.mark.parametrize("value", [Path("lm.arpa"), float("nan"), np.int64(3)])
def test_provenance_that_json_cannot_hold_is_named_before_anything_is_replaced(tmp_path, value):
    """`meta={"lm": Path(...)}` failed when all was computed, and the emissions that the folder held were gone."""
    before = write(tmp_path, {"a": some_logprobs(5)}).hash
    with pytest.raises(UsageError, match=r"emissions\.json: lm cannot be written as JSON"):
        write(tmp_path, {"b": some_logprobs(5)}, meta={"lm": value})
    assert Emissions.load(tmp_path).hash == before


def test_all_arrays_are_on_the_disk_before_they_take_their_names(tmp_path, monkeypatch):
    """After a power cut the offsets of finished emissions could be missing."""
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file)))
    write(tmp_path, {"a": some_logprobs(5)})
    assert {(tmp_path / name).stat().st_ino for name in ("logprobs.npy", "offsets.npy")} <= synced


def test_log_probabilities_that_are_no_matrix_are_named(tmp_path):
    write(tmp_path, {"a": some_logprobs(5)})
    np.save(tmp_path / "logprobs.npy", np.zeros(5, np.float32))
    with pytest.raises(FormatError, match="do not fit together"):
        Emissions.load(tmp_path)


def test_an_unknown_id_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^nobody: no emissions"):
        write(tmp_path, {"a": some_logprobs(5)}).logprobs("nobody")


def test_the_blank_must_be_a_column(tmp_path):
    with pytest.raises(InputError, match="blank is column 4 of 4"):
        EmissionsWriter(tmp_path, SYMBOLS, 4, 50.0)


def test_a_full_disk_under_an_array_is_one_line(tmp_path):
    """`np.save` gives an error without its number: a traceback."""
    before = write(tmp_path, {"a": some_logprobs(5)}).hash
    with files_up_to(300), pytest.raises(HubertkitError, match="larger than is allowed"):
        write(tmp_path, {f"b{i}": some_logprobs(0) for i in range(50)})  # 400 bytes of offsets
    assert Emissions.load(tmp_path).hash == before
    assert not (tmp_path / ".writing").exists()


@pytest.mark.parametrize("frames", [100, 100_000])
def test_what_a_full_disk_stopped_leaves_no_unfinished_folder(tmp_path, frames):
    """Closing the file failed once more, for the same reason."""
    with files_up_to(300), pytest.raises(HubertkitError, match="larger than is allowed"):
        write(tmp_path, {"a": some_logprobs(frames)})
    assert not list(tmp_path.iterdir())


def test_a_header_of_zeros_is_one_line(tmp_path):
    """`tokenize.TokenError`: what a crash left of the file."""
    write(tmp_path, {"a": some_logprobs(5)})
    content = (tmp_path / "logprobs.npy").read_bytes()
    (tmp_path / "logprobs.npy").write_bytes(content[:40] + bytes(60) + content[100:])
    with pytest.raises(FormatError, match="cannot be read"):
        Emissions.load(tmp_path)


def test_a_full_disk_under_the_header_leaves_the_emissions_that_were_there(tmp_path):
    """They were replaced first, and then their header could not be written."""
    before = write(tmp_path, {"a": some_logprobs(5)}).hash
    with files_up_to(2000), pytest.raises(HubertkitError, match="larger than is allowed"):
        write(tmp_path, {"b": some_logprobs(3)}, meta={"made by": "x" * 3000})
    assert Emissions.load(tmp_path).hash == before
    assert not (tmp_path / ".writing").exists()
