"""The whole way on synthesised speech, as a user runs it: stages, results, and SIGKILL anywhere."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

# The quick demo, cut further: every stage is there, no score means anything.
SMALL = ["pretrain.training.updates=8", "pretrain.training.save_every=4", "pretrain.training.validate_every=4",
         "pretrain.training.batch_seconds=8", "pretrain.training.micro_batch_seconds=8", "pretrain.encoder.layers=3",
         "finetune.training.updates=8", "finetune.training.save_every=4", "finetune.training.validate_every=8",
         "decoding.resamples=200", "decoding.beam=4", "decoding.tune_seconds=8", "pretrain.encoder.width=64",
         "pretrain.encoder.ffn=128"]
STAGES = ["speech", "splits", "lm", "cells/3min-scratch/recogniser", "cells/3min-scratch/emissions-test",
          "cells/3min-scratch/decoded", "pretrain/round1/teacher", "pretrain/round1/units",
          "pretrain/round1/encoder", "pretrain/round2/teacher", "pretrain/round2/units", "pretrain/round2/encoder",
          "cells/3min-round2/recogniser", "cells/3min-round2/decoded"]
NOT_NUMBERS = {"seconds", "date", "command", "machine", "versions"}


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "tools.main", "demo", "--quick", "--out", str(out), *SMALL]


def run(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out), capture_output=True, text=True, timeout=280, env=environment(), check=False)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HUBERTKIT_DEBUG": "1"}


def numbers(value):
    """A result without what differs from run to run: times and the command."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in NOT_NUMBERS}
    return [numbers(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    pytest.importorskip("espeakng_loader", reason="the extra `demo` is not installed")
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out, done


def rows_of(out: Path, split: str) -> int:
    return len((out / "speech/splits" / f"{split}.txt").read_text().split())


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def test_the_demo_leaves_results_for_every_encoder_and_decoder(undisturbed):
    out, done = undisturbed
    rows = results(out)["rows"]
    assert [(r["encoder"], r["decoder"]) for r in rows] == [
        (e, d) for e in ("scratch", "round 1", "round 2") for d in ("greedy", "batched+3gram")]
    assert len({r["words"] for r in rows}) == 1
    assert all(r["errors"] == r["substitutions"] + r["deletions"] + r["insertions"] for r in rows)
    assert all(r["wer_interval"][0] <= r["wer"] <= r["wer_interval"][1] for r in rows)
    assert all(r["finetune_updates"] == 8 for r in rows)
    assert [r["round"] for r in results(out)["rounds"]] == [1, 2]
    assert all(0 < r["units"]["pnmi"] < 1 for r in results(out)["rounds"])
    assert "results.json" in done.stdout
    assert "report.html" in done.stdout
    assert results(out)["command"] in (out / "report/report.html").read_text()
    test = results(out)["test"]
    assert (test["utterances"], test["speakers"] > 1) == (rows_of(out, "test"), True)
    assert test["manifest"] != results(out)["dev"]["manifest"]
    assert "round 2" in done.stdout


def test_test_voices_and_sentences_are_unseen(undisturbed):
    from upstream.audio.manifest import Manifest

    out, _ = undisturbed
    train, test = (Manifest.load(out / "splits" / f"{s}.arrow") for s in ("unlabelled", "test"))
    assert not set(train.speakers) & set(test.speakers)
    assert not set(train.texts) & set(test.texts)
    lm = set((out / "speech/lm-text/sentences.txt").read_text().splitlines())
    assert not lm & set(test.texts)


def test_running_again_does_nothing(undisturbed):
    out, _ = undisturbed
    before = numbers(results(out))
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = run(out)
    assert again.returncode == 0
    assert again.stderr.count("done before, skipped") >= 20
    assert "started" not in again.stderr
    assert numbers(results(out)) == before
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == stamps


def kill_in(stage: str, out: Path) -> None:
    """Start the demo, wait until the stage runs, and SIGKILL the process group; fails if it was not killed."""
    began = time.time()
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
                               start_new_session=True)
    record = out / stage / "stage.json"
    try:
        while process.poll() is None:
            if entered_since(began, record):
                time.sleep(0.15 if stage.endswith(("encoder", "recogniser")) else 0.01)  # the next must not be done yet
                break
            time.sleep(0.005)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, f"{stage} was not seen running: exit code {process.returncode}"


def entered_since(began: float, record: Path) -> bool:
    """Whether a stage is running, and not only left so by a process that was killed before."""
    try:
        return record.stat().st_mtime >= began - 0.05 and json.loads(record.read_text())["state"] == "running"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stages", [
    ["cells/3min-scratch/recogniser"],
    pytest.param(STAGES, marks=pytest.mark.slow),
], ids=["one stage", "every stage"])
def test_sigkill_in_a_stage_changes_no_number(undisturbed, tmp_path, stages):
    for stage in sorted(stages, key=STAGES.index):
        kill_in(stage, tmp_path)
        assert not (tmp_path / "results.json").exists() or results(tmp_path)["rows"]
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert numbers(results(tmp_path)) == numbers(results(undisturbed[0]))
