"""Our estimator against lmplz: n-gram sets, log10 values, discounts, odd cases; and against the definition."""

import gzip
import json
import math
import shlex
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, check_order, estimate
from downstream.lm.on_disk import estimate_to_file
from downstream.text.normalise import normalise
from upstream.errors import HubertkitError, InputError, UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
MODELS = json.loads((ORACLES / "models.json").read_text())
HERE = {n: m for n, m in MODELS.items() if "lmplz_args" in m}
CASES = json.loads((ORACLES / "cases.json").read_text())


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
    values["skip_symbols"] = groups.pop("skip_symbols", None) is not None
    assert not groups, f"arguments not understood: {groups}"
    return order, Options(**values)


def corpus(name: str) -> Path:
    path = ORACLES / "text" / name
    return path if path.is_file() else path.with_name(name + ".gz")


def build(name: str):
    order, options = options_of(HERE[name]["lmplz_args"])
    return estimate([corpus(HERE[name]["corpus"])], order, options)


def largest_difference(ours, theirs) -> float:
    return max(abs(a - b) for mine, other in zip(ours, theirs) for k in mine for a, b in zip(mine[k], other[k]))


@pytest.mark.parametrize("name", [n for n, m in HERE.items() if m["exit"] == 0])
def test_a_model_equals_lmplz(name, tmp_path):
    model, reference = build(name), HERE[name]
    for found, expected in zip(model.statistics, reference["orders"], strict=True):
        assert (found.kept, found.total) == (expected["kept"], expected["total"])
        assert found.counts_of_counts == tuple(expected[f"n{j}"] for j in range(5))
        assert [np.float32(d) for d in found.discounts] == [np.float32(expected[d]) for d in ("D1", "D2", "D3plus")]
    assert len(model.words) == reference["orders"][0]["kept"]
    if (ORACLES / reference["file"]).is_file():  # the largest are left out of the repository
        write_arpa(model, tmp_path / "lm.arpa")
        ours, theirs = read_arpa(tmp_path / "lm.arpa"), read_arpa(ORACLES / reference["file"])
        assert [set(table) for table in ours] == [set(table) for table in theirs]
        assert largest_difference(ours, theirs) < 1e-6


@pytest.mark.parametrize("name", [n for n, m in HERE.items() if m["exit"] != 0])
def test_where_lmplz_stops_we_stop_and_say_what_to_do(name):
    with pytest.raises(InputError, match="--discount-fallback"):
        build(name)


def test_enough_models_are_compared():
    good = [m for m in HERE.values() if m["exit"] == 0]
    assert len(good) >= 30
    assert sum((ORACLES / m["file"]).is_file() for m in good) >= 28
    assert len(HERE) - len(good) >= 3


OF_SMALL = {
    "small.txt": lambda text: text,
    "small.txt without its last newline": lambda text: text.rstrip("\n"),
    "small.txt with CRLF ends": lambda text: text.replace("\n", "\r\n"),
    "small.txt with tab+2 spaces between words": lambda text: text.replace(" ", "\t  "),
    "small.txt plus three blank lines": lambda text: text + "\n\n\n",
    'small.txt plus the line "A B"': lambda text: text + "A B\n",
    'small.txt plus the line "A <s> B"': lambda text: text + "A <s> B\n",
}
# Options that our command line reads, or files that it looks for, have tests of their own in tests/tools.
WRONG_OPTIONS = {"prunedec": UsageError, "prunelong": UsageError, "order0": UsageError, "fbbad": UsageError,
                 "padno": UsageError, "order7": InputError}
ELSEWHERE = {"prunebad", "noorder", "fbmany", "nofile", "novocab"}
EMPTY = {"emptyfb"}  # lmplz writes a model of no words, of no use to anyone; we refuse


def case_file(case, folder: Path) -> Path:
    make = OF_SMALL.get(case["text"], lambda small: case["text"])
    path = folder / "case.txt"
    path.write_bytes(make((ORACLES / "text/small.txt").read_text()).encode())
    return path


@pytest.mark.parametrize("case", [c for c in CASES if c["exit"] == 0 and c["case"] not in EMPTY],
                         ids=lambda c: c["case"])
def test_odd_texts_give_the_models_of_lmplz(case, tmp_path):
    order, options = options_of(case["args"])
    model = estimate([case_file(case, tmp_path)], order, options)
    for found, expected in zip(model.statistics, case["statistics"], strict=True):
        assert found.kept == expected["ngrams"]
        assert found.discounts == pytest.approx([expected[d] for d in ("D1", "D2", "D3plus")], rel=1e-5)
    if "arpa" in case:
        write_arpa(model, tmp_path / "ours.arpa")
        (tmp_path / "theirs.arpa").write_text(case["arpa"])
        ours, theirs = read_arpa(tmp_path / "ours.arpa"), read_arpa(tmp_path / "theirs.arpa")
        assert [set(table) for table in ours] == [set(table) for table in theirs]
        assert largest_difference(ours, theirs) < 1e-6
    if "arpa_equals" in case:
        plain = build(case["arpa_equals"])
        assert all((a.logprob == b.logprob).all() for a, b in zip(model.orders, plain.orders, strict=True))


@pytest.mark.parametrize("case", [c for c in CASES if c["case"] in EMPTY or (c["exit"] and c["case"] not in ELSEWHERE)],
                         ids=lambda c: c["case"])
def test_what_lmplz_refuses_we_refuse(case, tmp_path):
    order, options = options_of(case["args"])
    with pytest.raises(WRONG_OPTIONS.get(case["case"], InputError)) as caught:
        estimate([case_file(case, tmp_path)], order, options)
    if case["text"] != "small.txt":
        assert "case.txt" in str(caught.value) or "--discount-fallback" in str(caught.value)


def test_worked_bigram_example(tmp_path):
    """Two sentences, `A B` and `A C`, order 2, discounts 1/2 for a count of 1, 1 for 2, 3/2 for more.

    Unigrams, adjusted: A 1 (after <s>), B 1, C 1, </s> 2 (after B, C): 5 in all. gamma() = (3 * 1/2 + 1) / 5 = .5,
    spread over 5 words (<unk> too): p(A) = (1 - .5) / 5 + .5 / 5 = .2, p(</s>) = (2 - 1) / 5 + .1 = .3, p(<unk>) = .1.
    Bigrams, raw: <s> A 2, A B 1, A C 1, B </s> 1, C </s> 1.
    p(A | <s>) = (2 - 1) / 2 + 1/2 * .2 = .6; p(B | A) = .5 / 2 + (2 * .5 / 2) * .2 = .35.
    """
    (tmp_path / "text").write_text("A B\nA C\n")
    write_arpa(estimate([tmp_path / "text"], 2, Options(fallback=FALLBACK)), tmp_path / "lm.arpa")
    unigrams, bigrams = read_arpa(tmp_path / "lm.arpa")
    expected = {"A": 0.2, "B": 0.2, "C": 0.2, "</s>": 0.3, "<unk>": 0.1}
    assert {w: 10 ** unigrams[(w,)][0] for w in expected} == pytest.approx(expected, rel=1e-5)
    assert unigrams[("<s>",)] == pytest.approx((0.0, math.log10(0.5)), abs=1e-6)
    assert 10 ** bigrams[("<s>", "A")][0] == pytest.approx(0.6, rel=1e-5)
    assert 10 ** bigrams[("A", "B")][0] == pytest.approx(0.35, rel=1e-5)


@pytest.mark.parametrize(("order", "values", "says"), [
    (0, {}, "at least 1"), (2, {"prune": (0, 1, 2)}, "2 orders"), (3, {"prune": (2, 1)}, "must not fall"),
    (2, {"prune": (-1,)}, "negative"), (2, {"vocab_pad": 5, "interpolate_unigrams": False}, "--interpolate-unigrams"),
    (2, {"fallback": (1.5, 1.0, 1.5)}, r"\[0, j\]"),
])
def test_wrong_options_are_named(order, values, says):
    with pytest.raises(UsageError, match=says):
        estimate([ORACLES / "text/tiny.txt"], order, Options(**values))


@pytest.mark.parametrize(("order", "longest", "fallback", "allowed"), [
    (4, 4, None, True), (5, 4, None, False), (10, 4, FALLBACK, True), (11, 4, FALLBACK, False),
    (12, 12, FALLBACK, True), (13, 12, FALLBACK, False), (12, 12, None, True)])
def test_orders_of_which_a_text_has_no_ngrams_are_refused_but_usual_ones_with_a_fallback(order, longest, fallback,
                                                                                        allowed):
    with nullcontext() if allowed else pytest.raises(InputError, match=f"the longest has {longest} words"):
        check_order(order, longest, Options(fallback=fallback))


def test_the_end_of_a_sentence_stays_however_rarely_it_comes(tmp_path):
    """Once, where words that come no more than twice go: nothing could be scored without it. D = 1/2 of 1 and 3/2 of
    3: p(</s>) = .5 / 4, p(A) = 1.5 / 4, and the half that is left goes to all three that can come, <unk> included."""
    (tmp_path / "text").write_text("A A A\n")
    model = estimate([tmp_path / "text"], 1, Options(prune=(2,), fallback=FALLBACK))
    assert model.words == ["<unk>", "<s>", "</s>", "A"]
    assert 10 ** model.orders[0].logprob == pytest.approx([1 / 6, 1, 1 / 8 + 1 / 6, 3 / 8 + 1 / 6])


def test_special_words_in_a_text_are_refused_or_skipped(tmp_path):
    (tmp_path / "text").write_text("A B\nA <s> B\n" * 3)
    with pytest.raises(InputError, match="line 2: <s> is a special word"):
        estimate([tmp_path / "text"], 2)
    model = estimate([tmp_path / "text"], 2, Options(skip_symbols=True, fallback=FALLBACK))
    (tmp_path / "clean").write_text("A B\nA B\n" * 3)
    same = estimate([tmp_path / "clean"], 2, Options(fallback=FALLBACK))
    assert [g.logprob.tolist() for g in model.orders] == [g.logprob.tolist() for g in same.orders]


@pytest.mark.parametrize(("name", "content", "says"), [
    ("none", None, "no such file"), ("empty", b"", "no text"), ("spaces", b"  ", "no text"),
    ("bad.gz", b"\x1f\x8bnot gzip", "whole gzip file"), ("plain.gz", b"A B\n", "whole gzip file"),
    ("latin1", "CAFÉ\n".encode("latin-1"), "not UTF-8"),
])
def test_a_text_that_cannot_be_used_is_named(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for way in (None, str.upper):
        with pytest.raises(HubertkitError, match=f"{name}: .*{says}"):
            estimate([tmp_path / name], 2, normalise=way)


def test_a_missing_text_is_named_before_the_others_are_read(tmp_path):
    (tmp_path / "a").write_text("A <s> B\n")
    with pytest.raises(UsageError, match="no such file"):
        estimate([tmp_path / "a", tmp_path / "b"], 2)


def test_gzipped_texts_are_known_by_their_first_bytes_too(tmp_path):
    (tmp_path / "small").write_bytes(gzip.compress((ORACLES / "text/small.txt").read_bytes()))
    assert estimate([tmp_path / "small"], 2).words == build("small.o2").words


def test_words_are_split_where_lmplz_splits_them(tmp_path):
    (tmp_path / "text").write_bytes(b"A\tB\0C\rD\x0cE F\xc2\xa0G\n")
    words = estimate([tmp_path / "text"], 1, Options(fallback=FALLBACK)).words
    assert words[3:] == ["A", "B", "C", "D\x0cE", "F\u00a0G"]


def test_normalising_is_as_if_the_text_had_been_normalised_before(tmp_path):
    (tmp_path / "raw").write_text("the cat; the Café.\n\nA cat!\n")
    (tmp_path / "clean").write_text("THE CAT THE CAFE\n\nA CAT\n")
    raw = estimate([tmp_path / "raw"], 2, Options(fallback=FALLBACK), normalise=normalise)
    clean = estimate([tmp_path / "clean"], 2, Options(fallback=FALLBACK))
    assert raw.words == clean.words
    assert all((a.logprob == b.logprob).all() for a, b in zip(raw.orders, clean.orders))


def test_a_probability_of_zero_is_minus_99(tmp_path):
    """No word has a count of 4, so D3+ = 3, which leaves G nothing where unigrams are not interpolated."""
    (tmp_path / "text").write_text("A B C D E E F F G G G\n")
    model = estimate([tmp_path / "text"], 1, Options(interpolate_unigrams=False))
    assert model.statistics[0].discounts[2] == 3
    assert model.orders[0].logprob[model.words.index("G")] == -99


def test_progress_rises_to_the_end():
    told: list[tuple[float, float]] = []
    estimate([corpus("main.txt")], 3, progress=lambda done, total: told.append((done, total)))
    done = [d for d, _ in told]
    assert done == sorted(done)
    assert told[-1] == (4, 4)


def test_several_texts_are_one_text(tmp_path):
    lines = (ORACLES / "text/small.txt").read_text().splitlines(keepends=True)
    (tmp_path / "a").write_text("".join(lines[:200]))
    (tmp_path / "b").write_text("".join(lines[200:]))
    whole, parts = estimate([ORACLES / "text/small.txt"], 3), estimate([tmp_path / "a", tmp_path / "b"], 3)
    assert whole.words == parts.words
    assert all((a.logprob == b.logprob).all() for a, b in zip(whole.orders, parts.orders))


@pytest.mark.parametrize("change", [None, normalise])
def test_unk_in_capitals_in_a_text_is_refused_as_unk_is(tmp_path, change):
    """lmplz takes it for a word; KenLM reads a model of it as one whose unknown word comes twice, we as it is."""
    (tmp_path / "text").write_text("a b\na <UNK> b\n" * 3)
    with pytest.raises(InputError, match="line 2: <UNK> is a special word"):
        estimate([tmp_path / "text"], 2, normalise=change)
    model = estimate([tmp_path / "text"], 2, Options(skip_symbols=True, fallback=FALLBACK), normalise=change)
    assert [word.lower() for word in model.words[3:]] == ["a", "b"]


def test_special_words_are_looked_for_before_the_text_is_normalised(tmp_path):
    """They became the words S and UNK."""
    (tmp_path / "text").write_text("a b\na <s> b </s> <unk>\n" * 3)
    with pytest.raises(InputError, match="line 2: <s> is a special word"):
        estimate([tmp_path / "text"], 2, normalise=normalise)
    model = estimate([tmp_path / "text"], 2, Options(skip_symbols=True, fallback=FALLBACK), normalise=normalise)
    assert model.words[3:] == ["A", "B"]


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfA B\nA B\n")
    assert estimate([tmp_path / "text"], 2, Options(fallback=FALLBACK)).words[3:] == ["A", "B"]


def test_a_vocabulary_without_any_word_of_the_text_is_refused(tmp_path):
    (tmp_path / "text").write_text("A B\nA C\n")
    options = Options(fallback=FALLBACK, vocab=frozenset({"a", "b"}))
    says = r"none of the 3 words of the text \('A', \.\.\.\) is among the 2 of the vocabulary \('a', \.\.\.\)"
    with pytest.raises(InputError, match=says):
        estimate([tmp_path / "text"], 2, options)
    with pytest.raises(InputError, match=says):
        estimate_to_file([tmp_path / "text"], 2, tmp_path / "lm.arpa", 0, options=options, say=lambda line: None)
    assert not (tmp_path / "lm.arpa").exists()
