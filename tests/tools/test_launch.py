"""Ranks as a user meets them: `--ranks`, the same numbers, and a rank that dies."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from tools.launch import _check, largest_share, launched
from upstream.errors import UsageError

SMALL = ["hubert-tiny", "encoder.width=32", "encoder.layers=2", "encoder.heads=2", "encoder.ffn=64",
         "encoder.positional_groups=2", "encoder.layerdrop=0.2", "encoder.dropout=0.1", "training.crop_seconds=1",
         "training.micro_batch_seconds=2", "training.batch_seconds=4", "training.least_seconds=0.5",
         "training.precision=float32", "training.log_every=1", "rounds.0.teacher.clusters=8",
         "rounds.1.teacher.clusters=8", "rounds.1.teacher.layer=1", "valid_share=0.2"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for i in range(8):
        rng = np.random.default_rng(i)
        tone = np.sin(np.cumsum(rng.uniform(0.02, 0.4, 40).repeat(600)))
        soundfile.write(folder / f"u{i}.wav", 0.2 * tone + 0.02 * rng.standard_normal(24_000), 16_000)
    return folder


def start(recordings, out, ranks, *words):
    command = [sys.executable, "-m", "tools.main", "pretrain", *SMALL, f"data={recordings}", *words, "--ranks", ranks,
               "--out", str(out)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def train_losses(out):
    lines = (out / "round2/encoder/metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if r["kind"] == "train"]


def test_two_ranks_give_the_losses_of_one(recordings, tmp_path):
    running = {ranks: start(recordings, tmp_path / ranks, ranks, "training.updates=6") for ranks in ("1", "2")}
    said = {ranks: process.communicate(timeout=200) for ranks, process in running.items()}
    assert [p.returncode for p in running.values()] == [0, 0], said
    one, two = (train_losses(tmp_path / ranks) for ranks in ("1", "2"))
    assert len(one) == 6
    assert np.allclose(one[:5], two[:5], rtol=1e-5)
    for stage in ("teacher", "units"):  # read and labelled by both
        made = [json.loads((tmp_path / n / "round1" / stage / "stage.json").read_text())["result"] for n in ("1", "2")]
        assert made[0]["hash"] == made[1]["hash"]
    assert said["2"][0].count("round 2:") == 1, "only the first rank prints"
    assert "2 processes of 1 thread each" in said["2"][1]
    assert said["2"][1].count("round1/encoder: done") == 1


@pytest.mark.parametrize("victim", ["the first", "another"])
def test_a_rank_that_dies_ends_the_others(recordings, tmp_path, victim):
    process = start(recordings, tmp_path, "2", "training.updates=100000")
    metrics = tmp_path / "round1/encoder/metrics.jsonl"
    limit = time.monotonic() + 100
    while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < limit:
        time.sleep(0.1)
    [other] = children(process.pid)
    os.kill(process.pid if victim == "the first" else other, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    if victim == "another":
        assert process.returncode == 1
        assert said.splitlines()[-1].startswith("hubertkit: another process of this job has died")
        assert "Traceback" not in said
    limit = time.monotonic() + 30
    while alive(other) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not alive(other)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(p) for p in found.stdout.split() if "tools.main" in arguments(int(p))]


def arguments(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def alive(pid):
    return "tools.main" in arguments(pid)  # a zombie's is empty


def test_ranks_divide_the_micro_batches_of_every_training():
    assert largest_share([8, 12], 6) == 4  # by hand: the common divisors are 1, 2 and 4
    assert largest_share([8, 12], 3) == 2
    assert largest_share([1, 8], 64) == 1
    assert largest_share([8], 0) == 1
    assert largest_share([0, 8], 6) == 4  # 0: training.micro_batch_seconds=auto goes by the ranks
    assert largest_share([0], 6) == 6
    _check(3, [0])
    with pytest.raises(UsageError, match=r"3 ranks cannot share 4 micro-batches evenly.*use 2"):
        _check(3, [4])


@pytest.mark.parametrize("wanted", ["0", "-1", "many", "1.5"])
def test_a_number_of_ranks_that_is_none_is_refused(wanted):
    with pytest.raises(UsageError, match="must be a number from 1, or auto"), launched(wanted, [4]):
        pass


def test_torchrun_starts_the_ranks_as_well(recordings, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "tools.main", "pretrain", *SMALL, f"data={recordings}", "training.updates=3", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("round 2:") == 1
    assert len(train_losses(tmp_path)) == 3
