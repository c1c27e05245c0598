"""Our arrays against KenLM, word for word, and against the definition where KenLM does not go (order 1)."""

import multiprocessing
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import kenlm
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kneser_ney_definition import backed_off

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.array_file import map_arrays, write_arrays
from downstream.lm.arrays import NgramArrays, pack, write_model
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.scoring import LN10, load_kenlm
from upstream.errors import FormatError, UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
NAMES = ["small.o2", "small.o3", "small.o4.prune01", "small.o5", "tiny.o4.fb", "small.o3.iu0", "small.o3.vocab",
         "main.o3.prune001"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Callable[[str], Path]:
    """ARPA files by name: lmplz's, and one of order 5 of ours."""
    longest = tmp_path_factory.mktemp("lm") / "small.o5.arpa"
    write_arpa(estimate([ORACLES / "text/small.txt"], 5, Options(fallback=FALLBACK)), longest)
    return lambda name: longest if name == "small.o5" else ORACLES / f"arpa/{name}.arpa.gz"


def packed(arpa: Path, folder: Path) -> NgramArrays:
    pack(arpa, folder / "lm.ngrams")
    return NgramArrays.load(folder / "lm.ngrams")


def scored(arrays: NgramArrays, sentences: list[list[str]]) -> list[list[float]]:
    """Natural logs of every word and the end, all sentences in step."""
    found: list[list[float]] = [[] for _ in sentences]
    states = torch.full((len(sentences),), arrays.begin)
    for position in range(max(map(len, sentences)) + 1):
        here = [i for i, words in enumerate(sentences) if position <= len(words)]
        words = torch.tensor([arrays.words.index((*sentences[i], "</s>")[position]) for i in here])
        logprobs, states[here] = arrays.score(states[here], words)
        for i, logprob in zip(here, logprobs.tolist()):
            found[i].append(logprob)
    return found


def by_kenlm(arpa: Path, sentences: list[list[str]]) -> list[list[float]]:
    model = load_kenlm(arpa)
    return [[s * LN10 for s, _, _ in model.full_scores(" ".join(words))] for words in sentences]


def assert_equal(ours: list[list[float]], theirs: list[list[float]]) -> None:
    for mine, others in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(others, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_kenlm(tmp_path, models, name):
    path = models(name)
    arrays = packed(path, tmp_path)
    text = [line.split() for line in (ORACLES / "text/heldout.txt").read_text().split("\n")]
    draw = random.Random(0)
    known = arrays.words.own
    text += [[draw.choice(known) for _ in range(draw.randrange(9))] for _ in range(100)]
    text += [[draw.choice([*draw.choice(text[:30]), "NOWORD", "<unk>"]) for _ in range(12)]
             for _ in range(100)]
    assert_equal(scored(arrays, text), by_kenlm(path, text))


sentences = st.lists(st.lists(st.sampled_from("ABCDE"), max_size=6), min_size=1, max_size=12)
asked = st.lists(st.lists(st.sampled_from("ABCDEX"), max_size=7), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(text=sentences, order=st.integers(1, 5), prune=st.lists(st.integers(0, 2), min_size=1, max_size=4).map(sorted),
       queries=asked, seed=st.integers(0, 2**32))
def test_scores_of_any_model_are_those_of_the_definition_and_of_kenlm(tmp_path_factory, text, order, prune, queries,
                                                                      seed):
    """Also of models in which suffixes of n-grams, or back-off weights, are missing, as entropy pruning leaves them."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text").write_text("".join(" ".join(s) + "\n" for s in text))
    write_arpa(estimate([folder / "text"], order, Options(tuple(prune[:order]), FALLBACK)), folder / "whole.arpa")
    tables = thinned(read_arpa(folder / "whole.arpa"), random.Random(seed))
    write_tables(tables, folder / "lm.arpa")
    arrays = packed(folder / "lm.arpa", folder)
    ours = scored(arrays, queries)
    for words, found in zip(queries, ours):
        spoken = ["<s>", *(w if (w,) in tables[0] else "<unk>" for w in words), "</s>"]
        expected = [LN10 * backed_off(tables, tuple(spoken[max(0, i - order + 1):i]), spoken[i])
                    for i in range(1, len(spoken))]
        assert found == pytest.approx(expected, abs=1e-5)
    if order > 1:
        assert_equal(ours, by_kenlm(folder / "lm.arpa", queries))


def thinned(tables, draw):
    """The same model less some n-grams that are no contexts, and with other back-off weights."""
    found = [dict(table) for table in tables]
    for k in range(len(found) - 1, 0, -1):
        contexts = {gram[:-1] for gram in found[k + 1]} if k + 1 < len(found) else set()
        found[k] = {g: (p, draw.choice([b, 0.0, -0.7]) if k + 1 < len(found) else 0.0)
                    for g, (p, b) in found[k].items() if g in contexts or draw.random() < 0.7}
    return found


def write_tables(tables, path):
    with open(path, "w") as file:
        file.write("\\data\\\n" + "".join(f"ngram {k}={len(t)}\n" for k, t in enumerate(tables, 1)))
        for k, table in enumerate(tables, 1):
            file.write(f"\n\\{k}-grams:\n")
            file.writelines(f"{p!r}\t{' '.join(gram)}{'' if k == len(tables) else f'{chr(9)}{b!r}'}\n"
                            for gram, (p, b) in table.items())
        file.write("\n\\end\\\n")


def test_worked_example(tmp_path):
    """`A B`, `A C`: p(A | <s>) = .6, p(B | A) = .35; A after B backs off: .5 * p(A) = .5 * .2; X is <unk>: .5 * .1."""
    (tmp_path / "text").write_text("A B\nA C\n")
    write_model(estimate([tmp_path / "text"], 2, Options(fallback=FALLBACK)), tmp_path / "lm.ngrams")
    arrays = NgramArrays.load(tmp_path / "lm.ngrams")
    assert (arrays.order, arrays.vocabulary_size, arrays.eos, arrays.empty) == (2, 6, 2, 0)
    a, b, unknown = (arrays.words.index(word) for word in ("A", "B", "X"))
    assert unknown == 0
    assert "A" in arrays.words
    assert "X" not in arrays.words
    assert len(arrays.words) == 6
    logprobs, states = arrays.score(torch.tensor([arrays.begin, arrays.empty]), torch.tensor([a, b]))
    assert logprobs.exp().tolist() == pytest.approx([0.6, 0.2], rel=1e-5)
    logprobs, states = arrays.score(torch.cat([states, states[1:]]), torch.tensor([b, a, unknown]))
    assert logprobs.exp().tolist() == pytest.approx([0.35, 0.1, 0.05], rel=1e-5)
    assert states[2] == arrays.empty
    assert (logprobs.dtype, states.dtype) == (torch.float32, torch.int64)
    assert arrays.unigrams[[a, b, 0]].exp().tolist() == pytest.approx([0.2, 0.2, 0.1], rel=1e-5)


@pytest.mark.parametrize("name", ["small.o3", "small.o4.prune01", "small.o5"])
def test_states_are_the_same_where_those_of_kenlm_are(tmp_path, models, name):
    """So hypotheses that no later word can tell apart are one."""
    path = models(name)
    arrays, model = packed(path, tmp_path), load_kenlm(path)
    pairs = set()
    for line in (ORACLES / "text/small.txt").read_text().splitlines()[:150]:
        state, theirs = arrays.begin, kenlm.State()
        model.BeginSentenceWrite(theirs)
        for word in line.replace("TIME", "NOWORD").split():
            after = kenlm.State()
            model.BaseScore(theirs, word, after)
            theirs = after
            state = int(arrays.score(torch.tensor([state]), torch.tensor([arrays.words.index(word)]))[1])
            pairs.add((state, theirs))
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs}) > 300


def test_numpy_arrays_are_scored_as_tensors_are(tmp_path):
    arrays = packed(ORACLES / "arpa/small.o3.arpa.gz", tmp_path)
    words = torch.arange(arrays.vocabulary_size)
    for state in (arrays.begin, arrays.empty):
        states = torch.full_like(words, state)
        tensors, others = arrays.score(states, words), arrays.score(states.numpy(), words.numpy())
        assert all(isinstance(values, np.ndarray) for values in others)
        assert [t.tolist() for t in tensors] == [o.tolist() for o in others]
        predicted = words != arrays.words.index("<s>")
        assert tensors[0][predicted].exp().sum() == pytest.approx(1, abs=1e-4)


def test_no_queries_give_no_scores(tmp_path):
    arrays = packed(ORACLES / "arpa/small.o3.arpa.gz", tmp_path)
    none = torch.empty(0, dtype=torch.int64)
    assert [len(values) for values in arrays.score(none, none)] == [0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(tmp_path):
    arrays = packed(ORACLES / "arpa/small.o4.prune01.arpa.gz", tmp_path)
    draw = torch.Generator().manual_seed(0)
    states, words = (torch.randint(0, high, (5000,), generator=draw) for high in (len(arrays.link), len(arrays.words)))
    for here, there in zip(arrays.score(states, words), arrays.to("cuda").score(states.cuda(), words.cuda())):
        torch.testing.assert_close(there.cpu(), here)


def after_one_word(arrays: NgramArrays) -> list[float]:
    logprobs, states = arrays.score(torch.tensor([arrays.begin] * 3), torch.tensor([3, 4, 5]))
    return [*logprobs.tolist(), *states.tolist()]


@pytest.mark.processes
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_other_processes_map_the_same_file(tmp_path, way):
    arrays = packed(ORACLES / "arpa/small.o3.arpa.gz", tmp_path)
    assert len(pickle.dumps(arrays)) < 500
    with multiprocessing.get_context(way).Pool(1) as pool:
        assert pool.apply(after_one_word, (arrays,)) == after_one_word(arrays)


def test_the_arrays_are_the_files_own_pages(tmp_path):
    arrays = packed(ORACLES / "arpa/small.o3.arpa.gz", tmp_path)
    address, mapped = arrays.keys.data_ptr(), []
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= address < last:
            mapped.append(line.split()[-1])
    assert mapped == [str(tmp_path / "lm.ngrams")]


def test_loading_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed(ORACLES / "arpa/small.o2.arpa.gz", tmp_path)


def test_a_file_is_written_again_only_where_the_arpa_changed(tmp_path):
    arpa, out = tmp_path / "lm.arpa.gz", tmp_path / "lm.ngrams"
    arpa.write_bytes((ORACLES / "arpa/small.o2.arpa.gz").read_bytes())
    out.write_text("something else")
    assert pack(arpa, out)
    first = out.read_bytes()
    assert not pack(arpa, out)
    arpa.write_bytes((ORACLES / "arpa/small.o3.arpa.gz").read_bytes())
    assert pack(arpa, out)
    assert NgramArrays.load(out).order == 3
    assert pack(ORACLES / "arpa/small.o2.arpa.gz", tmp_path / "again.ngrams")
    assert (tmp_path / "again.ngrams").read_bytes() == first


@pytest.mark.parametrize(("damage", "says"), [
    (lambda b: b[:-1], "cut short"), (lambda b: b[:30], "header is damaged"), (lambda b: b"", "no file of n-gram"),
    (lambda b: b"\\data\\\nngram 1=2\n", "hubertkit lm pack"), (lambda b: b + b"\0", "cut short"),
    (lambda b: b.replace(b'"version": 1', b'"version": 9', 1), "version 9 of the format, this program reads 1"),
])
def test_a_file_that_cannot_be_used_is_named(tmp_path, damage, says):
    pack(ORACLES / "arpa/tiny.o3.fb.arpa.gz", tmp_path / "lm.ngrams")
    (tmp_path / "lm.ngrams").write_bytes(damage((tmp_path / "lm.ngrams").read_bytes()))
    with pytest.raises(FormatError, match=says) as caught:
        NgramArrays.load(tmp_path / "lm.ngrams")
    assert "lm.ngrams" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_arrays_and_missing_files_are_refused(tmp_path):
    write_arrays(tmp_path / "x", {"kind": "weather"}, {"rain": np.arange(3), "sun": np.arange(5, dtype=np.float32)})
    about, arrays = map_arrays(tmp_path / "x")
    assert about == {"kind": "weather"}
    assert [arrays["rain"].tolist(), arrays["sun"].tolist()] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    with pytest.raises(FormatError, match="another kind"):
        NgramArrays.load(tmp_path / "x")
    for use in (NgramArrays.load, lambda path: pack(path, tmp_path / "y")):
        with pytest.raises(UsageError, match="none: no such file"):
            use(tmp_path / "none")


def test_a_context_whose_weight_is_one_keeps_its_longer_ngrams(tmp_path):
    """Its back-off in log10 is 0, as of every context in files that leave the column out."""
    tables = [{("<unk>",): (-1.0, 0.0), ("<s>",): (-99.0, -0.3), ("</s>",): (-0.7, 0.0), ("A",): (-0.5, 0.0),
               ("B",): (-0.6, -0.2)}, {("A", "B"): (-0.3, 0.0), ("B", "A"): (-0.4, 0.0)},
              {("A", "B", "A"): (-0.1, 0.0)}]
    write_tables(tables, tmp_path / "lm.arpa")
    queries = [["A", "B", "A"], ["B", "A", "B"]]
    assert_equal(scored(packed(tmp_path / "lm.arpa", tmp_path), queries), by_kenlm(tmp_path / "lm.arpa", queries))
