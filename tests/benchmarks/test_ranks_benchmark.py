"""The comparison of ranks, tiny: one, two that share, two apart, each beside one."""

import pytest
from full_disk import files_up_to

from benchmarks.ranks import Plan, run, sums
from benchmarks.results import check
from tools.main import run as main

pytestmark = pytest.mark.processes

SMALL = ("encoder.width=32", "encoder.layers=2", "encoder.heads=2", "encoder.ffn=64", "encoder.positional_groups=2",
         "rounds.0.teacher.clusters=8", "rounds.1.teacher.layer=1", "training.precision=float32")


@pytest.mark.slow
def test_one_rank_two_ranks_and_two_trainings_apart_are_measured():
    said = []
    found = run(Plan(updates=4, log_every=2, repeats=1, overrides=SMALL), said.append)
    assert [(r["what"], r["processes"]) for r in found["rows"]] == [("ranks", 1), ("ranks", 2), ("apart", 2)]
    assert [r["times_one"] for r in found["rows"][:1]] == [1.0]
    assert [r.get("goal") for r in found["rows"]] == [None, 1.8, None]
    one, two, _ = (r["audio_seconds_per_second"] for r in found["rows"])
    assert found["rows"][1]["times_one"] == pytest.approx(two / one, abs=0.01)
    check({"format": 1, "date": "2026-01-01", "machine": {"processor": "x", "cores": 2},
           "versions": {"python": "3", "torch": "2"}, "command": "x", **found}, "rows")
    assert found["sums"]["messages_ms"] > 0
    assert said[0] == "turn 1 of 1: ranks of one training, 1 of them"


def test_a_full_disk_is_one_line(tmp_path, capsys):
    """A traceback of soundfile's, which does not say why it cannot write."""
    with files_up_to(20_000):
        assert main(["bench", "ranks", "--out", str(tmp_path / "r.json")]) == 1
    said = capsys.readouterr().err
    assert "u000.flac: the file is larger than is allowed here" in said
    assert not (tmp_path / "r.json").exists()


def test_too_few_updates_are_refused(tmp_path, capsys):
    assert main(["bench", "ranks", "--updates", "10", "--out", str(tmp_path / "r.json")]) == 2
    assert "at least 40" in capsys.readouterr().err
    with pytest.raises(ValueError, match="two readings"):
        Plan(updates=3, log_every=2)


def test_both_ways_to_add_up_gradients_are_measured():
    found = sums(1000)
    assert found["values"] == 1000
    assert found["messages_ms"] > 0
    assert found["shared_memory_ms"] is None or found["shared_memory_ms"] > 0
