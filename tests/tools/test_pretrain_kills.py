"""SIGKILL at twenty random moments of a whole pretraining: it ends as if nothing had happened, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from upstream.keyed import keyed

KILLS = 20
WORDS = ["encoder.width=32", "encoder.layers=2", "encoder.heads=2", "encoder.ffn=64", "encoder.positional_groups=2",
         "encoder.layerdrop=0.2", "encoder.dropout=0.1", "training.crop_seconds=2", "training.batch_seconds=8",
         "training.micro_batch_seconds=4", "training.updates=400", "training.save_every=20", "training.log_every=10",
         "training.validate_every=100", "rounds.0.teacher.clusters=20", "rounds.1.teacher.clusters=20",
         "rounds.1.teacher.layer=1", "mixing.share=0.2"]
TIMES = {"audio_seconds_per_second", "waiting_share", "share_of_peak"}


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A minute of synthesised speech of several voices."""
    pytest.importorskip("espeakng_loader", reason="the extra `demo` is not installed")
    from tools.synthesise import VOICES_TRAIN, sentences, synthesise
    from upstream.audio.manifest import Manifest

    folder = tmp_path_factory.mktemp("speech")
    Manifest.of(synthesise(folder / "audio", sentences(24, 0), VOICES_TRAIN, 0), "espeak-ng").save(folder / "all.arrow")
    return folder / "all.arrow"


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.main", "pretrain", "hubert-tiny", f"data={data}", *WORDS, "--ranks", "1",
               "--out", str(out)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def first_words(process: subprocess.Popen[str]) -> str:
    """Wait until it has found its place; its imports take as long as the rest."""
    assert process.stderr is not None
    return process.stderr.readline()


def left(out: Path) -> dict[str, object]:
    """What a run leaves, times apart: units and weights to the byte, logs without speeds."""
    found: dict[str, object] = {}
    for number in (1, 2):
        folder = out / f"round{number}"
        for name in ("units/stream0.npy", "units/offsets.npy", "units/ids.arrow", "teacher/centroids.npy",
                     "encoder/model.safetensors", "encoder/head.safetensors"):
            found[f"{number}/{name}"] = (folder / name).read_bytes()
        lines = (folder / "encoder/metrics.jsonl").read_text().splitlines()
        found[f"{number}/log"] = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_change_nothing(speech, tmp_path):
    process = start(speech, tmp_path / "undisturbed")
    first_words(process)
    began = time.monotonic()
    _, said = process.communicate()
    assert process.returncode == 0, said
    whole = time.monotonic() - began
    # Half of the work in twenty parts: with what is done twice because a checkpoint lies behind, all is not done yet.
    pauses = keyed(0, "kills").uniform(0.2, 1.0, KILLS) * whole / KILLS
    seen = set()
    for pause in pauses:
        process = start(speech, tmp_path / "killed")
        seen.add(first_words(process).partition(":")[0])
        time.sleep(pause)
        assert process.poll() is None, "done before all kills were dealt: give it more updates"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        seen |= {str(p.parent.name) for p in (tmp_path / "killed").rglob("stage.json")
                 if json.loads(p.read_text())["state"] == "running"}
    assert {"encoder"} <= seen
    process = start(speech, tmp_path / "killed")
    _, said = process.communicate()
    assert process.returncode == 0, said
    undisturbed, killed = left(tmp_path / "undisturbed"), left(tmp_path / "killed")
    assert [name for name in undisturbed if undisturbed[name] != killed[name]] == []
