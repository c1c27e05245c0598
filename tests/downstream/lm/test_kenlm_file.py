"""Models through KenLM's `build_binary`. A script stands in for it that copies the ARPA file, which KenLM reads too."""

import os
import shutil
from pathlib import Path

import pytest

from downstream.lm import kenlm_file
from downstream.lm.arpa import write_arpa
from downstream.lm.kenlm_file import load_kenlm, memory_of
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.scoring import score_sentence
from upstream.errors import FormatError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kenlm_file._load.cache_clear()
    yield tmp_path / "cache/hubertkit/kenlm"
    kenlm_file._load.cache_clear()


def program(folder: Path, monkeypatch, does: str = 'cp "$2" "$3"') -> Path:
    """A `build_binary` on the PATH; each call of it adds a line to the file that this gives."""
    folder = folder / "bin"
    folder.mkdir()
    (folder / "build_binary").write_text(f'#!/bin/sh\necho "$1 $2" >> {folder}/calls\n{does}\n')
    (folder / "build_binary").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "calls"


@pytest.fixture
def arpa(tmp_path) -> Path:
    shutil.copy(ORACLES / "arpa/small.o3.arpa.gz", tmp_path / "lm.arpa.gz")
    return tmp_path / "lm.arpa.gz"


def test_a_binary_is_made_once_and_again_when_the_file_changed(tmp_path, arpa, cache, monkeypatch):
    expected = score_sentence(ORACLES / "arpa/small.o3.arpa.gz", "THE TIME TRAVELLER")
    calls = program(tmp_path, monkeypatch)
    for _ in range(2):
        kenlm_file._load.cache_clear()  # as another process would
        assert score_sentence(arpa, "THE TIME TRAVELLER") == expected
    assert calls.read_text() == f"probing {arpa}\n"
    first = list(cache.iterdir())
    assert len(first) == 1
    assert Path(load_kenlm(arpa).path.decode()) == first[0]
    shutil.copy(ORACLES / "arpa/small.o2.arpa.gz", arpa)
    assert score_sentence(arpa, "THE TIME TRAVELLER") != expected
    second = list(cache.iterdir())
    assert len(second) == 1
    assert second != first


def test_without_the_program_the_arpa_is_loaded(arpa, cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert load_kenlm(arpa).path.decode() == str(arpa)
    assert not cache.exists()


@pytest.mark.parametrize("does", ["exit 1", 'echo half > "$3"; exit 1', "exec /no/such/program"])
def test_where_the_program_fails_the_arpa_is_loaded_and_nothing_is_left(tmp_path, arpa, cache, monkeypatch, does):
    program(tmp_path, monkeypatch, does)
    assert load_kenlm(arpa).path.decode() == str(arpa)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, arpa, cache, monkeypatch):
    program(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file")
    assert load_kenlm(arpa).path.decode() == str(arpa)


def test_a_broken_model_is_named_with_its_line(tmp_path, cache, monkeypatch):
    program(tmp_path, monkeypatch, "exit 1")
    (tmp_path / "bad.arpa").write_text("\\data\\\nngram 1=2\nngram 2=1\n\n\\1-grams:\n-1\t<s>\n\n")
    with pytest.raises(FormatError, match=r"bad.arpa, line 7: 1 1-grams, the header says 2"):
        load_kenlm(tmp_path / "bad.arpa")


def test_a_model_of_too_high_an_order_is_named(tmp_path, cache):
    (tmp_path / "text").write_text("A B\nA C\n")
    write_arpa(estimate([tmp_path / "text"], 9, Options(fallback=FALLBACK)), tmp_path / "nine.arpa")
    with pytest.raises(FormatError, match=r"nine\.arpa: a model of order 9; KenLM reads models of order 6 and less"):
        load_kenlm(tmp_path / "nine.arpa")


@pytest.mark.processes
def test_the_memory_of_a_process_is_measured(tmp_path, cache, monkeypatch):
    """KenLM's hash table takes 24 bytes and more for a unigram."""
    monkeypatch.setenv("PATH", "")
    words = ["<unk>", "<s>", "</s>", *(f"W{number}" for number in range(200_000))]
    unigrams = "".join(f"-5\t{word}\t0\n" for word in words)
    (tmp_path / "lm.arpa").write_text(f"\\data\\\nngram 1={len(words)}\nngram 2=1\n\n\\1-grams:\n{unigrams}\n"
                                      "\\2-grams:\n-1\t<s> W1\n\n\\end\\\n")
    assert 24 * len(words) / 2 < memory_of(tmp_path / "lm.arpa") < 10 * 24 * len(words)


def test_what_kenlm_says_is_told_from_its_beginning(tmp_path):
    reason = "lm/search.cc:288 in void f() threw util::ProbingSizeException. Avoid pruning n-grams. " + "More. " * 99
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code")
    said = str(kenlm_file.refusal(tmp_path / "lm.bin", RuntimeError(f"Cannot read model ({reason})")))
    assert "KenLM cannot read it (util::ProbingSizeException. Avoid pruning n-grams. More." in said
    assert len(said) < 400 + len(str(tmp_path))
