"""The command line from outside: exit codes, one line for a mistake, nothing half-written."""

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import tools
from downstream.decode.beam import BeamDecoder
from downstream.finetune_recipe import FinetuneRecipe
from tools import main, recognise, transcribe
from tools.main import main as run_main
from tools.main import run
from upstream import ranks
from upstream.audio import import_folder
from upstream.errors import InputError
from upstream.stopping import STOP_SIGNALS
from upstream.training.loop import TrainingRecipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(24_000), 16_000)
        (folder / f"{i}.txt").write_text("SOME WORDS")
    return folder


def call(capsys, *words):
    code = run([str(w) for w in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in ("demo", "corpus", "pretrain", "status", "teacher", "finetune", "emit", "lm", "decode", "tune",
                    "score", "transcribe", "bench", "doctor"):
        assert command in out


def test_the_version_is_said(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"hubertkit \d+\.\d+\.\d+, python 3\.\d+\.\d+, torch 2\.\S+, .*kenlm \S+\n", out)


@pytest.mark.parametrize("words", [
    ["lm", "build", "text.txt", "--out", "x.arpa"], ["pretrain", "hubert-tiny"], ["--bogus"], ["nonsense"],
    ["transcribe", "asr", "a.wav", "--beam", "0"],
])
def test_wrong_usage_exits_2_without_a_traceback(capsys, words):
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "Traceback" not in err
    assert err


@pytest.mark.parametrize(("words", "says"), [
    (["pretrain", "hubert-tiny", "training.updtes=3", "--out", "OUT"], "did you mean updates?"),
    (["pretrain", "hubert-tini", "--out", "OUT"], "did you mean hubert-tiny?"),
    (["pretrain", "hubert-tiny", "training.updates=many", "data=DATA", "--out", "OUT"], "training.updates"),
    (["pretrain", "hubert-tiny", "--out", "OUT"], "give data="),
    (["pretrain", "hubert-tiny", "data=nowhere", "--out", "OUT"], "data=nowhere"),
    (["finetune", "ctc-tiny", "data=nowhere.arrow", "--out", "OUT"], "nowhere.arrow"),
    (["finetune", "ctc-tiny", "changes.width=3", "--out", "OUT"], "changes.width"),
    (["corpus", "import", "folder", "nowhere", "--out", "OUT"], "nowhere"),
    (["bench", "low-resource", "librispeech-mini", "--data", "nowhere", "--out", "OUT"], "nowhere"),
    (["lm", "build", "nowhere.txt", "--order", "2", "--out", "OUT"], "nowhere.txt"),
    (["status", "nowhere"], "nowhere"),
])
def test_a_mistake_is_one_line_that_says_what_and_where(capsys, tmp_path, words, says):
    out = tmp_path / "out"
    code, _, err = call(capsys, *(str(out) if w == "OUT" else w for w in words))
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("out/**/*.safetensors"))


def test_an_empty_folder_is_told_before_anything_is_written(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = call(capsys, "pretrain", "hubert-tiny", f"data={tmp_path / 'empty'}", "--out", tmp_path / "run")
    assert code == 1
    assert "no recordings" in err
    assert not (tmp_path / "run/corpus").exists()


@pytest.mark.parametrize("content", [b"not audio at all", b""])
def test_audio_that_is_not_audio_is_named(capsys, recordings, tmp_path, content):
    (recordings / "bad.wav").write_bytes(content)
    code, _, err = call(capsys, "corpus", "import", "folder", recordings, "--out", tmp_path / "m.arrow")
    assert code == 1
    assert "bad.wav" in err
    assert not (tmp_path / "m.arrow").exists()


@pytest.mark.parametrize(("wave", "says"), [
    (np.full(16_000, np.nan), "NaN"), (np.full(100, 0.1), "short"), (np.zeros(16_000), "zero"),
])
def test_check_names_silence_nan_and_scraps(capsys, recordings, tmp_path, wave, says):
    soundfile.write(recordings / "odd.wav", wave, 16_000, subtype="FLOAT")
    (recordings / "odd.txt").write_text("WORDS")
    assert call(capsys, "corpus", "import", "folder", recordings, "--out", tmp_path / "m.arrow")[0] == 0
    code, out, err = call(capsys, "corpus", "check", tmp_path / "m.arrow")
    assert code == 1
    assert "odd" in out + err
    assert says.lower() in (out + err).lower()


def test_a_character_outside_the_vocabulary_names_the_utterance(capsys, recordings, tmp_path):
    (recordings / "3.txt").write_text("ROOM 101")
    import_folder(recordings).save(tmp_path / "m.arrow")
    code, _, err = call(capsys, "finetune", "ctc-tiny", f"data={tmp_path / 'm.arrow'}", "--out", tmp_path / "asr")
    assert code == 1
    assert err.splitlines()[-1].startswith("hubertkit: 3: '1' (U+0031)")


def test_finetuning_into_its_own_encoder_writes_nothing_not_even_a_lock(capsys, tmp_path):
    (tmp_path / "encoder").mkdir()
    words = ("finetune", "ctc-tiny", "data=m.arrow", f"encoder={tmp_path / 'encoder'}", "--out", tmp_path / "encoder")
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "holds the encoder to start from" in err
    assert not list((tmp_path / "encoder").iterdir())


@pytest.mark.parametrize(("words", "code", "says"), [
    (["data=none.arrow"], 2, "none.arrow: no such manifest"), (["data=m.arrow", "dev=none.arrow"], 2, "none.arrow: no"),
    (["data=m.arrow", "dev=m.arrow"], 1, "are both in the training data and in dev"), ([], 2, "give data=MANIFEST")])
def test_finetuning_without_its_data_makes_no_folder(capsys, monkeypatch, recordings, tmp_path, words, code, says):
    """It left one with a lock in it."""
    monkeypatch.chdir(tmp_path)
    import_folder(recordings).save(tmp_path / "m.arrow")
    found, _, err = call(capsys, "finetune", "ctc-tiny", *words, "--out", tmp_path / "asr")
    assert (found, err.count("\n")) == (code, 1)
    assert says in err
    assert not (tmp_path / "asr").exists()


def test_transcribing_needs_a_recogniser_and_audio(capsys, recordings, tmp_path):
    code, _, err = call(capsys, "transcribe", tmp_path, recordings / "0.wav")
    assert code == 2
    assert "hubertkit.json" in err
    code, _, err = call(capsys, "transcribe", tmp_path, tmp_path / "none.wav")
    assert (code, "none.wav" in err) == (2, True)


@pytest.mark.parametrize(("words", "weights"), [
    ([], (None, None)),
    (["--lm", "lm.arpa"], (None, None)),
    (["--lm", "lm.arpa", "--tuned", "tuned.json"], (1.25, -0.5)),
    (["--lm", "lm.arpa", "--lm-weight", "2", "--word-score", "0.5"], (2.0, 0.5)),
])
def test_transcribe_decodes_with_the_weights_of_decode(capsys, monkeypatch, tmp_path, words, weights):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.json").write_text('{"lm_weight": 1.25, "word_score": -0.5, "wer": 7.0}')
    given = []
    monkeypatch.setattr(transcribe, "run_transcription", lambda _, __, settings, **___: given.append(settings) or [])
    assert call(capsys, "transcribe", "asr", "a.wav", *words) == (0, "", "")
    assert [(s.decoder.lm_weight, s.decoder.word_score) for s in given] == [weights]


@pytest.mark.parametrize("command", ["decode", "transcribe"])
def test_help_tells_the_default_weights(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = call(capsys, command, "--help")
    assert f"{BeamDecoder.lm_weight:g} by default" in out
    assert f"{BeamDecoder.word_score:g} by default" in out


@pytest.mark.parametrize(("words", "says"), [
    (["--tuned", "tuned.json"], "give one as lm (--lm)"),
    (["--lm", "lm.arpa", "--tuned", "none.json"], "`hubertkit tune` writes it"),
    (["--lm", "lm.arpa", "--tuned", "tuned.json", "--word-score", "0"], "tuned.json: holds both weights"),
])
def test_transcribe_refuses_weights_that_cannot_be_meant(capsys, monkeypatch, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.json").write_text('{"lm_weight": 1.25, "word_score": -0.5}')
    code, _, err = call(capsys, "transcribe", "asr", "a.wav", *words)
    assert code == 2
    assert says in err


@pytest.mark.parametrize(("recipe", "words", "said"), [
    ("ctc-base-10h", [], "freeze_updates=10000: for a pretrained encoder"),
    ("ctc-tiny", ["fresh_layers=1", "train_frontend=false"], "fresh_layers=1, train_frontend=false: for a pretrained"),
    ("ctc-tiny", [], None), ("ctc-base-10h", ["encoder=somewhere"], None)])
def test_a_forgotten_encoder_is_a_warning(capsys, monkeypatch, tmp_path, recipe, words, said):
    """`ctc-base-10h` without encoder=DIR trained random weights for 25,000 updates without a word."""
    monkeypatch.setattr(recognise, "check_start", lambda *_: (None, None, None))
    monkeypatch.setattr(recognise, "run_finetuning", lambda *_: {})
    code, _, err = call(capsys, "finetune", recipe, *words, "data=m.arrow", "--out", tmp_path / "asr")
    assert code == 0
    assert (f"warning: {said}" in err and "was encoder=DIR forgotten?" in err) if said else "warning" not in err


def test_a_full_gpu_is_one_line_that_names_the_setting(capsys, monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(recognise, "check_start", lambda *_: (None, None, None))
    monkeypatch.setattr(recognise, "run_finetuning", full)
    code, _, err = call(capsys, "finetune", "ctc-tiny", "data=m.arrow", "--out", tmp_path / "asr")
    assert code == 1
    assert "training.micro_batch_seconds" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("words", "call_of", "afterwards"), [
    (["pretrain", "hubert-tiny", "--out", "OUT"], "tools.pretrain.load_recipe", "goes on where it stopped"),
    (["bench", "lm", "text.txt", "--out", "OUT"], "tools.bench.run_lm", "goes on where it stopped"),
    (["bench", "kmeans", "--out", "OUT"], "tools.bench.run_kmeans", "begins again from the start"),
    (["score", "hyp.jsonl", "--references", "ref.txt"], "tools.score.read_references", "begins again from the start"),
    (["decode", "emissions", "--out", "OUT"], "tools.decode.Emissions.load", "begins again from the start"),
])
def test_ctrl_c_promises_to_go_on_only_where_the_same_command_does(capsys, monkeypatch, tmp_path, words, call_of,
                                                                   afterwards):
    """All did. Also where typer makes a number of it."""
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(call_of, interrupted)
    code, _, err = call(capsys, *(tmp_path / "out" if word == "OUT" else word for word in words))
    assert (code, err) == (130, f"hubertkit: interrupted; the same command {afterwards}\n")


def test_what_goes_on_is_what_says_so_in_its_help():
    def commands(group, before=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*before, name))
            elif any("the same command again goes on" in (getattr(p, "help", "") or "") for p in command.params):
                yield " ".join((*before, name))

    assert set(commands(main.build_command())) == set(main.GOING_ON)


@pytest.mark.parametrize("group", ["corpus", "lm"])
def test_what_is_said_of_a_group_names_its_commands(group):
    """`lm train` was not among them."""
    said = re.findall(r"[\w-]+", main.GROUPS[group])
    assert [name for name in main.build_command(group).commands[group].commands if name not in said] == []


def test_each_command_is_found_in_the_module_that_is_imported_for_it():
    assert [*main.COMMANDS, *main.GROUPS] == list(main.build_command().commands)
    for name in (*main.COMMANDS, *main.GROUPS):
        assert name in main.build_command(name).commands


def test_a_command_does_not_import_the_others():
    """To import them took longer than the command."""
    program = ("import sys; from tools.main import run; run(['score', '--help']);"
               "print([m for m in sys.modules if m.startswith(('benchmarks', 'scipy', 'downstream.finetune'))])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.processes
def test_a_stream_of_few_letters_stops_nothing(recordings, tmp_path):
    """A terminal in another encoding, or PYTHONIOENCODING: bars of a table become escapes."""
    import_folder(recordings).save(tmp_path / "m.arrow")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-m", "tools.main", "corpus", "show", "m.arrow"], cwd=tmp_path,
                          env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2588" in done.stdout


def test_a_run_in_use_is_refused(capsys, recordings, tmp_path):
    from upstream.locks import locked

    with locked(tmp_path / "run"):
        code, _, err = call(capsys, "pretrain", "hubert-tiny", f"data={recordings}", "--out", tmp_path / "run")
    assert code == 1
    assert "another process" in err


def test_a_file_where_the_folder_should_be_is_one_line(capsys, recordings, tmp_path):
    (tmp_path / "run").write_text("mine")
    code, _, err = call(capsys, "pretrain", "hubert-tiny", f"data={recordings}", "--out", tmp_path / "run")
    assert code == 2
    assert "a file stands where a folder is needed" in err
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted by root only")
def test_a_full_disk_is_one_line_and_freeing_space_lets_the_run_go_on(recordings, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    words = [sys.executable, "-m", "tools.main", "pretrain", "hubert-tiny", f"data={recordings}", "--out",
             str(disk / "run"), "valid_share=0", "rounds.0.teacher.clusters=4", "rounds.1.teacher.clusters=4",
             "rounds.1.teacher.layer=1", "training.updates=2", "training.crop_seconds=1",
             "training.micro_batch_seconds=4", "training.batch_seconds=4", "encoder.layers=1"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "the disk is full" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        again = subprocess.run(words, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert "corpus: done before, skipped" in again.stderr
    finally:
        subprocess.run(["umount", disk], check=False)


def test_a_debug_run_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("HUBERTKIT_DEBUG", "1")
    with pytest.raises(InputError):
        run(["corpus", "import", "folder", str(os.path.dirname(__file__)), "--out", "/nonexistent/x.arrow"])


def test_defaults_are_not_shared_between_recipes():
    assert FinetuneRecipe().training == TrainingRecipe()


def test_a_user_without_a_name_may_train(monkeypatch):
    """torch asks for the name of the user, and ends in KeyError where a container has none."""
    monkeypatch.setenv("USER", "nobody")
    monkeypatch.setattr("getpass.getuser", lambda: {}["uid not found: 12345"])
    importlib.reload(tools)
    assert os.environ["USER"] == str(os.getuid())


def test_a_rank_that_has_no_output_ends_as_it_should(monkeypatch):
    """With standard output closed a finished training of two ranks ended in AttributeError."""
    ended = []
    monkeypatch.setattr("tools.main.run", lambda words: 0)
    monkeypatch.setattr(ranks, "has_joined", lambda: True)
    monkeypatch.setattr("os._exit", lambda code: ended.append(code) or sys.exit(code))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with pytest.raises(SystemExit):
            run_main([])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended == [0]
