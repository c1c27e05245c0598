"""The feeding benchmark on a few seconds: every source is measured, and what is read is what was written."""

import numpy as np
import pytest
import soundfile
from full_disk import files_up_to

from benchmarks import feeding
from benchmarks.results import read_results
from tools.main import run
from upstream.audio import import_folder, read
from upstream.errors import InputError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number, seconds in enumerate((1.0, 3.0, 4.0, 5.0)):  # the first is too short for a crop
        wave = rng.normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000)
    return tmp_path


def test_every_source_is_measured(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(feeding, "REPEATS", 1)
    assert run(["bench", "feeding", str(folder), "--out", str(tmp_path / "f.json")]) == 0
    found = read_results(tmp_path / "f.json")
    measured = {(r["what"], r["source"], r["threads"]) for r in found["rows"]}
    assert {("decode", s, 1) for s in ("flac", "wav", "memory", "disk")} <= measured
    assert {("crops", s, 1) for s in ("flac", "wav", "memory", "disk")} <= measured
    assert all(r["audio_seconds_per_second"] > 0 for r in found["rows"])
    assert found["minutes"] == pytest.approx(12 / 60, abs=0.05)
    assert 0 <= found["discarded"] < 0.5


def test_a_full_disk_leaves_no_format_out(folder, tmp_path, capsys):
    """It was taken for a libsndfile that cannot write FLAC, and what was left was measured."""
    with files_up_to(20_000):
        assert run(["bench", "feeding", str(folder), "--out", str(tmp_path / "f.json")]) == 1
    said = capsys.readouterr().err
    assert "0.flac: the file is larger than is allowed here" in said
    assert not (tmp_path / "f.json").exists()


def test_formats_hold_the_same_speech(folder, tmp_path):
    chosen = feeding._first(import_folder(folder), 1e9)
    assert chosen.ids == ["1", "2", "3"]
    copied = feeding._written(chosen, tmp_path / "flac", {})
    for before, after in zip(chosen, copied):
        np.testing.assert_array_equal(read(before), read(after))


def test_recordings_without_room_for_a_crop_are_refused(folder):
    with pytest.raises(InputError, match="no recording of at least 2 s"):
        feeding.run(import_folder(folder).select([0]))


def test_minutes_must_be_some(folder, capsys):
    assert run(["bench", "feeding", str(folder), "--minutes", "0"]) == 2
