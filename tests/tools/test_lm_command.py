"""`hubertkit lm` from the outside: what it prints, writes and exits with."""

import gzip
import json
from pathlib import Path

import pytest

from downstream.lm.arpa import read_arpa
from downstream.lm.arrays import NgramArrays
from tools.main import run

ORACLES = Path(__file__).parents[1] / "oracles/kenlm"
SMALL, HELDOUT = str(ORACLES / "text/small.txt"), str(ORACLES / "text/heldout.txt")


def close(ours: Path, name: str) -> bool:
    mine, theirs = read_arpa(ours), read_arpa(ORACLES / f"arpa/{name}.arpa.gz")
    same = [set(table) for table in mine] == [set(table) for table in theirs]
    return same and all(a[k] == pytest.approx(b[k], abs=1e-6) for a, b in zip(mine, theirs) for k in a)


@pytest.mark.parametrize(("name", "arguments"), [
    ("small.o2", "--order 2"), ("small.o3.prune012", "--order 3 --prune 0,1,2"),
    ("small.o3.pad", "--order 3 --vocab-pad 5000"),
    ("small.o1.iu0", "--order 1 --no-interpolate-unigrams"),
    ("small.o3.vocab.prune001", f"--order 3 --prune 0,0,1 --vocab {ORACLES / 'text/vocab150.txt'}"),
])
def test_options_are_those_of_lmplz(tmp_path, name, arguments):
    out = tmp_path / "lm.arpa.gz"
    assert run(["lm", "build", SMALL, "--out", str(out), *arguments.split()]) == 0
    assert gzip.decompress(out.read_bytes()).startswith(b"\\data\\\n")
    assert close(out, name)


def test_fallback_discounts_and_skipped_symbols(tmp_path):
    (tmp_path / "text").write_text((ORACLES / "text/tiny.txt").read_text().replace(" ", " <unk> ", 5))
    out = tmp_path / "lm.arpa"
    assert run(["lm", "build", str(tmp_path / "text"), "--order", "3", "--out", str(out), "--discount-fallback",
                "--skip-symbols"]) == 0
    assert close(out, "tiny.o3.fb")


def test_a_text_is_normalised_when_asked(tmp_path):
    (tmp_path / "text").write_text(Path(SMALL).read_text().lower().replace(" ", ", ", 9))
    out = tmp_path / "lm.arpa"
    assert run(["lm", "build", str(tmp_path / "text"), "--order", "2", "--out", str(out), "--normalise"]) == 0
    assert close(out, "small.o2")


def test_building_tells_the_counts_and_leaves_standard_error_to_the_rest(tmp_path, capsys):
    assert run(["lm", "build", SMALL, "--order", "2", "--out", str(tmp_path / "lm.arpa")]) == 0
    said = capsys.readouterr()
    assert "5197" in said.out
    assert "0.8396" in said.out  # D1 of order 2
    assert "lm.arpa" not in said.out
    assert "lm.arpa" in said.err.replace("\n", "")


def test_packing_writes_arrays_and_leaves_those_of_the_same_model(tmp_path, capsys):
    out = tmp_path / "lm.ngrams"
    for says in ("written", "as it was"):
        assert run(["lm", "pack", str(ORACLES / "arpa/small.o3.arpa.gz"), "--out", str(out)]) == 0
        assert says in capsys.readouterr().err
    arrays = NgramArrays.load(out)
    assert (arrays.order, arrays.vocabulary_size, len(arrays.after)) == (3, 1675, 1 + 1675 + 5197 + 6386)


def test_info_counts(capsys):
    assert run(["lm", "info", str(ORACLES / "arpa/small.o3.arpa.gz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ngrams"] == [1675, 5197, 6386]


def test_scores_are_natural_logarithms_and_perplexities_those_of_query(capsys):
    expected = json.loads((ORACLES / "queries.json").read_text())["small.o3"]
    model = str(ORACLES / "arpa/small.o3.arpa.gz")
    assert run(["lm", "score", model, HELDOUT]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    totals = [float(line.partition("\t")[0]) for line in lines]
    assert totals == pytest.approx([2.302585 * s["total"] for s in expected["sentences"]], abs=1e-3)
    assert last.startswith("perplexity 231.89, without unknown words 104.53 (520 tokens, 93 unknown)")
    assert run(["lm", "score", model, HELDOUT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["with_unknown"] == pytest.approx(231.888, abs=1e-2)


def test_a_text_to_score_may_be_normalised_and_compressed(tmp_path, capsys):
    model = str(ORACLES / "arpa/small.o3.arpa.gz")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"The time-traveller!\r\n"))
    assert run(["lm", "score", model, str(tmp_path / "text.gz"), "--normalise"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("\tTHE TIME TRAVELLER")


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["build", "nofile", "--order", "2", "--out", "x"], 2, "nofile: no such file"),
    (["build", SMALL, "--order", "2", "--out", "x", "--prune", "0,x"], 2, "--prune 0,x"),
    (["build", SMALL, "--order", "2", "--out", "x", "--prune", "0,0,1"], 2, "2 orders"),
    (["build", SMALL, "--order", "2", "--out", "x", "--vocab", "nowords"], 2, "nowords: no such file"),
    (["build", SMALL, "--order", "2", "--out", "."], 2, "--out names the ARPA file"),
    (["build", str(ORACLES / "text/tiny.txt"), "--order", "2", "--out", "x"], 1, "--discount-fallback"),
    (["info", SMALL], 1, "not an ARPA file"), (["info", "none"], 2, "none: no such file"),
    (["score", str(ORACLES / "arpa/small.o1.arpa.gz"), HELDOUT], 1, "of order 1"),
    (["score", str(ORACLES / "arpa/small.o2.arpa.gz"), "none"], 2, "none: no such file"),
    (["score", str(ORACLES / "arpa/small.o2.arpa.gz"), "latin1"], 1, "latin1: cannot be read as text"),
])
def test_mistakes_end_in_one_line_and_leave_no_file(tmp_path, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin1").write_bytes("CAFÉ".encode("latin-1"))
    assert run(["lm", *arguments]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["latin1"]
