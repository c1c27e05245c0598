"""`hubertkit lm` from the outside: what it prints, writes and exits with."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from downstream.lm.arpa import read_arpa
from downstream.lm.arrays import NgramArrays
from tools.main import run

ORACLES = Path(__file__).parents[1] / "oracles/kenlm"
SMALL, HELDOUT = str(ORACLES / "text/small.txt"), str(ORACLES / "text/heldout.txt")

O3 = str(ORACLES / "arpa/small.o3.arpa.gz")


def close(ours: Path, name: str) -> bool:
    mine, theirs = read_arpa(ours), read_arpa(ORACLES / f"arpa/{name}.arpa.gz")
    same = [set(table) for table in mine] == [set(table) for table in theirs]
    return same and all(a[k] == pytest.approx(b[k], abs=1e-6) for a, b in zip(mine, theirs) for k in a)


@pytest.mark.parametrize(("name", "arguments"), [
    ("small.o2", "--order 2"), ("small.o3.prune012", "--order 3 --prune 0,1,2"),
    ("small.o3.pad", "--order 3 --vocab-pad 5000"),
    ("small.o1.iu0", "--order 1 --no-interpolate-unigrams"),
    ("small.o3.vocab.prune001", f"--order 3 --prune 0,0,1 --vocab {ORACLES / 'text/vocab150.txt'}"),
    ("small.o3.vocab.iu0", f"--order 3 --no-interpolate-unigrams --vocab {ORACLES / 'text/vocab150.txt'}"),
    ("small.o4.prune01", "--order 4 --prune 0,1 --memory 1M"),
    ("small.o3.pad", "--order 3 --vocab-pad 5000 --memory 8G"),
    ("degenerate.o3.fb1", "--order 3 --fallback-discounts 0.4"),
    ("degenerate.o3.fb2", "--order 3 --fallback-discounts 0.4,0.7,0.9"),
])
def test_options_are_those_of_lmplz(tmp_path, name, arguments):
    out = tmp_path / "lm.arpa.gz"
    text = str(ORACLES / f"text/{name.partition('.')[0]}.txt")
    assert run(["lm", "build", text, "--out", str(out), *arguments.split()]) == 0
    assert gzip.decompress(out.read_bytes()).startswith(b"\\data\\\n")
    assert close(out, name)


def test_fallback_discounts_and_skipped_symbols(tmp_path):
    (tmp_path / "text").write_text((ORACLES / "text/tiny.txt").read_text().replace(" ", " <unk> ", 5))
    out = tmp_path / "lm.arpa"
    assert run(["lm", "build", str(tmp_path / "text"), "--order", "3", "--out", str(out), "--discount-fallback",
                "--skip-symbols"]) == 0
    assert close(out, "tiny.o3.fb")


def test_fallback_discounts_are_told_with_the_reason(tmp_path, capsys):
    (tmp_path / "text").write_text("A B\nA C\n")
    for way in ([], ["--memory", "1G"]):
        assert run(["lm", "build", str(tmp_path / "text"), "--order", "5", "--discount-fallback", "--out",
                    str(tmp_path / "lm.arpa"), *way]) == 0
        said = capsys.readouterr().err
        assert "order 2: fallback discounts, as no 2-gram has an adjusted count of 3" in said
        assert "order 5: fallback discounts, as there are no 5-grams, as no sentence is that long" in said
        assert read_arpa(tmp_path / "lm.arpa")[4] == {}


def test_a_text_is_normalised_when_asked(tmp_path):
    (tmp_path / "text").write_text(Path(SMALL).read_text().lower().replace(" ", ", ", 9))
    out = tmp_path / "lm.arpa"
    assert run(["lm", "build", str(tmp_path / "text"), "--order", "2", "--out", str(out), "--normalise"]) == 0
    assert close(out, "small.o2")


@pytest.mark.parametrize("more", [[], ["--memory", "1G"]])
def test_a_text_of_which_normalising_leaves_no_word_is_refused(tmp_path, capsys, more):
    """A Russian text gave a model of ends of sentences, or an error about discounts."""
    (tmp_path / "ru.txt").write_text("привет мир\nкак дела\n", encoding="utf-8")
    arguments = ["lm", "build", str(tmp_path / "ru.txt"), "--order", "2", "--out", str(tmp_path / "lm.arpa"), *more]
    assert run([*arguments, "--normalise", "--discount-fallback"]) == 1
    assert "ru.txt: no word is left after normalising" in capsys.readouterr().err
    assert not (tmp_path / "lm.arpa").exists()
    assert run([*arguments, "--discount-fallback"]) == 0


def test_building_tells_the_counts_and_leaves_standard_error_to_the_rest(tmp_path, capsys):
    assert run(["lm", "build", SMALL, "--order", "2", "--out", str(tmp_path / "lm.arpa")]) == 0
    said = capsys.readouterr()
    assert "5197" in said.out
    assert "0.8396" in said.out  # D1 of order 2
    assert "lm.arpa" not in said.out
    assert "lm.arpa" in said.err.replace("\n", "")


@pytest.mark.parametrize(("how", "value", "ngrams"), [
    ("--ngrams", "5000", 5000), ("--megabytes", "0.1", 5000), ("--threshold", "1e-5", 8000),
])
def test_pruning_leaves_a_smaller_model_that_kenlm_reads(tmp_path, capsys, how, value, ngrams):
    out = tmp_path / "pruned.arpa.gz"
    assert run(["lm", "prune", str(ORACLES / "arpa/small.o3.arpa.gz"), "--out", str(out), how, value]) == 0
    assert "6386" in capsys.readouterr().out
    assert 0.5 * ngrams < sum(map(len, read_arpa(out))) <= ngrams
    if how == "--megabytes":
        assert 95_000 < len(gzip.decompress(out.read_bytes())) <= 100_000
    assert run(["lm", "score", str(out), HELDOUT]) == 0


def test_interpolating_tells_the_weight_and_the_words_that_one_model_lacks(tmp_path, capsys):
    dev, out = tmp_path / "dev.gz", tmp_path / "mixed.arpa"
    dev.write_bytes(gzip.compress(b"The time traveller came back.\n"))
    parts = Path(SMALL).read_text().splitlines(keepends=True)
    for name, lines in (("a", parts[:300]), ("b", parts[200:])):
        (tmp_path / name).write_text("".join(lines))
        assert run(["lm", "build", str(tmp_path / name), "--order", "2", "--out", str(tmp_path / f"{name}.arpa")]) == 0
    capsys.readouterr()
    assert run(["lm", "interpolate", str(tmp_path / "a.arpa"), str(tmp_path / "b.arpa"), "--dev", str(dev), "--out",
                str(out), "--normalise"]) == 0
    said = capsys.readouterr()
    assert "mixed" in said.out
    assert said.err.replace("\n", " ").count("the other model gives them") == 2
    assert len(read_arpa(out)[0]) == 1675


def test_packing_writes_arrays_and_leaves_those_of_the_same_model(tmp_path, capsys):
    out = tmp_path / "lm.ngrams"
    for says in ("written", "as it was"):
        assert run(["lm", "pack", str(ORACLES / "arpa/small.o3.arpa.gz"), "--out", str(out)]) == 0
        assert says in capsys.readouterr().err
    arrays = NgramArrays.load(out)
    assert (arrays.order, arrays.vocabulary_size, int((arrays.keys >= 0).sum())) == (3, 1675, 5197 + 6386)


@pytest.mark.processes
def test_info_counts_and_measures(tmp_path, capsys):
    assert run(["lm", "info", O3, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ngrams"], found["bytes"]) == ([1675, 5197, 6386], Path(O3).stat().st_size)
    assert found["memory_per_process"] >= 0
    assert run(["lm", "info", O3]) == 0
    assert "in every process" in capsys.readouterr().out
    assert run(["lm", "info", str(ORACLES / "arpa/small.o1.arpa.gz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_per_process"] is None


def test_info_counts_what_kenlm_refuses_and_no_model_that_nobody_reads(tmp_path, capsys):
    whole = gzip.decompress(Path(O3).read_bytes()).decode()
    (tmp_path / "blanks.arpa").write_text(whole.replace("\n", " \n"))
    assert run(["lm", "info", str(tmp_path / "blanks.arpa")]) == 0
    assert "KenLM cannot read it" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "broken.arpa").write_text(whole.replace("\t</s>", "\t</S>", 1))
    assert run(["lm", "info", str(tmp_path / "broken.arpa"), "--json"]) == 1
    said = capsys.readouterr()
    assert (said.out, "no </s> among the 1-grams" in said.err) == ("", True)


def test_info_tells_of_a_model_without_unk(tmp_path, capsys):
    lines = [line for line in gzip.decompress(Path(O3).read_bytes()).decode().splitlines(True) if "<unk>" not in line]
    (tmp_path / "lm.arpa").write_text("".join(lines).replace("1=1675", "1=1674"))
    assert run(["lm", "info", str(tmp_path / "lm.arpa"), "--json"]) == 0
    said = capsys.readouterr()
    assert "lm.arpa, lines 7 to 1680: no <unk>" in said.err.replace("\n", "")
    assert json.loads(said.out)["ngrams"] == [1674, 5197, 6386]


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


@pytest.mark.parametrize("name", ["text.gz", "text"])  # its first bytes say so, too
def test_a_text_to_score_may_be_normalised_and_compressed(tmp_path, capsys, name):
    model = str(ORACLES / "arpa/small.o3.arpa.gz")
    (tmp_path / name).write_bytes(gzip.compress(b"The time-traveller!\r\n"))
    assert run(["lm", "score", model, str(tmp_path / name), "--normalise"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("\tTHE TIME TRAVELLER")


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["build", "nofile", "--order", "2", "--out", "x"], 2, "nofile: no such file"),
    (["build", SMALL, "--order", "2", "--out", "x", "--prune", "0,x"], 2, "--prune 0,x"),
    (["build", SMALL, "--order", "2", "--out", "x", "--prune", "0,0,1"], 2, "2 orders"),
    (["build", SMALL, "--order", "2", "--out", "x", "--vocab", "nowords"], 2, "nowords: no such file"),
    (["build", SMALL, "--order", "2", "--out", "."], 2, "--out names the ARPA file"),
    (["build", str(ORACLES / "text/tiny.txt"), "--order", "2", "--out", "x"], 1, "--discount-fallback"),
    (["build", SMALL, "--out", "x"], 2, "--order"),
    (["build", SMALL, "--order", "2", "--out", "x", "--fallback-discounts", "0.1,0.2,0.3,0.4"], 2, "at most three"),
    (["build", SMALL, "--order", "2", "--out", "x", "--fallback-discounts", "0.5,1,4"], 2, "must lie in [0, j]"),
    (["build", SMALL, "--order", "2", "--out", "x", "--fallback-discounts", "half"], 2, "expected numbers"),
    (["build", SMALL, "--order", "2", "--out", "x", "--vocab", "nothing"], 1, "nothing: no words"),
    (["build", SMALL, "--order", "2", "--out", "x", "--memory", "lots"], 2, "--memory lots: expected a size"),
    (["build", SMALL, "--order", "2", "--out", "x", "--temporary", "."], 2, "needs --memory"),
    (["build", SMALL, "--order", "2", "--out", "x", "--memory", "1G", "--temporary", "no"], 2, "no such folder"),
    (["build", SMALL, "--order", "7", "--out", "x"], 1, "a lower order"),
    (["build", SMALL, "--order", "7", "--out", "x", "--memory", "8G"], 1, "a lower order"),
    (["build", "nothing", "--order", "2", "--out", "x"], 1, "nothing: no text"),
    (["build", "nothing", "--order", "2", "--out", "x", "--memory", "8G"], 1, "nothing: no text"),
    (["info", "nothing"], 1, "nothing: "), (["score", "nothing", HELDOUT], 1, "nothing: an empty file"),
    (["prune", O3, "--out", "x"], 2, "give one of --ngrams, --megabytes and --threshold"),
    (["prune", O3, "--out", "x", "--ngrams", "5", "--threshold", "1e-8"], 2, "give one of"),
    (["prune", O3, "--out", "x", "--ngrams", "5"], 2, "1675 words, which all stay"),
    (["prune", O3, "--out", "x", "--threshold", "0"], 2, "must be above 0"),
    (["prune", O3, "--out", ".", "--ngrams", "5000"], 2, "--out names the ARPA file"),
    (["prune", SMALL, "--out", "x", "--ngrams", "5000"], 1, "line 1: not an ARPA file"),
    (["interpolate", O3, O3, "--dev", "none", "--out", "x"], 2, "none: no such file"),
    (["interpolate", O3, O3, "--dev", "nothing", "--out", "x"], 1, "no text"),
    (["interpolate", O3, "nothing", "--dev", SMALL, "--out", "x"], 1, "nothing: an empty file"),
    (["pack", "nothing", "--out", "x"], 1, "nothing: an empty file"), (["pack", "none", "--out", "x"], 2, "no such"),
    (["info", SMALL], 1, "not an ARPA file"), (["info", "none"], 2, "none: no such file"),
    (["score", str(ORACLES / "arpa/small.o1.arpa.gz"), HELDOUT], 1, "of order 1"),
    (["score", str(ORACLES / "arpa/small.o2.arpa.gz"), "none"], 2, "none: no such file"),
    (["score", str(ORACLES / "arpa/small.o2.arpa.gz"), "latin1"], 1, "latin1: cannot be read as text"),
])
def test_mistakes_end_in_one_line_and_leave_no_file(tmp_path, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin1").write_bytes("CAFÉ".encode("latin-1"))
    (tmp_path / "nothing").write_bytes(b"")
    assert run(["lm", *arguments]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1 or "Usage:" in said.err
    assert said.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latin1", "nothing"]


@pytest.fixture
def piped():
    """Makes of a path that of a pipe from which its content comes, as `<(cat FILE)` does."""
    kept = []

    def pipe(path):
        process = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)
        kept.append(process)
        return f"/dev/fd/{process.stdout.fileno()}"

    yield pipe
    for process in kept:
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("way", [[], ["--memory", "1G"]])
def test_a_text_may_come_from_a_pipe(tmp_path, piped, way):
    """It was told of as missing."""
    out = tmp_path / "lm.arpa"
    assert run(["lm", "build", piped(SMALL), "--order", "2", "--out", str(out), *way]) == 0
    assert close(out, "small.o2")


def test_a_text_to_score_may_come_from_a_pipe(piped, capsys):
    for text in (HELDOUT, piped(HELDOUT)):
        assert run(["lm", "score", O3, text]) == 0
    half = capsys.readouterr().out.splitlines()
    assert half[:len(half) // 2] == half[len(half) // 2:]


def test_an_empty_device_is_no_text_but_is_there(tmp_path, capsys):
    assert run(["lm", "interpolate", O3, O3, "--dev", "/dev/null", "--out", str(tmp_path / "x")]) == 1
    assert "/dev/null: no text" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["info MODEL", "score MODEL TEXT", "prune MODEL --out x --ngrams 5000",
                                       "pack MODEL --out x", "interpolate MODEL MODEL --dev TEXT --out x"])
def test_a_model_from_a_pipe_is_refused_with_the_reason(tmp_path, monkeypatch, capsys, piped, arguments):
    monkeypatch.chdir(tmp_path)
    arguments = arguments.replace("MODEL", piped(O3)).replace("TEXT", HELDOUT)
    assert run(["lm", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert "which can be read once only, and this is read several times: write it into a file" in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


@pytest.mark.parametrize("way", [[], ["--memory", "1G"], ["--discount-fallback"]])
def test_an_order_beyond_the_longest_sentence_is_refused_before_the_counting(tmp_path, monkeypatch, capsys, way):
    """It took hours to find out that there is nothing to count."""
    monkeypatch.setattr("downstream.lm.kneser_ney.count", None)
    monkeypatch.setattr("downstream.lm.on_disk._counted", None)
    longest = 2 + max(len(line.split()) for line in Path(SMALL).read_text().splitlines())
    assert run(["lm", "build", SMALL, "--order", "99999999", "--out", str(tmp_path / "x"), *way]) == 1
    said = capsys.readouterr()
    assert f"order 99999999: there are no 99999999-grams, as no sentence is that long: the longest has {longest}" \
        in said.err
    assert (said.err.count("\n"), said.out, list(tmp_path.iterdir())) == (1, "", [])


@pytest.mark.parametrize(("order", "code"), [(5, 0), (6, 1)])
def test_the_longest_ngram_is_a_sentence_with_its_ends(tmp_path, monkeypatch, capsys, order, code):
    monkeypatch.setattr("downstream.lm.kneser_ney.USUAL_ORDER", 0)
    (tmp_path / "text").write_text("A B C\nA C\n")
    for way in ([], ["--memory", "1G"]):
        assert run(["lm", "build", str(tmp_path / "text"), "--order", str(order), "--discount-fallback", "--out",
                    str(tmp_path / "lm.arpa"), *way]) == code
    assert (tmp_path / "lm.arpa").exists() == (code == 0)


def test_a_vocabulary_is_normalised_with_the_text(tmp_path):
    (tmp_path / "text").write_text("the cat sat\nthe dog unk\n" * 3)
    (tmp_path / "words").write_bytes(b"\xef\xbb\xbfthe\n<s>\n<unk>\n<UNK>\ncat\n")
    text, words, out = (str(tmp_path / name) for name in ("text", "words", "lm.arpa"))
    assert run(["lm", "build", text, "--order", "2", "--normalise", "--vocab", words, "--discount-fallback", "--out",
                out]) == 0
    assert set(read_arpa(out)[0]) == {("<unk>",), ("<s>",), ("</s>",), ("THE",), ("CAT",)}


@pytest.mark.parametrize("arguments", [
    ["build", "text", "--order", "2", "--normalise", "--discount-fallback", "--out", "x"],
    ["train", "text", "--normalise", "--out", "x"], ["score", O3, "text", "--normalise"],
    ["interpolate", O3, O3, "--dev", "text", "--normalise", "--out", "x"]])
def test_special_words_are_refused_before_the_text_is_normalised(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    for special in ("<unk>", "<UNK>"):
        (tmp_path / "text").write_text(f"the cat\nthe {special} cat\n")
        assert run(["lm", *arguments]) == 1
        said = capsys.readouterr()
        assert f"text, line 2: {special} is a special word of language models; take it out" in said.err
        assert (said.err.count("\n"), said.out) == (1, "")
        assert not (tmp_path / "x").exists()


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path, capsys):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfTHE TIME\n")
    assert run(["lm", "score", O3, str(tmp_path / "text")]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("\tTHE TIME")


def test_unknown_words_of_a_text_may_be_written_as_unk(tmp_path, capsys):
    (tmp_path / "text").write_text("THE <unk> TIME\n")
    assert run(["lm", "score", O3, str(tmp_path / "text"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == 1


@pytest.mark.parametrize("arguments", [
    ["build", SMALL, "--order", "2", "--out", "file/lm.arpa"], ["train", SMALL, "--out", "file"],
    ["train", SMALL, "--out", "file/model"], ["train", SMALL, "--out", "asr"],
    ["build", SMALL, "--order", "2", "--out", "pipe"]])
def test_a_place_that_cannot_be_written_to_is_named_before_the_work(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.lm.estimate", None)
    monkeypatch.setattr("tools.lm.train_characters", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "asr").mkdir()
    (tmp_path / "asr/model.safetensors").write_bytes(b"another model")
    os.mkfifo(tmp_path / "pipe")
    assert run(["lm", *arguments]) == 2
    said = capsys.readouterr()
    assert (said.err.count("\n"), said.out) == (1, "")


@pytest.mark.parametrize("size", ["nan", "inf", "0", "-1"])
def test_a_size_in_megabytes_that_is_none_is_named(tmp_path, capsys, size):
    assert run(["lm", "prune", O3, "--out", str(tmp_path / "x"), "--megabytes", size]) == 2
    assert f"--megabytes {size}: must be above 0" in capsys.readouterr().err


def test_a_text_that_needs_more_memory_than_there_is_says_so_before_it_is_read(tmp_path, monkeypatch, capsys):
    text = tmp_path / "text"
    text.write_text("A B C\n" * 50)
    monkeypatch.setattr("tools.lm.free_bytes", lambda device, count: 10_000)
    out = str(tmp_path / "a.arpa")
    assert run(["lm", "build", str(text), "--order", "2", "--discount-fallback", "--out", out]) == 0
    assert "--memory 1G sorts in files instead" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mine.txt", "mine.txt.gz", "lm.arpa.gz"])
def test_a_file_that_is_no_model_is_not_written_over(tmp_path, capsys, name):
    """`lm build text.txt.gz --out text.txt` took the place of the text; a model is made anew in its place."""
    (tmp_path / "text.txt").write_text("A B\nB A\n" * 5)
    words = ["lm", "build", str(tmp_path / "text.txt"), "--order", "1", "--discount-fallback", "--out",
             str(tmp_path / name)]
    (tmp_path / name).write_text("a text of somebody else")
    assert run(words) == 2
    assert "is there already and no language model" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "a text of somebody else"
    (tmp_path / name).unlink()
    assert (run(words), run(words)) == (0, 0)
