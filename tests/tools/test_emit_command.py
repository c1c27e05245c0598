"""`hubertkit emit`: what it does not write over."""

import numpy as np
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
