"""The estimator that sorts in files against the one that works in memory, byte for byte."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_kneser_ney import HERE, corpus, options_of
from test_kneser_ney_definition import knows_a_word

from downstream.lm import on_disk
from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.on_disk import estimate_to_file
from downstream.lm.sorting import Sorter
from upstream.errors import HubertkitError, InputError

TEXTS = Path(__file__).parents[2] / "oracles/kenlm/text"
LITTLE = 100_000  # bytes to work in: some 20 runs of the 3-grams of small.txt


@pytest.fixture
def spills(monkeypatch):
    """Work in little memory, and count the sorted runs that are written."""
    monkeypatch.setattr(on_disk, "_LEAST", LITTLE)
    spilled: list[Path] = []
    spill = Sorter._spill
    monkeypatch.setattr(Sorter, "_spill", lambda self: (spilled.append(self._path), spill(self)))
    return spilled


def quiet(line: str) -> None:
    """Nothing is said."""


def same_in_both_ways(folder: Path, texts, order: int, options: Options) -> None:
    model = estimate(texts, order, options)
    write_arpa(model, folder / "memory.arpa")
    statistics = estimate_to_file(texts, order, folder / "disk.arpa", 0, options=options, say=quiet)
    assert (folder / "disk.arpa").read_bytes() == (folder / "memory.arpa").read_bytes()
    assert statistics == model.statistics
    assert sorted(path.name for path in folder.glob("*.arpa*")) == ["disk.arpa", "memory.arpa"]
    assert not list(folder.glob(".*"))


NAMES = [name for name, m in HERE.items() if m["exit"] == 0 and m["corpus"] != "main.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_many_runs_give_the_bytes_of_the_model_made_in_memory(tmp_path, name, spills):
    order, options = options_of(HERE[name]["lmplz_args"])
    same_in_both_ways(tmp_path, [corpus(HERE[name]["corpus"])], order, options)
    if HERE[name]["corpus"] == "small.txt" and order > 2:
        assert len(spills) > 20


def test_enough_models_are_compared():
    assert len(NAMES) >= 20


def test_one_run_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "_LEAST", 50_000_000)
    same_in_both_ways(tmp_path, [corpus("main.txt")], 4, Options(prune=(0, 0, 1)))


sentences = st.lists(st.lists(st.sampled_from("ABCDE"), max_size=6).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=60)
@given(lines=sentences, order=st.integers(1, 5), prune=st.lists(st.integers(0, 2), min_size=1, max_size=4).map(sorted),
       vocab=st.none() | st.frozensets(st.sampled_from("ABCDEF")), interpolated=st.booleans(), ended=st.booleans(),
       least=st.integers(3_000, 100_000))
def test_any_text_and_options_give_the_same_bytes(tmp_path_factory, lines, order, prune, vocab, interpolated, ended,
                                                  least):
    assume(knows_a_word(vocab, map(str.split, lines)))
    folder = tmp_path_factory.mktemp("lm")
    text = "\n".join(lines) + ("\n" if ended or not lines[-1] else "")
    (folder / "text").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_disk, "_LEAST", least)
        same_in_both_ways(folder, [folder / "text"], order,
                          Options(tuple(prune[:order]), FALLBACK, interpolated, vocab))


def test_several_texts_without_last_newlines_give_the_same_bytes(tmp_path, spills):
    lines = (TEXTS / "small.txt").read_text().splitlines()
    for number, first in enumerate(range(0, len(lines), 100)):
        (tmp_path / f"text{number}").write_text("\n".join(lines[first:first + 100]))
    same_in_both_ways(tmp_path, sorted(tmp_path.glob("text*")), 3, Options())
    assert len(spills) > 20


def test_too_little_memory_is_said_and_the_least_is_taken(tmp_path):
    said: list[str] = []
    estimate_to_file([TEXTS / "small.txt"], 2, tmp_path / "lm.arpa", 1_000_000, say=said.append)
    assert len(said) == 1
    assert "1 MB of memory are too little" in said[0]


def test_enough_memory_is_not_talked_about(tmp_path):
    estimate_to_file([TEXTS / "small.txt"], 2, tmp_path / "lm.arpa", 10**12, say=pytest.fail)


def test_progress_rises_to_the_end(tmp_path, spills):
    told: list[float] = []
    estimate_to_file([TEXTS / "small.txt"], 3, tmp_path / "lm.arpa", 0, say=quiet,
                     progress=lambda done, total: told.append(done / total))
    assert told == sorted(told)
    assert told[-1] == 1


@pytest.mark.parametrize(("fault", "expected", "says"), [
    (OSError(errno.ENOSPC, "No space left on device"), HubertkitError, "the disk is full"),
    (KeyboardInterrupt(), KeyboardInterrupt, None),
])
def test_temporary_files_go_when_sorting_fails(tmp_path, monkeypatch, spills, fault, expected, says):
    spill = Sorter._spill

    def fail(self):
        spill(self)
        assert list(other.glob(".lm.arpa.*.tmp/*"))
        raise fault

    monkeypatch.setattr(Sorter, "_spill", fail)
    (other := tmp_path / "other").mkdir()
    with pytest.raises(expected, match=says):
        estimate_to_file([TEXTS / "small.txt"], 3, tmp_path / "lm.arpa", 0, temporary=other, say=quiet)
    assert not list(other.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_text_that_gives_no_discounts_leaves_nothing(tmp_path, spills):
    with pytest.raises(InputError, match="--discount-fallback"):
        estimate_to_file([TEXTS / "tiny.txt"], 3, tmp_path / "lm.arpa", 0, say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing(tmp_path, number):
    (tmp_path / "text").write_text((TEXTS / "small.txt").read_text() * 400)
    process = subprocess.Popen([sys.executable, "-m", "tools.main", "lm", "build", str(tmp_path / "text"), "--order",
                                "4", "--memory", "1M", "--discount-fallback", "--out", str(tmp_path / "lm.arpa")],
                               cwd=Path(__file__).parents[3], stderr=subprocess.PIPE,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not list(tmp_path.glob(".lm.arpa.*.tmp/ngrams")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.slow
def test_the_limit_holds_where_working_in_memory_would_take_more(tmp_path):
    words = np.minimum(np.random.default_rng(1).zipf(1.3, 4_000_000), 30_000).reshape(-1, 20)
    np.savetxt(tmp_path / "text", words, "%d")
    # Not getrusage, which remembers how large the process was that started it: this one, after other tests.
    script = ("import sys; from benchmarks.apart import peak_memory; from tools.main import run; "
              "code = run(sys.argv[1:]); print(peak_memory()); sys.exit(code)")
    arguments = ["lm", "build", str(tmp_path / "text"), "--order", "4", "--out", str(tmp_path / "lm.arpa"),
                 "--discount-fallback"]
    taken = []
    for limit in ([], ["--memory", "1000M"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments, *limit], cwd=Path(__file__).parents[3],
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
        taken.append(int(done.stdout.split()[-1]))
    assert taken[1] < 1.15e9 < taken[0]
