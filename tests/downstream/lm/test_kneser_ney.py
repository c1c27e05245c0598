"""Our estimator against lmplz: n-gram sets, log10 values, discounts, odd cases; and against the definition."""

import json
import math
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.kneser_ney import Options, estimate
from upstream.errors import HubertkitError, InputError, UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
MODELS = json.loads((ORACLES / "models.json").read_text())
HERE = {n: m for n, m in MODELS.items() if "lmplz_args" in m and (ORACLES / "text" / m["corpus"]).is_file()}


def options_of(arguments: str) -> tuple[int, Options]:
    """lmplz's arguments as ours."""
    words = shlex.split(arguments)
    groups: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("-"):
            groups[name := word.lstrip("-")] = []
        else:
            groups[name].append(word)
    order = int(groups.pop("o")[0])
    values: dict = {}
    if "discount_fallback" in groups:
        given = [float(v) for v in groups.pop("discount_fallback")] or [0.5, 1.0, 1.5]
        values["fallback"] = tuple((given + [given[-1]] * 3)[:3])
    if "prune" in groups:
        values["prune"] = tuple(int(v) for v in groups.pop("prune"))
    if "interpolate_unigrams" in groups:
        values["interpolate_unigrams"] = groups.pop("interpolate_unigrams")[0] != "0"
    if "vocab_pad" in groups:
        values["vocab_pad"] = int(groups.pop("vocab_pad")[0])
    if "limit_vocab_file" in groups:
        file = Path(groups.pop("limit_vocab_file")[0]).name
        values["vocab"] = frozenset((ORACLES / "text" / file).read_text().split())
    assert not groups, f"arguments not understood: {groups}"
    return order, Options(**values)


def build(name: str):
    order, options = options_of(HERE[name]["lmplz_args"])
    return estimate([ORACLES / "text" / HERE[name]["corpus"]], order, options)


@pytest.mark.parametrize("name", [n for n, m in HERE.items() if m["exit"] == 0])
def test_a_model_equals_lmplz(name, tmp_path):
    model, reference = build(name), HERE[name]
    write_arpa(model, tmp_path / "lm.arpa")
    ours, theirs = read_arpa(tmp_path / "lm.arpa"), read_arpa(ORACLES / reference["file"])
    assert [set(table) for table in ours] == [set(table) for table in theirs]
    worst = max(abs(a - b) for mine, other in zip(ours, theirs) for k in mine for a, b in zip(mine[k], other[k]))
    assert worst < 2e-6
    for found, expected in zip(model.statistics, reference["orders"]):
        assert (found.kept, found.total) == (expected["kept"], expected["total"])
        assert found.counts_of_counts == tuple(expected[f"n{j}"] for j in range(5))
        assert found.discounts == pytest.approx([expected[d] for d in ("D1", "D2", "D3plus")], abs=1e-6)


@pytest.mark.parametrize("name", [n for n, m in HERE.items() if m["exit"] != 0])
def test_where_lmplz_stops_we_stop_and_say_what_to_do(name):
    with pytest.raises(InputError, match="--discount-fallback"):
        build(name)


def test_enough_models_are_compared():
    assert len([m for m in HERE.values() if m["exit"] == 0]) >= 20
    assert len([m for m in HERE.values() if m["exit"] != 0]) >= 3


def test_worked_bigram_example(tmp_path):
    """Two sentences, `A B` and `A C`, order 2, discounts 1/2 for a count of 1, 1 for 2, 3/2 for more.

    Unigrams, adjusted: A 1 (after <s>), B 1, C 1, </s> 2 (after B, C): 5 in all. gamma() = (3 * 1/2 + 1) / 5 = .5,
    spread over 5 words (<unk> too): p(A) = (1 - .5) / 5 + .5 / 5 = .2, p(</s>) = (2 - 1) / 5 + .1 = .3, p(<unk>) = .1.
    Bigrams, raw: <s> A 2, A B 1, A C 1, B </s> 1, C </s> 1.
    p(A | <s>) = (2 - 1) / 2 + 1/2 * .2 = .6; p(B | A) = .5 / 2 + (2 * .5 / 2) * .2 = .35.
    """
    (tmp_path / "text").write_text("A B\nA C\n")
    write_arpa(estimate([tmp_path / "text"], 2, Options(fallback=(0.5, 1.0, 1.5))), tmp_path / "lm.arpa")
    unigrams, bigrams = read_arpa(tmp_path / "lm.arpa")
    expected = {"A": 0.2, "B": 0.2, "C": 0.2, "</s>": 0.3, "<unk>": 0.1}
    assert {w: 10 ** unigrams[(w,)][0] for w in expected} == pytest.approx(expected, rel=1e-5)
    assert unigrams[("<s>",)] == pytest.approx((0.0, math.log10(0.5)), abs=1e-6)
    assert 10 ** bigrams[("<s>", "A")][0] == pytest.approx(0.6, rel=1e-5)
    assert 10 ** bigrams[("A", "B")][0] == pytest.approx(0.35, rel=1e-5)


texts = st.lists(st.lists(st.sampled_from("ABCDE"), max_size=6), min_size=1, max_size=12)


@given(sentences=texts, order=st.integers(1, 4), pruned=st.booleans())
def test_every_context_predicts_with_a_total_probability_of_one(tmp_path_factory, sentences, order, pruned):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text").write_text("".join(" ".join(s) + "\n" for s in sentences))
    prune = (0, 1) if pruned and order > 1 else (0,)
    write_arpa(estimate([folder / "text"], order, Options(prune=prune, fallback=(0.5, 1.0, 1.5))), folder / "lm.arpa")
    tables = read_arpa(folder / "lm.arpa")
    everything = [w for w, in tables[0] if w != "<s>"]
    for table in tables[:-1] or tables:
        for context in [(), *(c for c in table if c[-1] not in ("</s>", "<unk>"))]:
            if len(context) < order:
                assert sum(10 ** backed_off(tables, context, w) for w in everything) == pytest.approx(1, abs=1e-4)


def backed_off(tables, context, word):
    """log10 p(word | context) by the definition of back-off."""
    gram = (*context, word)
    if gram in tables[len(gram) - 1]:
        return tables[len(gram) - 1][gram][0]
    weight = tables[len(context) - 1].get(context, (0, 0.0))[1]
    return weight + backed_off(tables, context[1:], word)


@pytest.mark.parametrize(("order", "values", "says"), [
    (0, {}, "at least 1"), (2, {"prune": (0, 1, 2)}, "2 orders"), (3, {"prune": (2, 1)}, "must not fall"),
    (2, {"prune": (-1,)}, "negative"), (2, {"vocab_pad": 5, "interpolate_unigrams": False}, "--interpolate-unigrams"),
    (2, {"fallback": (1.5, 1.0, 1.5)}, r"\[0, j\]"),
])
def test_wrong_options_are_named(order, values, says):
    with pytest.raises(UsageError, match=says):
        estimate([ORACLES / "text/tiny.txt"], order, Options(**values))


def test_special_words_in_a_text_are_refused_or_skipped(tmp_path):
    (tmp_path / "text").write_text("A B\nA <s> B\n" * 3)
    with pytest.raises(InputError, match="line 2: <s> is a special word"):
        estimate([tmp_path / "text"], 2)
    model = estimate([tmp_path / "text"], 2, Options(skip_symbols=True, fallback=(0.5, 1.0, 1.5)))
    (tmp_path / "clean").write_text("A B\nA B\n" * 3)
    same = estimate([tmp_path / "clean"], 2, Options(fallback=(0.5, 1.0, 1.5)))
    assert [g.logprob.tolist() for g in model.orders] == [g.logprob.tolist() for g in same.orders]


@pytest.mark.parametrize("content", [b"", None, b"\x1f\x8bnot gzip"])
def test_a_text_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "text.gz" if content else tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HubertkitError, match=path.name):
        estimate([path], 2)


def test_several_texts_are_one_text(tmp_path):
    lines = (ORACLES / "text/small.txt").read_text().splitlines(keepends=True)
    (tmp_path / "a").write_text("".join(lines[:200]))
    (tmp_path / "b").write_text("".join(lines[200:]))
    whole, parts = estimate([ORACLES / "text/small.txt"], 3), estimate([tmp_path / "a", tmp_path / "b"], 3)
    assert whole.words == parts.words
    assert all((a.logprob == b.logprob).all() for a, b in zip(whole.orders, parts.orders))
