"""The scale benchmark on a small manifest: what it writes is a manifest, and what it counts is there."""

import json
import os
import signal

import numpy as np
import pytest

from benchmarks import scale
from benchmarks.results import check
from tools.main import run
from upstream.audio import Manifest
from upstream.audio.manifest_file import read_table
from upstream.errors import HubertkitError

pytestmark = pytest.mark.processes


def test_the_synthetic_manifest_is_one_and_has_the_hours(tmp_path):
    scale.write_synthetic(tmp_path / "m.arrow", 5000, 5000 * 15.43 / 3600)
    manifest = Manifest.load(tmp_path / "m.arrow")
    assert len(manifest) == len(set(manifest.ids)) == 5000
    assert manifest.seconds / 5000 == pytest.approx(15.43, rel=0.02)
    assert manifest.lengths.min() >= 32_000
    assert manifest.hash == read_table(tmp_path / "m.arrow")[2]
    for before, after in zip(list(manifest)[:63], list(manifest)[1:64]):  # one recording, without gaps
        assert (before.audio, before.start + before.samples) == (after.audio, after.start)
    assert manifest[64].start == 0


def test_what_is_measured_is_there_and_fits_the_schema(tmp_path, monkeypatch):
    found = scale.run(3000, 3000 * 15.43 / 3600, tmp_path)
    opened, planned = found["rows"]
    assert (opened["what"], planned["what"]) == ("open", "plan")
    assert 0 < opened["seconds"] < planned["seconds"] + 1
    assert planned["peak_memory"] >= planned["memory_at_start"] > 1 << 20
    assert planned["updates"] == pytest.approx(3000 * 15.43 / 87.5, rel=0.2)
    assert planned["hours_heard"] == pytest.approx(3000 * 15.43 / 3600, rel=0.25)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_results_file(tmp_path, capsys):
    assert run(["bench", "scale", "--out", str(tmp_path / "scale.json"), "--utterances", "2000"]) == 0
    found = json.loads((tmp_path / "scale.json").read_text())
    check(found, tmp_path / "scale.json")
    assert found["command"].startswith("hubertkit")
    assert [row["utterances"] for row in found["rows"]] == [2000, 2000]
    assert found["rows"][0]["hours"] == pytest.approx(2000 / 14e6 * 60_000)
    out = capsys.readouterr().out
    assert "open" in out
    assert np.isfinite(found["rows"][1]["seconds"])


def killed(path):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_measurement_ends_with_a_line(tmp_path, monkeypatch):
    """It waited for ever."""
    monkeypatch.setattr(scale, "measure", killed)
    with pytest.raises(HubertkitError, match="the plan: the process that measured was killed"):
        scale.run(3000, 3000 * 15.43 / 3600, tmp_path)
    assert not list(tmp_path.iterdir())
