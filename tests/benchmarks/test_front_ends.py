"""The comparison of front ends, tiny: a row for each, and what was measured is not measured again."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from benchmarks import front_ends
from benchmarks.front_ends import FRONT_ENDS, SIZES, Plan, run
from benchmarks.results import read_results
from tools.main import run as main
from upstream.audio.corpora.folder import import_folder

TONES = {"A": 300, "B": 900, "C": 2500}
SMALL = {"width": 32, "ffn": 32, "heads": 2, "positional_kernel": 4}
WORDS = [*(f"encoder.{k}={v}" for k, v in SMALL.items()), "training.crop_seconds=1", "training.batch_seconds=4",
         "training.micro_batch_seconds=2", "rounds.0.teacher.clusters=3", "training.log_every=1"]


@pytest.fixture
def recordings(tmp_path):
    """Four utterances whose phones are tones of 120 ms."""
    rng = np.random.default_rng(0)
    for folder in ("audio", "phones"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        phones = rng.choice(list(TONES), 20)
        pitch = np.repeat([TONES[p] for p in phones], 1920)
        wave = 0.2 * np.sin(np.cumsum(2 * np.pi * pitch / 16_000)) + rng.normal(0, 0.01, len(pitch))
        soundfile.write(tmp_path / "audio" / f"u{number}.wav", wave, 16_000)
        (tmp_path / "phones" / f"u{number}.ctm").write_text(
            "".join(f"u 1 {0.12 * i:.2f} 0.12 {p}\n" for i, p in enumerate(phones)))
    import_folder(tmp_path / "audio").save(tmp_path / "all.arrow")
    return tmp_path


def test_every_front_end_has_its_cost_and_its_pnmi(recordings, monkeypatch):
    monkeypatch.setattr(front_ends, "REPEATS", 1)
    monkeypatch.setattr(front_ends, "SIZES", {name: replace(SIZES["tiny"], **SMALL) for name in SIZES})
    monkeypatch.setattr(front_ends, "FRONT_ENDS", {name: FRONT_ENDS[name] for name in ("light-40ms", "fbank")})
    plan = Plan(rows=1, seconds=1.0, updates=2, overrides=tuple(WORDS))
    where = (recordings / "all.arrow", recordings / "all.arrow", recordings / "phones", recordings / "out")
    run(plan, *where, "a test")
    found = read_results(recordings / "out" / "results.json")
    cost = [(r["model"], r["front_end"]) for r in found["rows"] if r["what"] == "cost"]
    assert cost == [(size, name) for size in ("base", "tiny") for name in front_ends.FRONT_ENDS]
    learnt = [r for r in found["rows"] if r["what"] == "pnmi"]
    assert [r["front_end"] for r in learnt] == list(front_ends.FRONT_ENDS)
    for row in learnt:
        assert row["best"] == max(row["pnmi"])
        assert 0 < row["best"] <= 1
    costs = [r for r in found["rows"] if r["what"] == "cost"]
    assert {r["share_of_conv"] for r in costs if r["front_end"] == "light-40ms"} == {1.0}  # it stands first here
    monkeypatch.setattr(front_ends, "update_seconds", None)  # calling it would fail
    run(plan, *where, "a test")
    assert read_results(recordings / "out" / "results.json")["rows"] == found["rows"]


def test_no_updates_are_refused(recordings, capsys):
    manifest, phones = str(recordings / "all.arrow"), str(recordings / "phones")
    assert main(["bench", "front-ends", "--data", manifest, "--aligned", manifest, "--alignments", phones, "--out",
                 str(recordings / "out"), "--updates", "0"]) == 2


def test_costs_of_somebody_else_are_not_replaced(recordings, capsys):
    (recordings / "out").mkdir()
    (recordings / "out" / "cost.json").write_text("[]")
    manifest, phones = str(recordings / "all.arrow"), str(recordings / "phones")
    assert main(["bench", "front-ends", "--data", manifest, "--aligned", manifest, "--alignments", phones, "--out",
                 str(recordings / "out")]) == 2
    assert "cost.json: is there already and no costs of front ends" in capsys.readouterr().err
    assert (recordings / "out" / "cost.json").read_text() == "[]"


def test_only_those_asked_for_are_trained_and_nothing_is_timed(recordings, monkeypatch, capsys):
    manifest, phones = str(recordings / "all.arrow"), str(recordings / "phones")
    words = ["bench", "front-ends", "--data", manifest, "--aligned", manifest, "--alignments", phones, "--out",
             str(recordings / "out"), "--updates", "2", *WORDS]
    assert main([*words, "--only", "fbank,mel"]) == 2
    assert "--only mel: one of conv, light" in capsys.readouterr().err
    monkeypatch.setattr(front_ends, "update_seconds", None)  # calling it would fail
    assert main([*words, "--only", "fbank"]) == 0
    [row] = read_results(recordings / "out" / "results.json")["rows"]
    assert (row["what"], row["front_end"]) == ("pnmi", "fbank")
