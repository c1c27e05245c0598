"""Hypotheses come back from JSONL as they went in; a broken file is refused by its line."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.captions import SpokenWord, Transcript, as_json
from downstream.decode.hypothesis import Candidate, Hypothesis, Word, read_hypotheses, write_as_found, write_hypotheses
from downstream.decode.provenance import provenance_path, read_provenance
from upstream.errors import FormatError, InputError, UsageError

numbers = st.floats(-1e6, 1e6)
candidates = st.builds(Candidate, st.text(), numbers, numbers, numbers, st.integers(0, 9))
hypotheses = st.builds(
    Hypothesis, id=st.text(min_size=1), text=st.text(), score=numbers, acoustic=numbers, lm=numbers,
    words=st.lists(st.builds(Word, st.text(), numbers, numbers), max_size=2).map(tuple),
    nbest=st.lists(candidates, max_size=2).map(tuple), unfinished=st.booleans(),
    confidences=st.lists(numbers, max_size=2).map(tuple))


@given(st.lists(hypotheses, max_size=3, unique_by=lambda h: h.id))
def test_hypotheses_come_back_as_they_went_in(tmp_path_factory, many):
    path = tmp_path_factory.mktemp("h") / "hyps.jsonl"
    write_hypotheses(path, many)
    assert read_hypotheses(path) == many


@given(st.lists(hypotheses, max_size=4, unique_by=lambda h: h.id), st.randoms())
def test_hypotheses_that_come_in_any_order_give_the_same_file(tmp_path_factory, many, random):
    one, other = (tmp_path_factory.mktemp("h") / "hyps.jsonl" for _ in range(2))
    write_hypotheses(one, many, {"decoder": "x"})
    found = list(enumerate(many))
    random.shuffle(found)
    write_as_found(other, iter(found), {"decoder": "x"})
    assert other.read_bytes() == one.read_bytes()
    assert read_provenance(other) == read_provenance(one)
    assert len(list(other.parent.iterdir())) == 2


def test_hypotheses_before_stay_where_those_to_come_break_off(tmp_path):
    def broken():
        yield 1, Hypothesis("b", "B", 0.0, 0.0)
        raise InputError("no more")

    write_hypotheses(tmp_path / "h.jsonl", [Hypothesis("a", "A", 0.0, 0.0)])
    for path in (tmp_path / "h.jsonl", tmp_path / "new.jsonl"):
        with pytest.raises(InputError, match="no more"):
            write_as_found(path, broken())
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]
    assert [h.id for h in read_hypotheses(tmp_path / "h.jsonl")] == ["a"]


def test_a_number_of_words_comes_back_whatever_it_is(tmp_path):
    """Found by hypothesis: it went through float64, which has no 2^53 + 1."""
    many = [Hypothesis("a", "", 0.0, 0.0, nbest=(Candidate("", 0.0, 0.0, 0.0, 2 ** 53 + 1, 2 ** 53 + 3),))]
    write_hypotheses(tmp_path / "x.jsonl", many)
    assert read_hypotheses(tmp_path / "x.jsonl") == many


def test_the_page_names_the_fields_of_a_hypothesis(tmp_path):
    """It named the decoder, its weights and word scores as well, which no file of hypotheses has."""
    page = (Path(__file__).parents[3] / "docs/architecture.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| hypotheses |"))
    write_hypotheses(tmp_path / "h.jsonl", [Hypothesis("a", "X", -1.0, -1.0, 0.0, (Word("X", 0.0, 0.1),), (
        Candidate("X", -1.0, -1.0, 0.0, 1),), (0.5,), True)])
    written = json.loads((tmp_path / "h.jsonl").read_text())
    named = set(re.findall(r"`(\w+)`", row))
    assert named == set(written) | set(written["nbest"][0])
    assert set(written) == {field.name for field in fields(Hypothesis)}


def test_what_made_hypotheses_is_bound_to_them(tmp_path):
    path = tmp_path / "hyps.jsonl"
    write_hypotheses(path, [Hypothesis("a", "X", 0.0, 0.0)], {"decoder": "greedy"})
    assert read_provenance(path)["decoder"] == "greedy"
    kept = path.read_bytes()
    path.write_text('{"id": "a", "text": "Y"}\n')
    assert read_provenance(path) is None
    path.write_bytes(kept)
    assert read_provenance(path) is not None
    write_hypotheses(path, [Hypothesis("a", "X", 0.0, 0.0)])  # of somebody who does not say
    assert [found.name for found in tmp_path.iterdir()] == ["hyps.jsonl"]
    provenance_path(path).write_text('{"mine": 1}')
    write_hypotheses(path, [])
    assert provenance_path(path).is_file()


@pytest.mark.parametrize(("content", "words"), [
    ('{"id": "a", "text": "X"}\n{"id": "b"}\n', "line 2: .*text"),
    ('{"id": "a", "text": "X"}\n\n{"id": "a", "text": "Y"}\n', "line 3: a second hypothesis for a"),
    ("a X\n", "line 1: not a hypothesis"),
    ('["a"]\n', "line 1: not a hypothesis"),
    ('{"id": "a", "text": null}\n', "line 1: .*None is no text"),
    ('{"id": "a", "text": "X", "words": [{"word": "X", "start_s": 0}]}\n', "line 1: .*'end_s'"),
    *((f'{{"id": "a", "text": "X", "nbest": [{candidate}]}}\n', f"line 1: .*{says}") for candidate, says in (
        ('{"text": "X", "score": 1, "acoustic": null, "lm": 0, "unknown": 0}', "TypeError"),
        ('{"text": "X", "score": 1, "acoustic": NaN, "lm": 0, "unknown": 0}', "no logarithms"),
        ('{"text": null, "score": 1, "acoustic": 1, "lm": 0, "unknown": 0}', "None is no text"),
        ('{"text": "X", "score": 1, "acoustic": 1, "lm": 0, "unknown": null}', "TypeError"),
        ('{"text": "X", "score": 1, "acoustic": 1, "lm": 0, "unknown": 0.5}', "expected a whole number"),
        ('{"text": "X", "score": 1, "acoustic": 1, "lm": 0}', "KeyError: 'unknown'"),
        ('{"text": "X", "score": 1, "acoustic": 1, "lm": 0, "unknown": 0, "odd": 1}', "odd: no such field"),
        ('5', "not a hypothesis"))),
])
def test_a_broken_file_is_refused_by_its_line(tmp_path, content, words):
    path = tmp_path / "hyps.jsonl"
    path.write_text(content)
    with pytest.raises(FormatError, match=words):
        read_hypotheses(path)


def test_id_and_text_are_enough(tmp_path):
    path = tmp_path / "hyps.jsonl"
    path.write_text('{"id": "a", "text": "X"}')
    assert read_hypotheses(path) == [Hypothesis("a", "X", 0.0, 0.0)]


def test_lines_of_transcribe_are_hypotheses(tmp_path):
    """They had no `id`, and their words are objects: `hubertkit score` ended in KeyError."""
    said = Transcript("talks/a.wav", (SpokenWord("A", 0.5, 1.0, 0.25), SpokenWord("B", 1.5, 2.0, 1.0)), 3.0, "a")
    (tmp_path / "a.jsonl").write_text(as_json(said))
    assert read_hypotheses(tmp_path / "a.jsonl") == [Hypothesis(
        "a", "A B", 0.0, 0.0, words=(Word("A", 0.5, 1.0), Word("B", 1.5, 2.0)), confidences=(0.25, 1.0))]


def test_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_hypotheses(tmp_path / "none.jsonl")
