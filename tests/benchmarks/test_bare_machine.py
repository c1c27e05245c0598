"""The speed benchmark runs on a bare GPU machine: with torch, torchaudio, transformers and numpy alone."""

import json
import subprocess
import sys

import pytest

from benchmarks.results import check

MISSING = ("faiss", "jiwer", "jsonschema", "kenlm", "matplotlib", "omegaconf", "pyarrow", "pyctcdecode", "rich",
           "soundfile", "soxr", "tensorboard", "typer")
BARE = f"""
import sys

class Found:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        missing = name.partition(".")[0] in {MISSING}
        return None if missing else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Found(finder) for finder in sys.meta_path]
"""
STEP = BARE + """
from benchmarks import speed
step = speed.SYSTEMS["hubertkit"](speed.Work("tiny", 1, 1.0, speed.torch.device("cpu"), "bf16"))
print(0 < step() < 60)
import upstream.training.optimiser, upstream.training.precision, upstream.training.allocator
"""
WHOLE = BARE + """
import runpy
sys.argv[0] = "speed"
runpy.run_module("benchmarks.speed", run_name="__main__", alter_sys=True)
"""


@pytest.mark.processes
def test_our_step_needs_only_torch_numpy_and_safetensors():
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.slow
def test_the_whole_comparison_runs_and_writes_its_json(tmp_path):
    out = tmp_path / "speed.json"
    command = [sys.executable, "-c", WHOLE, "--device", "cpu", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    check(found, out)
    rows = found["rows"]
    assert {r["system"] for r in rows} == {"hubertkit", "torchaudio", "transformers"}, done.stdout


@pytest.mark.processes
def test_k_means_is_measured_there_too(tmp_path):
    """On a borrowed machine that has rich and nothing else of ours."""
    out = tmp_path / "kmeans.json"
    code = BARE.replace("'rich', ", "") + f"""
from pathlib import Path
from benchmarks import kmeans
from benchmarks.plain import about
from upstream.disk import write_json
from upstream.model.config import EncoderConfig
small = EncoderConfig(frontend="fbank", width=16, layers=2, heads=2, ffn=16, positional_kernel=4, positional_groups=2)
plan = kmeans.Plan(points=2000, clusters=8, label_frames=500, label_dim=16, label_clusters=8, repeats=2, layer=1,
                   encoder=small, utterances=2, utterance_seconds=1.0)
write_json(Path({str(out)!r}), about("benchmarks.kmeans") | kmeans.run(plan, print))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    check(found, out)
    assert {row["what"] for row in found["rows"]} >= {"fit", "label"}
