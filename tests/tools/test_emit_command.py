"""`hubertkit emit`: what it does not write over."""

import numpy as np
import pytest
import soundfile

from downstream.emissions import Emissions, EmissionsWriter
from tools.main import run
from upstream.audio import import_folder


def test_emissions_of_other_recordings_are_not_replaced(tmp_path, capsys):
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings/a.wav", np.zeros(16_000), 16_000)
    import_folder(tmp_path / "recordings").save(tmp_path / "a.arrow")
    with EmissionsWriter(tmp_path / "ems", ["-", "|", "A"], 0, 50.0, {"manifest_hash": "another"}) as writer:
        writer.add("b", np.log(np.full((3, 3), 1 / 3)))
    before = Emissions.load(tmp_path / "ems").hash
    assert run(["emit", str(tmp_path / "asr"), str(tmp_path / "a.arrow"), "--out", str(tmp_path / "ems")]) == 2
    assert "holds emissions of 1 other recordings" in capsys.readouterr().err
    assert Emissions.load(tmp_path / "ems").hash == before


@pytest.mark.parametrize("damage", ["logprobs.npy", "emissions.json"])
def test_damaged_emissions_may_be_computed_again(tmp_path, capsys, damage):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    manifest = import_folder(tmp_path)
    manifest.save(tmp_path / "a.arrow")
    with EmissionsWriter(tmp_path / "ems", ["-", "|", "A"], 0, 50.0, {"manifest_hash": manifest.hash}) as writer:
        writer.add("a", np.log(np.full((3, 3), 1 / 3)))
    (tmp_path / "ems" / damage).write_bytes(b"{")
    assert run(["emit", str(tmp_path / "asr"), str(tmp_path / "a.arrow"), "--out", str(tmp_path / "ems")]) == 2
    assert "asr" in capsys.readouterr().err  # it got as far as the recogniser, which is not there
