"""The speed benchmark: every system does the same work, the arithmetic is counted right, the rows say all."""

import json
import os
import signal
import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from benchmarks.results import check
from benchmarks.speed import Plan, forward_flop, measure, plan_for, pretraining_gpu_hours, tflop
from benchmarks.speed_systems import SYSTEMS, PlainHubert, Work
from tools.main import run
from upstream.errors import HubertkitError

pytestmark = pytest.mark.processes

CPU = torch.device("cpu")
TINY = Work("tiny", 2, 1.0, CPU, "float32")


@pytest.mark.parametrize("name", ["hubertkit", "torchaudio", "transformers"])
def test_every_system_learns_on_the_benchmarks_batch(name):
    torch.manual_seed(0)
    step = SYSTEMS[name](TINY)
    losses = [step() for _ in range(2)]
    assert all(0 < loss < 60 for loss in losses)


@pytest.mark.parametrize("work", [TINY, Work("base", 4, 8.0, CPU, "bf16")], ids=["tiny", "base"])
def test_the_forward_arithmetic_is_what_torch_counts(work):
    with torch.device("meta"):
        model = PlainHubert(work.shape, work.classes)
        waveforms = torch.empty(work.batch, work.samples)
    mask = work.mask()
    counter = FlopCounterMode(display=False)
    with counter:
        model(waveforms, mask.to("meta"), mask.flatten().nonzero()[:, 0].to("meta"))
    assert counter.get_total_flops() == sum(forward_flop(work).values())


def test_an_update_counts_three_forward_passes_less_the_waveforms_gradient():
    # By hand, the first convolution: 2 crops x 3,199 outputs x 32 channels x 10 taps x 2.
    parts = forward_flop(TINY)
    assert parts["first convolution"] == 2 * 3199 * 32 * 10 * 2
    assert tflop(TINY) * 1e12 == pytest.approx(3 * sum(parts.values()) - parts["first convolution"])
    assert tflop(Work("base", 4, 8.0, CPU, "bf16")) == pytest.approx(1.4, rel=0.05)


def test_base_has_the_size_it_should():
    with torch.device("meta"):
        plain = PlainHubert(Work("base", 1, 1.0, CPU, "bf16").shape, 100)
    encoder = sum(p.numel() for name, p in plain.named_parameters() if not name.startswith("head"))
    assert encoder == 94_371_712  # reference: HuBERT BASE without its head


def test_rows_fit_the_schema_and_hold_every_system(tmp_path):
    said = []
    plan = Plan(CPU, ("tiny",), ("float32",), batch=1, seconds=1.0, repeats=2, matmul=128, memory=False)
    (rows,) = measure(plan, said.append)  # one model in one precision
    assert [r["system"] for r in rows] == ["hubertkit", "torchaudio", "transformers"]
    content = {"format": 1, "date": "2026-01-01", "machine": {"processor": "x", "cores": 2},
               "versions": {"python": "3", "torch": "2"}, "benchmark": "speed", "command": "x", "rows": rows}
    check(json.loads(json.dumps(content)), tmp_path)
    assert all(r["spread"][0] <= r["seconds"] <= r["spread"][1] for r in rows)


def test_what_was_measured_is_saved_before_the_next_model_begins(monkeypatch):
    saved = []
    monkeypatch.setattr(speed, "measure", lambda plan, say, faults: iter([[{"model": "base"}], [{"model": "large"}]]))
    monkeypatch.setattr(speed, "profile", lambda work: [{"operator": "mm"}])
    whole = speed.run(plan_for("cpu", quick=True), save=lambda content: saved.append(json.loads(json.dumps(content))))
    assert [len(content["rows"]) for content in saved] == [1, 2, 2]
    assert saved[-1] == whole
    assert "profile" not in saved[1]


@pytest.mark.parametrize("fails", ["torchaudio", "hubertkit"])
def test_what_fails_is_left_out_and_named_and_all_else_is_kept(monkeypatch, fails):
    """Ours was raised at once, and an hour of a borrowed GPU had measured nothing."""
    def broken(work):
        raise RuntimeError("no kernel\nmore")

    saved = []
    monkeypatch.setitem(speed.SYSTEMS, fails, broken)
    monkeypatch.setattr(speed, "profile", lambda work: [{"operator": "mm"}])
    plan = Plan(CPU, ("tiny",), ("float32",), batch=1, seconds=1.0, repeats=1, matmul=64, memory=False, warm_up=1)
    if fails == "hubertkit":
        with pytest.raises(HubertkitError, match="hubertkit failed on tiny in float32: no kernel"):
            speed.run(plan, save=saved.append)
    else:
        speed.run(plan, save=saved.append)
    assert saved[-1]["faults"] == [{"system": fails, "model": "tiny", "precision": "float32", "error": "no kernel"}]
    assert {row["system"] for row in saved[-1]["rows"]} == {"hubertkit", "torchaudio", "transformers"} - {fails}


def test_no_system_lives_on_while_memory_is_measured(monkeypatch):
    """The last one to be timed did, and took its share of a small machine from those that were measured."""
    alive = weakref.WeakSet()

    class Update:
        def __init__(self, work):
            alive.add(self)

        def __call__(self):
            return 1.0

    left = []
    monkeypatch.setattr(speed, "SYSTEMS", {"one": Update, "two": Update})
    monkeypatch.setattr(speed, "_peak_memory", lambda name, work, say: left.append(len(alive)))
    plan = Plan(CPU, ("tiny",), ("float32",), ("one", "two"), batch=1, seconds=1.0, repeats=1, matmul=64)
    assert [row["system"] for rows in measure(plan, lambda line: None) for row in rows] == ["one", "two"]
    assert left == [0, 0]


def killed(name, work):
    """As the kernel kills a process for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_while_its_memory_is_measured_is_told_of(monkeypatch):
    """Bug: its result was waited for, for ever."""
    assert speed._peak_memory("hubertkit", TINY, print) > 0
    monkeypatch.setattr(speed, "_added_memory", killed)
    said = []
    assert speed._peak_memory("transformers", TINY, said.append) is None
    assert said == ["transformers: the process that measured its memory was killed, perhaps for lack of memory"]


def test_gpu_hours_of_a_pretraining():
    # By hand: 400,000 updates x 46.7 min = 1.1208e9 s of audio; at 100 s of audio a second 1.1208e7 s, 3,113 h.
    assert pretraining_gpu_hours(seconds=1.0, audio_seconds=100.0) == pytest.approx(3113.3, abs=0.1)


def test_a_gpu_that_is_not_there_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run(["bench", "speed", "--device", "cuda"]) == 2
    assert "a GPU must be there" in capsys.readouterr().err


def test_on_a_gpu_the_compiled_model_is_measured_too():
    assert "compiled" in plan_for("cuda", quick=False).systems
