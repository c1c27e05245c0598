"""Commands that write synthesised speech leave alone what another run or the user has in the folder."""

import pytest

import tools.bench
import tools.demo
from tools.main import run
from upstream.audio.manifest import Manifest, Utterance
from upstream.locks import locked


def listing(folder, *ids):
    """The manifest of recordings that need not be there."""
    return Manifest.of((Utterance(i, folder / f"{i}.flac", 0, 16000, 16000, 1, "ada", "A") for i in ids), "test")


@pytest.fixture
def silent(monkeypatch):
    """Nothing is spoken, nothing is trained."""
    for module in (tools.demo, tools.bench):
        monkeypatch.setattr(module, "synthesise", lambda *_: pytest.fail("the speech was made anew"))
    monkeypatch.setattr("benchmarks.curves.pretrain", lambda *_, **__: pytest.fail("a training began"))


def test_a_second_demo_leaves_the_speech_of_the_first(tmp_path, silent, capsys):
    with locked(tmp_path):
        assert run(["demo", "--quick", "--seed", "1", "--out", str(tmp_path)]) == 1
    assert "another process works here" in capsys.readouterr().err
    assert not (tmp_path / "speech").exists()


def test_second_curves_leave_the_speech_of_the_first(tmp_path, silent, capsys):
    with locked(tmp_path):
        assert run(["bench", "curves", "hubert-tiny", "--run", str(tmp_path), "--out", str(tmp_path / "c.json")]) == 1
    assert "another process works here" in capsys.readouterr().err


def test_curves_leave_a_list_of_recordings_of_the_user_alone(tmp_path, silent, capsys):
    listing(tmp_path, "a").save(tmp_path / "recordings.arrow")
    listing(tmp_path, "b").save(tmp_path / "other.arrow")
    before = (tmp_path / "recordings.arrow").read_bytes()
    assert run(["bench", "curves", "hubert-tiny", "--run", str(tmp_path), "--out", str(tmp_path / "c.json"),
                 "--recordings", str(tmp_path / "other.arrow")]) == 2
    assert "another list of recordings is there already" in capsys.readouterr().err
    assert (tmp_path / "recordings.arrow").read_bytes() == before
