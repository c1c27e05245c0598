"""Processes that a command starts: they run our modules wherever the user is."""

import os
import subprocess
import sys

import pytest

from tools import start
from tools.child import module_command
from tools.main import run


@pytest.mark.processes
def test_a_file_called_tools_in_the_working_directory_is_not_run(tmp_path):
    """A bug once found: `python -m tools.main` ran the user's own `tools.py`."""
    (tmp_path / "tools.py").write_text("raise SystemExit('not ours')\n")
    done = subprocess.run([*module_command("tools.main"), "corpus", "--help"], cwd=tmp_path, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "import" in done.stdout


@pytest.mark.processes
def test_a_python_that_has_no_working_directory_in_its_path_starts_our_modules(tmp_path):
    done = subprocess.run([*module_command("tools.main"), "--help"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONSAFEPATH": "1"})
    assert done.returncode == 0, done.stderr


def test_being_interrupted_while_it_is_imported_is_one_line(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "tools.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "tools.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        start.main()
    assert (end.value.code, capsys.readouterr().err) == (130, "hubertkit: interrupted\n")


def test_ranks_that_nobody_started_are_none(tmp_path, monkeypatch, capsys):
    """Some containers set RANK and WORLD_SIZE, and say nothing of an address."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "HUBERTKIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert run(["status", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_ranks_without_an_address_are_told_so(tmp_path, monkeypatch, capsys):
    """srun sets both numbers: each of eight processes would have trained by itself."""
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "8"), ("MASTER_ADDR", "node1")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_PORT", "HUBERTKIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert run(["pretrain", "hubert-tiny", "--out", str(tmp_path / "run"), "data=x"]) == 2
    assert "WORLD_SIZE=8 are set, and MASTER_PORT not" in capsys.readouterr().err


def test_a_rank_without_a_number_of_ranks_is_no_rank(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")  # as some schedulers set it
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert run(["status", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["finetune.seed=3", "finetune.encoder=x", "pretrain.seed=1",
                                  "finetune.architecture.layers=3"])
def test_what_a_comparison_sets_itself_is_not_taken_without_a_word(tmp_path, capsys, word):
    assert run(["bench", "low-resource", "demo-quick", "--data", str(tmp_path), "--out", str(tmp_path / "o"),
                word]) == 2
    assert "the comparison sets it itself" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
