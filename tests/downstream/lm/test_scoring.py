"""Scores against KenLM's `query`, of models that we built ourselves."""

import gzip
import json
import math
import os
from pathlib import Path

import pytest
from test_kneser_ney import HERE, build

from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import Options, estimate
from downstream.lm.scoring import LN10, perplexity, score_sentence, score_words
from upstream.errors import FormatError, InputError, UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
QUERIES = json.loads((ORACLES / "queries.json").read_text())
LINES = (ORACLES / "text/heldout.txt").read_text().split("\n")[:-1]


@pytest.mark.parametrize("name", [name for name in QUERIES if name in HERE])
def test_scores_of_our_models_are_those_of_query(tmp_path, name):
    path, expected = tmp_path / "lm.arpa", QUERIES[name]
    write_arpa(build(name), path)
    for line, sentence in zip(LINES, expected["sentences"], strict=True):
        found = score_words(path, line)
        assert [w.word for w in found] == [w[0] for w in sentence["words"]]
        assert [w.logprob / LN10 for w in found] == pytest.approx([w[2] for w in sentence["words"]], abs=1e-5)
        assert [w.unknown for w in found] == [bool(w[3]) for w in sentence["words"]]
        assert score_sentence(path, line) / LN10 == pytest.approx(sentence["total"], abs=1e-4)
    whole = perplexity(path, LINES)
    assert whole.with_unknown == pytest.approx(expected["ppl_including_oov"], rel=1e-5)
    assert whole.without_unknown == pytest.approx(expected["ppl_excluding_oov"], rel=1e-5)
    assert (whole.tokens, whole.unknown) == (expected["tokens"], expected["oovs"])


def test_words_are_those_of_estimation(tmp_path):
    """A no-break space is a part of a word there, in lmplz and in query; a page break ends one here."""
    (tmp_path / "text").write_text("A\u00a0B C\nC\tA\u00a0B\nC\u3000D\n", encoding="utf-8")
    write_arpa(estimate([tmp_path / "text"], 2, Options(fallback=(0.5, 1.0, 1.5))), tmp_path / "lm.arpa")
    found = score_words(tmp_path / "lm.arpa", "A\u00a0B\t C\u3000D \fC\vC\x85C")
    assert [(w.word, w.unknown) for w in found] == [("A\u00a0B", False), ("C\u3000D", False), ("C", False),
                                                    ("C\x85C", True), ("</s>", False)]


def test_enough_models_are_scored():
    assert len([name for name in QUERIES if name in HERE]) >= 12


def test_worked_example_in_natural_logarithms(tmp_path):
    """p(A | <s>) = .6 and p(B | A) = .35 as in the bigram example; p(</s> | B) = (1 - .5) / 1 + .5 * .3 = .65."""
    (tmp_path / "text").write_text("A B\nA C\n")
    write_arpa(estimate([tmp_path / "text"], 2, Options(fallback=(0.5, 1.0, 1.5))), tmp_path / "lm.arpa")
    assert score_sentence(tmp_path / "lm.arpa", "A B") == pytest.approx(math.log(0.6 * 0.35 * 0.65), abs=1e-5)


def test_a_text_without_sentences_has_no_perplexity():
    with pytest.raises(InputError, match="no sentence"):
        perplexity(ORACLES / "arpa/tiny.o3.fb.arpa.gz", [])


def test_a_string_is_no_list_of_sentences():
    """The perplexity was that of its letters."""
    with pytest.raises(UsageError, match="give a list of sentences"):
        perplexity(ORACLES / "arpa/tiny.o3.fb.arpa.gz", "THE CAT SAT")


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "lm.arpa.gz"
    scores = []
    for number, name in enumerate(("small.o2", "small.o3")):
        path.write_bytes((ORACLES / f"arpa/{name}.arpa.gz").read_bytes())
        os.utime(path, (number, number))
        scores.append(score_sentence(path, "THE TIME TRAVELLER"))
    assert scores[0] != scores[1]


WHOLE = gzip.decompress((ORACLES / "arpa/small.o3.arpa.gz").read_bytes())


@pytest.mark.parametrize(("name", "content", "says"), [
    ("none.arpa", None, "no such language model"), ("empty.arpa", b"", "an empty file"),
    ("text.arpa", b"hello", "line 1: not an ARPA"), ("cut.arpa", WHOLE[:5000], "cut short"),
    ("end.arpa", WHOLE[:-7], "cut short"), ("cut.arpa.gz", gzip.compress(WHOLE)[:5000], "is it whole"),
    ("broken.arpa", WHOLE.replace(b"-0.1", b"minus", 1), "line 14: 'minus3558657' is no number"),
    ("one.arpa.gz", (ORACLES / "arpa/small.o1.arpa.gz").read_bytes(), "of order 1; KenLM reads models of order 2"),
    ("broken.binary", b"mmap lm http://kheafield.com/code format version 5\n\0", "KenLM cannot read it"),
])
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError if content is None else FormatError, match=says) as caught:
        score_words(tmp_path / name, "A")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [None, ["THE", "CAT"], 3])
def test_a_sentence_is_text(given):
    with pytest.raises(UsageError, match="expected a sentence as text"):
        score_words(Path("lm.arpa"), given)
    with pytest.raises(UsageError, match="expected a sentence as text"):
        perplexity(Path("lm.arpa"), [given])
