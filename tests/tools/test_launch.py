"""Ranks as a user meets them: `--ranks`, the same numbers, and a rank that dies."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from small_rounds import TINY, write_recordings

from tools import launch
from tools.launch import _check, largest_share, launched
from tools.main import run as main
from upstream import ranks
from upstream.errors import RankLost, UsageError

pytestmark = pytest.mark.processes

SMALL = ["hubert-tiny", *TINY, "encoder.layerdrop=0.2", "encoder.dropout=0.1", "training.micro_batch_seconds=2",
         "training.precision=float32", "training.log_every=1"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"), 8)


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


def test_what_every_rank_finds_wrong_is_said_once(recordings, tmp_path):
    """A bug once found: a mistake in the recipe was printed once a rank."""
    process = start(recordings, tmp_path, "2", "training.least_seconds=1.9", "training.crop_seconds=2")
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert said.count("no utterance has the 94 frames that training needs") == 1
    assert said.splitlines()[-1].startswith("hubertkit: no utterance has")


def test_a_rank_speaks_for_itself_unless_the_first_says_the_same(monkeypatch):
    monkeypatch.setattr(launch, "SAME_WORDS_SECONDS", 0.1)
    assert not launch.first_says("this")  # the first rank itself
    store = torch.distributed.TCPStore(launch.HOST, 0, 1, True, wait_for_workers=False)
    monkeypatch.setattr(launch, "_store", torch.distributed.TCPStore(launch.HOST, store.port, 1, False))
    assert not launch.first_says("this"), "the first rank is well"
    store.set(launch._SAID, "that")
    assert not launch.first_says("this")
    assert launch.first_says("that")


@pytest.mark.parametrize(("victim", "shard"), [
    ("the first", False), ("another", True), pytest.param("another", False, marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_the_others(recordings, tmp_path, victim, shard):
    process = start(recordings, tmp_path, "2", "training.updates=100000",
                    *(["training.shard=true", "encoder.layerdrop=0"] if shard else []))
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


def test_micro_batches_that_are_still_to_be_chosen_are_shared_by_no_more_ranks_than_there_are_crops(monkeypatch):
    """A bug once found: `--ranks auto` took 16 cores for 8 crops, which was refused after teacher and units."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert launch._chosen("auto", [0, 0], 0, most=8) == 8
    assert launch._chosen("auto", [0, 12], 0, most=8) == 6
    with pytest.raises(UsageError, match=r"16 ranks cannot share an update of 8 crops .*; use 8, or raise"):
        launch.check_ranks("16", [0, 0], "cpu", 8)


@pytest.mark.parametrize(("rank", "count"), [("captain", "1"), ("0", "many"), ("", "1")])
def test_a_rank_that_is_no_number_is_none_of_torchruns(monkeypatch, rank, count):
    """`RANK=captain` on a machine with WORLD_SIZE ended every command in a traceback."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    launch.join_from_environment()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("wanted", ["0", "-1", "many", "1.5"])
def test_a_number_of_ranks_that_is_none_is_refused(wanted):
    with pytest.raises(UsageError, match="must be a number from 1, or auto"), launched(wanted, [4]):
        pass


def test_a_rank_that_dies_before_it_has_joined_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(launch, "_start", lambda *words: subprocess.Popen([sys.executable, "-c", "exit(3)"]))
    with pytest.raises(RankLost, match=r"rank 1 has died \(exit code 3\) before it began"), launched("2", [4]):
        raise AssertionError("there is nobody to train with")


def test_a_rank_that_was_stopped_before_it_has_joined_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(launch, "_start", lambda *words: subprocess.Popen([sys.executable, "-c", "exit(130)"]))
    with pytest.raises(RankLost, match="a rank has ended before it began"), launched("2", [4]):
        raise AssertionError("there is nobody to train with")


JOINING = """
import subprocess, sys
from tools import launch
launch.LOOK_SECONDS = launch.LAST_WORDS_SECONDS = 0.2
code = "import sys, torch.distributed as dist; from tools import launch; " \\
       "dist.TCPStore(launch.HOST, int(sys.argv[1]), 2, False).set(launch._here(1), ''); sys.exit(3)"
launch._start = lambda rank, count, threads, port, on_cpu: subprocess.Popen([sys.executable, "-c", code, str(port)])
with launch.launched("2", [4]):
    print("joined")
"""


def test_a_rank_that_dies_while_it_joins_is_not_waited_for():
    done = subprocess.run([sys.executable, "-c", JOINING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "rank 1 has died (exit code 3), so this process ends too" in done.stderr


WATCHING = """
import subprocess, sys, time
from tools import launch
launch.LOOK_SECONDS = launch.LAST_WORDS_SECONDS = 0.2
others = [subprocess.Popen(["sleep", "100"]), subprocess.Popen(["sleep", "100"])]
others[1].kill()
with launch._watched(others):
    time.sleep(100)
"""


def test_a_rank_that_dies_while_the_first_computes_alone_ends_it_and_the_others():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WATCHING], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("hubertkit: rank 2 has died (killed by signal 9), so this process ends too")
    assert time.monotonic() - began < 60


def test_a_rank_that_was_asked_to_stop_is_not_lost():
    codes = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (0, 130)]
    for process in codes:
        process.wait()
    assert launch._lost(codes) == ""


ORPHAN = """
import os, subprocess, sys
code = "import time; from tools import launch; launch.LAST_WORDS_SECONDS = 0; launch._end_with_parent(); " \\
       "print(1, flush=True); time.sleep(100)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os._exit(0)
"""


def test_a_rank_whose_first_has_died_does_not_stay():
    done = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True, timeout=90, check=True)
    limit = time.monotonic() + 30
    while "tools" in arguments(int(done.stdout)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert arguments(int(done.stdout)) == ""


@pytest.mark.parametrize(("words", "says"), [(["--ranks", "abc"], "--ranks abc: must be a number"),
                                             (["--ranks", "3"], "3 ranks cannot share"),
                                             (["--ranks", "5", "training.micro_batch_seconds=auto"],
                                              "5 ranks cannot share an update of 4 crops"),
                                             (["--out", __file__], "a file stands where a folder is needed")])
def test_a_dry_run_refuses_what_the_run_would_refuse(recordings, tmp_path, capsys, words, says):
    assert main(["pretrain", *SMALL, f"data={recordings}", "--out", str(tmp_path / "run"), *words, "--dry-run"]) == 2
    assert says in capsys.readouterr().err


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="this machine has 2 GPUs"), launched("4", [4]):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="rank 2 of this machine has no GPU, for there are 2"):
        ranks.join(2, 4)


@pytest.mark.parametrize(("cards", "said"), [(6, ["4 of 6 GPUs are used: no more divide the 32 and 8 micro-batches"]),
                                             (4, []), (0, [])])
def test_gpus_that_have_nothing_to_do_are_named(monkeypatch, cards, said):
    lines = []
    monkeypatch.setattr(launch, "say", lines.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert launch._chosen("auto", [32, 8], cards) == (4 if cards else 2)
    assert [line[:len(text)] for line, text in zip(lines, said, strict=True)] == said


def test_a_recipe_for_the_cpu_may_have_more_ranks_than_there_are_gpus_and_hides_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    started = []

    def start(rank, count, threads, port, on_cpu):
        started.append((rank, on_cpu))
        return subprocess.Popen([sys.executable, "-c", "exit(3)"])

    monkeypatch.setattr(launch, "_start", start)
    with pytest.raises(RankLost, match="before it began"), launched("4", [4], "cpu"):
        pass
    assert started == [(1, True), (2, True), (3, True)]


def test_other_ranks_of_a_recipe_for_the_cpu_see_no_gpu(monkeypatch):
    seen = []
    monkeypatch.setattr(launch.subprocess, "Popen", lambda words, env, stdin: seen.append(env))
    for on_cpu in (True, False):
        launch._start(1, 2, 1, 1234, on_cpu)
    assert [env.get("CUDA_VISIBLE_DEVICES") for env in seen] == ["", os.environ.get("CUDA_VISIBLE_DEVICES")]


def test_a_gpu_that_a_recipe_asks_for_and_that_is_missing_is_wrong_use(recordings, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["pretrain", *SMALL, f"data={recordings}", "device=cuda", "--out", str(tmp_path / "run")]) == 2
    assert "finds no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_restarts_a_job_that_lost_a_rank_from_its_last_checkpoint(recordings, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts",
               "1", "-m", "tools.main", "pretrain", *SMALL, f"data={recordings}", "training.updates=300",
               "training.save_every=5", "rounds.0.training.log_every=1", "--until", "round1", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "round1/encoder/checkpoints"
    limit = time.monotonic() + 100
    while not list(checkpoints.glob("*.json")) and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(max(children(process.pid)), signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "from the checkpoint of update" in said
    lines = (tmp_path / "round1/encoder/metrics.jsonl").read_text().splitlines()
    assert [r["update"] for r in map(json.loads, lines) if r["kind"] == "train"] == list(range(1, 301))


def test_torchrun_starts_the_ranks_as_well(recordings, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "tools.main", "pretrain", *SMALL, f"data={recordings}", "training.updates=3", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("round 2:") == 1
    assert len(train_losses(tmp_path)) == 3


@pytest.mark.parametrize(("count", "words"), [("2", ["corpus", "show"]), ("2", ["lm", "info"]), ("1", ["finetune"])])
def test_a_container_that_sets_rank_hangs_no_command_that_works_by_itself(monkeypatch, tmp_path, count, words):
    """RANK, WORLD_SIZE and MASTER_ADDR of a training's pod: `corpus show` waited for ranks that never came."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", count), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert main([*words, str(tmp_path / "none")]) == 2
    assert not torch.distributed.is_initialized()


def test_who_waits_for_the_others_of_a_job_says_so_and_can_be_stopped():
    program = ("import tools.launch as launch, sys; launch.QUIET_SECONDS = .5; from tools.main import main; "
               "main(['pretrain', 'hubert-tiny', '--out', 'x', 'data=y'])")
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True) as found:
        assert "rank 0 waits for the others of 2 at 127.0.0.1:29577" in found.stderr.readline()
        found.terminate()
        assert found.wait(20) == -signal.SIGTERM
