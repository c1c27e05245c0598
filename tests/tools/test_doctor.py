"""`hubertkit doctor`: what is broken is named, and nothing that works is."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib import metadata
from types import SimpleNamespace

import kenlm
import pytest
import soundfile
import torch
from pretend_gpu import pretended_gpu

from tools import doctor, two_ranks
from tools.main import run


def _found(check) -> dict[str, doctor.Finding]:
    return {f.name: f for f in doctor._heard_out(check)}


def test_nothing_is_broken_where_the_tests_run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {f["name"] for f in found} >= {"python", "packages", "imports", "audio", "k-means", "language models",
                                          "processor", "disk", "ranks"}
    assert not [f for f in found if f["state"] == "broken"]


def test_one_broken_thing_fails_the_command_and_the_others_are_still_looked_at(capsys, monkeypatch):
    def collapses():
        raise OSError("undefined symbol: x\nand more")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (collapses, doctor._processor))
    assert run(["doctor", "--json"]) == 1
    broken, fine = json.loads(capsys.readouterr().out)
    assert (broken["name"], broken["state"], broken["what"]) == ("collapses", "broken", "OSError: undefined symbol: x")
    assert fine["state"] == "ok"


def test_versions_that_our_metadata_do_not_allow_are_broken_and_extras_are_notes(monkeypatch):
    versions = {"numpy": "2.1.0", "torch": "2.11.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: [
        "numpy>=1.26,<2", "torch==2.11.0", "faiss-cpu>=1.9; sys_platform == 'nowhere'", 'pytest>=8; extra == "dev"',
        'transformers>=5; extra == "hf"'])
    found = _found(doctor._packages)
    assert found["packages"].state == "broken"
    assert "numpy 2.1.0 (wanted: <2,>=1.26)" in found["packages"].what
    assert "torch" not in found["packages"].what
    assert "faiss" not in found["packages"].what
    assert found["extra hf"].state == "note"
    assert "transformers" in found["extra hf"].what
    assert "extra dev" not in found


def test_a_package_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    found = _found(doctor._imports)
    assert found["import soxr"].state == "broken"


def test_a_libsndfile_that_cuts_opus_is_broken(monkeypatch):
    read = soundfile.read
    monkeypatch.setattr(soundfile, "read", lambda file: (read(file)[0][:-100], 24_000))
    found = _found(doctor._audio)["audio"]
    assert found.state == "broken"
    assert "Opus: 23900 of 24000 samples" in found.what


def test_a_kenlm_that_scores_wrongly_is_broken(monkeypatch):
    monkeypatch.setattr(kenlm, "Model", lambda *_: SimpleNamespace(score=lambda _: -7.0))
    found = _found(doctor._language_models)["language models"]
    assert found.state == "broken"
    assert "-7" in found.what


def test_little_disk_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    assert _found(doctor._disk)["disk"].state == "note"


def test_a_cache_that_cannot_be_written_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "cache_folder", lambda: None)
    assert _found(doctor._disk)["cache"].state == "note"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_gpu_is_a_note():
    assert _found(doctor._gpu)["GPU"].state == "note"


def test_two_ranks_that_cannot_meet_are_broken(monkeypatch):
    monkeypatch.setattr(two_ranks, "module_command", lambda _: [sys.executable, "-c", "raise SystemExit('no address')"])
    found = _found(doctor._ranks)["ranks"]
    assert found.state == "broken"
    assert "no address" in found.what


def test_what_is_said_comes_out_as_it_is(capsys):
    """A bug once found: `hubertkit[hf]` lost its brackets as markup, and `[/usr/lib/x]` ended doctor."""
    doctor._print([doctor.Finding("a", "note", "'hubertkit[hf]'"), doctor.Finding("b", "broken", "[/usr/lib/x]: gone")])
    said = capsys.readouterr().out
    assert "'hubertkit[hf]'" in said
    assert "[/usr/lib/x]: gone" in said


def test_doctor_starts_where_libsndfile_does_not_load():
    """A bug once found: there was a traceback in place of the finding."""
    script = ("import sys; sys.modules['soundfile'] = None; from tools import doctor; "
              "print([f.state for f in doctor._heard_out(doctor._audio)])")
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout == "['broken']\n", ended.stderr


def test_a_machine_that_does_not_reach_itself_is_broken_and_soon_said(monkeypatch):
    def store(*_, timeout, **__):
        assert timeout.total_seconds() <= 30
        raise RuntimeError("The client socket has failed to connect\nand more")

    monkeypatch.setattr(two_ranks.dist, "TCPStore", store)
    found = _found(doctor._ranks)["ranks"]
    assert found.state == "broken"
    assert "no connection to 127.0.0.1 (The client socket has failed to connect)" in found.what


def test_a_driver_that_torch_cannot_use_is_broken_and_torch_is_quoted(monkeypatch):
    """A bug once found: it was the note of a machine without a GPU, and what torch said went by on its own."""
    def looks():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Update "
                      "it (Triggered internally at x.cpp:1.)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", looks)
    found = _found(doctor._gpu)["GPU"]
    assert found.state == "broken"
    assert "driver on your system is too old (found version 11040)" in found.what
    assert "Triggered" not in found.what


def test_torch_is_asked_for_gpus_before_anything_else_asks():
    assert doctor.CHECKS.index(doctor._gpu) < min(map(doctor.CHECKS.index, (doctor._imports, doctor._k_means)))


def test_faiss_is_not_asked_for_gpus_where_torch_finds_none(monkeypatch):
    """A bug once found: of a GPU that does not start faiss ends the process, and there was no table at all."""
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: pytest.fail("abort()"), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "0 GPUs" in _found(doctor._k_means)["k-means"].what


def test_a_gpu_that_is_full_hides_none_of_the_others():
    """A bug once found: the first one ended the look at all."""
    def memory(number=None):
        if number == 0:
            raise torch.OutOfMemoryError("CUDA error: out of memory\nand more")
        return 100 << 30, 139 << 30

    with pretended_gpu(), pytest.MonkeyPatch.context() as patch:  # undone before the GPU is gone, not after
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.setattr(torch.cuda, "mem_get_info", memory)
        found = _found(doctor._gpu)
    assert [(name, f.state) for name, f in found.items()] == [("GPU 0", "broken"), ("GPU 1", "ok")]
    assert "CUDA error: out of memory; " in found["GPU 0"].what


def test_bf16_that_is_only_emulated_is_no_bf16():
    """A bug once found: torch says yes of a V100, which computes it in float32."""
    with pretended_gpu(), pytest.MonkeyPatch.context() as patch:
        assert "bf16 yes" in _found(doctor._gpu)["GPU 0"].what
        patch.setattr(torch.cuda, "get_device_capability", lambda number=None: (7, 0))
        assert "bf16 no: use training.precision=fp16" in _found(doctor._gpu)["GPU 0"].what


def test_ranks_on_several_gpus_are_not_claimed_to_work(monkeypatch):
    monkeypatch.setattr(doctor, "problem_of_two_ranks", lambda: None)
    assert "NCCL" not in _found(doctor._ranks)["ranks"].what
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert "NCCL, which connects GPUs, was not tried" in _found(doctor._ranks)["ranks"].what
