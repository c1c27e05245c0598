import gzip
import json
from pathlib import Path

import pytest

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.kneser_ney import estimate
from downstream.lm.scoring import LN10, perplexity, score_words
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


def test_kenlm_reads_what_we_write_and_scores_as_its_own_program(tmp_path):
    queries = json.loads((ORACLES / "queries.json").read_text())["small.o3"]
    write_arpa(estimate([ORACLES / "text/small.txt"], 3), tmp_path / "lm.arpa")
    lines = (ORACLES / "text/heldout.txt").read_text().splitlines()
    for line, expected in zip(lines, queries["sentences"], strict=True):
        found = score_words(tmp_path / "lm.arpa", line)
        assert [w.logprob / LN10 for w in found] == pytest.approx([w[2] for w in expected["words"]], abs=1e-4)
        assert [w.unknown for w in found] == [bool(w[3]) for w in expected["words"]]
    whole = perplexity(tmp_path / "lm.arpa", lines)
    assert whole.with_unknown == pytest.approx(queries["ppl_including_oov"], rel=1e-4)
    assert whole.without_unknown == pytest.approx(queries["ppl_excluding_oov"], rel=1e-4)
    assert (whole.tokens, whole.unknown) == (queries["tokens"], queries["oovs"])


@pytest.mark.parametrize(("damage", "says"), [
    (lambda t: t[:90], "cut short"), (lambda t: t.replace("ngram 1=3", "ngram 1=4"), "the header says 4"),
    (lambda t: t.replace("-0.5\tA", "half\tA"), "is no 1-gram"), (lambda t: "words", "not an ARPA file|cut short"),
    (lambda t: t.replace("\\2-grams:", "\\3-grams:"), r"expected .2-grams"), (lambda t: "", "cut short"),
    (lambda t: t.replace("ngram 2=1", "ngram 3=1"), "expected ngram 2"),
])
def test_a_damaged_file_is_named_with_its_line(tmp_path, damage, says):
    path = tmp_path / "bad.arpa"
    path.write_text(damage(GOOD))
    with pytest.raises(FormatError, match=says) as caught:
        read_arpa(path)
    assert "bad.arpa" in str(caught.value)


def test_the_undamaged_file_reads(tmp_path):
    (tmp_path / "good.arpa").write_text(GOOD)
    assert read_arpa(tmp_path / "good.arpa")[1] == {("<s>", "A"): (-0.2, 0.0)}


def test_files_that_are_not_there_or_empty_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such"):
        score_words(tmp_path / "none.arpa", "A")
    (tmp_path / "empty.arpa").touch()
    with pytest.raises(FormatError, match="empty"):
        score_words(tmp_path / "empty.arpa", "A")
    (tmp_path / "text.arpa").write_text("hello")
    with pytest.raises(FormatError, match="KenLM cannot read it"):
        score_words(tmp_path / "text.arpa", "A")
