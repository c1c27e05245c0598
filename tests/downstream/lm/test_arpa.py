import gzip
from pathlib import Path

import numpy as np
import pytest

from downstream.lm.arpa import ngram_counts, read_arpa, read_unigrams, write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from upstream.errors import FormatError, UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
GOOD = ("\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\t0\n0\t<s>\t-0.3\n-0.5\tA\t0\n\n\\2-grams:\n"
        "-0.2\t<s> A\n\n\\end\\\n")


def test_plain_and_compressed_files_hold_the_same(tmp_path):
    model = estimate([ORACLES / "text/small.txt"], 3)
    write_arpa(model, tmp_path / "a.arpa")
    write_arpa(model, tmp_path / "a.arpa.gz")
    assert gzip.decompress((tmp_path / "a.arpa.gz").read_bytes()) == (tmp_path / "a.arpa").read_bytes()
    assert read_arpa(tmp_path / "a.arpa") == read_arpa(tmp_path / "a.arpa.gz")


@pytest.mark.parametrize(("damage", "says"), [
    (lambda t: t[:90], "cut short"), (lambda t: t.replace("ngram 1=3", "ngram 1=4"), "the header says 4"),
    (lambda t: t.replace("-0.5\tA", "half\tA"), "is no 1-gram"), (lambda t: "words", "not an ARPA file|cut short"),
    (lambda t: t.replace("\\2-grams:", "\\3-grams:"), r"expected .2-grams"), (lambda t: "", "an empty file"),
    (lambda t: t.replace("ngram 2=1", "ngram 3=1"), "expected ngram 2"),
    (lambda t: t.replace("1=3", "1=²"), "line 2: .*expected ngram 1"),
    (lambda t: t.replace("1=3", "1=" + "9" * 5000), "line 2: .*expected ngram 1"),
    (lambda t: t.replace("ngram 1=3", "ngram 1=2"), "line 8: expected .2-grams"),
    (lambda t: t.replace("ngram 1=3\nngram 2=1\n", ""), "no counts"),
    (lambda t: t.replace("\\end\\\n", ""), "cut short"), (lambda t: t.replace("\\end\\", "more"), "expected .end"),
    (lambda t: t.replace("<unk>", "A"), "stand there twice"), (lambda t: t.replace("<s> A", "<s>"), "line 11"),
    (lambda t: t.encode().replace(b"A", b"\xff"), "cannot be read"),
    (lambda t: gzip.compress(t.encode())[:-12], "is it whole"),
])
def test_a_damaged_file_is_named_with_its_line(tmp_path, damage, says):
    path = tmp_path / "bad.arpa"
    damaged = damage(GOOD)
    path.write_bytes(damaged.encode() if isinstance(damaged, str) else damaged)
    with pytest.raises(FormatError, match=says) as caught:
        read_arpa(path)
    assert "bad.arpa" in str(caught.value)


@pytest.mark.parametrize("damage", [lambda t: t[:90], lambda t: t.replace("ngram 2=1", "ngram 2=2"), lambda t: "words"])
def test_counting_the_ngrams_finds_what_is_missing(tmp_path, damage):
    (tmp_path / "bad.arpa").write_text(damage(GOOD))
    with pytest.raises(FormatError, match=r"bad\.arpa"):
        ngram_counts(tmp_path / "bad.arpa")


def test_a_model_without_unk_is_told_of(tmp_path):
    (tmp_path / "lm.arpa").write_text(GOOD.replace("<unk>", "B"))
    said: list[str] = []
    assert ngram_counts(tmp_path / "lm.arpa", say=said.append) == [3, 1]
    assert said == [f"{tmp_path / 'lm.arpa'}, lines 6 to 8: no <unk> among the 1-grams; words that the model does not "
                    "know have a log10 probability of -100"]
    (tmp_path / "good.arpa").write_text(GOOD)
    assert ngram_counts(tmp_path / "good.arpa", say=said.append) == [3, 1]
    assert len(said) == 1


def test_the_undamaged_file_reads(tmp_path):
    (tmp_path / "good.arpa").write_text(GOOD)
    assert read_arpa(tmp_path / "good.arpa")[1] == {("<s>", "A"): (-0.2, 0.0)}


def test_columns_may_be_parted_by_spaces_and_sections_by_nothing(tmp_path):
    (tmp_path / "other.arpa").write_bytes(GOOD.replace("\t", " ").replace("\n\n", "\n").replace("\n", "\r\n").replace(
        "=1\r\n", "=1\r\n\r\n").encode())
    (tmp_path / "good.arpa").write_text(GOOD)
    assert read_arpa(tmp_path / "other.arpa") == read_arpa(tmp_path / "good.arpa")


@pytest.mark.parametrize("read", [read_arpa, ngram_counts, read_unigrams])
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(UsageError, match=r"none\.arpa: no such"):
        read(tmp_path / "none.arpa")


def test_words_and_counts_of_a_model_are_read(tmp_path):
    (tmp_path / "good.arpa").write_text(GOOD)
    assert ngram_counts(tmp_path / "good.arpa") == [3, 1]
    assert read_unigrams(tmp_path / "good.arpa") == ["A"]
    small = ORACLES / "arpa/small.o3.arpa.gz"
    assert ngram_counts(small) == [1675, 5197, 6386]
    assert len(read_unigrams(small)) == 1672


@pytest.mark.parametrize("rows", [1, 7, 10_000])
def test_numbers_are_read_as_the_float32_that_were_written(tmp_path, rows, monkeypatch):
    monkeypatch.setattr("downstream.lm.arpa._ROWS", rows)
    model = estimate([ORACLES / "text/tiny.txt"], 3, Options(fallback=FALLBACK))
    told: list[float] = []
    write_arpa(model, tmp_path / "lm.arpa", lambda done, total: told.append(done / total))
    for grams, table in zip(model.orders, read_arpa(tmp_path / "lm.arpa"), strict=True):
        assert np.array([p for p, _ in table.values()], np.float32).tolist() == grams.logprob.tolist()
        assert np.array([b for _, b in table.values()], np.float32).tolist() == grams.backoff.tolist()
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_compressed_file_has_the_same_bytes_each_time(tmp_path):
    model = estimate([ORACLES / "text/tiny.txt"], 2, Options(fallback=FALLBACK))
    for name in ("a.arpa.gz", "b.arpa.gz"):
        write_arpa(model, tmp_path / name)
    assert (tmp_path / "a.arpa.gz").read_bytes() == (tmp_path / "b.arpa.gz").read_bytes()


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    model = estimate([ORACLES / "text/tiny.txt"], 2, Options(fallback=FALLBACK))
    (tmp_path / "lm.arpa").write_text("before")

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_arpa(model, tmp_path / "lm.arpa", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["lm.arpa"]
    assert (tmp_path / "lm.arpa").read_text() == "before"
