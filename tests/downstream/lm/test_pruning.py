"""Pruning against Stolcke's formula written out, and what it leaves, through KenLM."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kneser_ney_definition import backed_off, tables_of

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.loading import load_arpa
from downstream.lm.pruning import (
    _growth,
    _kept,
    arpa_bytes,
    frequencies_of,
    losses,
    prune_to_bytes,
    prune_to_loss,
    prune_to_ngrams,
)
from downstream.lm.scoring import load_kenlm, perplexity
from downstream.lm.tree import tree_of
from upstream.errors import UsageError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
TEXT = ORACLES / "text/small.txt"


@pytest.fixture(scope="module")
def model():
    return load_arpa(ORACLES / "arpa/small.o4.arpa.gz")


def words_of(model) -> list[list[tuple[str, ...]]]:
    """The n-grams of each order as words, in the order of the rows."""
    found = [[(word,) for word in model.words]]
    for grams in model.orders[1:]:
        found.append([(*found[-1][p], model.words[w]) for p, w in zip(grams.prefix.tolist(), grams.word.tolist())])
    return found


def test_worked_example(tmp_path):
    """`A B`, `A C` again: p(B | A) = p(C | A) = .35, a(A) = .5, p(A) = p(B) = p(C) = .2. Let a third of words be A.

    Without (A, B): a'(A) = (.3 + .35) / (.6 + .2) = .8125, so p'(B | A) = .1625, and the loss is
    -1/3 * (.35 * log(.1625 / .35) + .3 * log(.8125 / .5)) = .0410.
    """
    (tmp_path / "text").write_text("A B\nA C\n")
    model = estimate([tmp_path / "text"], 2, Options(fallback=FALLBACK))
    tree = tree_of(model)
    found = dict(zip(words_of(model)[1], losses(tree, np.full(6, 1 / 3))[tree.orders[1]]))
    assert found[("A", "B")] == pytest.approx(found[("A", "C")]) == pytest.approx(0.04096, abs=1e-5)
    write_arpa(prune_to_ngrams(model, 9), tmp_path / "lm.arpa")  # 6 unigrams, and of 5 bigrams the best 3 or fewer
    unigrams, bigrams = read_arpa(tmp_path / "lm.arpa")
    assert ("<s>", "A") in bigrams
    assert ("A", "B") not in bigrams
    assert unigrams[("A",)] == pytest.approx((math.log10(0.2), 0.0), abs=1e-6)  # nothing is left to weigh
    assert unigrams[("<s>",)] == pytest.approx((0.0, math.log10(0.5)), abs=1e-6)  # (1 - .6) / (1 - .2)


texts = st.lists(st.lists(st.sampled_from("ABCD"), max_size=6), min_size=1, max_size=10)


@settings(deadline=None, max_examples=30)
@given(text=texts, order=st.integers(2, 4))
def test_losses_are_those_of_the_formula(tmp_path_factory, text, order):
    """The relative entropy summed over all words, the context's weight such that they sum to 1 again."""
    folder = tmp_path_factory.mktemp("lm")
    tables = tables_of(folder, text, order, Options(fallback=FALLBACK))
    model = load_arpa(folder / "lm.arpa")
    tree = tree_of(model)
    everything = [w for w, in tables[0] if w != "<s>"]

    def p(context, word):
        return 10 ** backed_off(tables, context, word)

    # the chain of single words, `<s>` after `</s>`, as a matrix: its vector of eigenvalue 1
    steps = np.array([[p(("<s>",) if v == "</s>" else (v,), w) for w in everything] for v in everything])
    values, vectors = np.linalg.eig(steps.T)
    rest = np.real(vectors[:, np.argmin(abs(values - 1))])
    frequency = dict(zip(everything, rest / rest.sum()))
    frequency["<s>"] = frequency["</s>"]
    assert frequencies_of(tree) == pytest.approx([frequency[w] for w in model.words], abs=1e-5)
    for grams, nodes in zip(words_of(model)[1:], tree.orders[1:]):
        for (*context, word), loss in zip(grams, losses(tree, frequencies_of(tree))[nodes].tolist()):
            h = tuple(context)
            kept = [w for w in everything if (*h, w) in tables[len(h)] and w != word]
            weight = (1 - sum(p(h, w) for w in kept)) / (1 - sum(p(h[1:], w) for w in kept))
            after = {w: p(h, w) if w in kept else weight * p(h[1:], w) for w in everything}
            entropy = sum(p(h, w) * math.log(p(h, w) / after[w]) for w in everything)
            seen = frequency[h[0]] * math.prod(p(h[:i], h[i]) for i in range(1, len(h)))
            assert loss == pytest.approx(seen * entropy, abs=1e-5)


@pytest.mark.parametrize("way", [lambda m: prune_to_loss(m, 1e-6), lambda m: prune_to_ngrams(m, 6000),
                                 lambda m: prune_to_bytes(m, 150_000)])
def test_after_any_history_all_words_sum_to_one_through_kenlm(tmp_path, model, way):
    pruned = way(model)
    write_arpa(pruned, tmp_path / "lm.arpa")
    reader = load_kenlm(tmp_path / "lm.arpa")
    grams = [gram for order in words_of(pruned)[1:] for gram in order]
    draw = random.Random(0)
    histories = [[draw.choice(model.words[3:]) for _ in range(draw.randrange(4))] for _ in range(10)]
    histories += [[w for w in draw.choice(grams)[:-1] if w != "<s>"] for _ in range(30)]
    for history in histories:
        total = sum(10 ** list(reader.full_scores(" ".join([*history, w]), eos=False))[-1][0]
                    for w in pruned.words if w not in ("<s>", "</s>"))
        total += 10 ** list(reader.full_scores(" ".join(history)))[-1][0]
        assert total == pytest.approx(1, abs=2e-4)


@settings(deadline=None, max_examples=30)
@given(text=texts, order=st.integers(2, 4), share=st.floats(0, 1))
def test_any_model_pruned_to_any_size_is_normalised_and_has_its_contexts(tmp_path_factory, text, order, share):
    folder = tmp_path_factory.mktemp("lm")
    tables = tables_of(folder, text, order, Options(fallback=FALLBACK))
    size = len(tables[0]) + int(share * sum(map(len, tables[1:])))
    write_arpa(prune_to_ngrams(load_arpa(folder / "lm.arpa"), size), folder / "pruned.arpa")
    pruned = read_arpa(folder / "pruned.arpa")
    assert sum(map(len, pruned)) <= size
    everything = [w for w, in pruned[0] if w != "<s>"]
    for k, table in enumerate(pruned):
        assert all(table[gram][0] == tables[k][gram][0] for gram in table)
        if k:
            assert all(gram[:-1] in pruned[k - 1] for gram in table)
    for context in [(), *(gram for table in pruned[:-1] for gram in table if gram[-1] != "</s>")]:
        assert sum(10 ** backed_off(pruned, context, w) for w in everything) == pytest.approx(1, abs=1e-4)


def test_a_smaller_model_has_ngrams_of_the_larger_and_the_least_losses_go(model):
    before: set = set()
    for size in (2000, 6000, 10_000, 10**9):
        pruned = prune_to_ngrams(model, size)
        grams = {gram for order in words_of(pruned) for gram in order}
        assert before <= grams
        assert len(grams) <= size
        before = grams
    assert len(before) == sum(map(len, model.orders))
    assert len({gram for order in words_of(prune_to_loss(model, 1e-5)) for gram in order}) < len(before) / 2


def test_what_matters_as_much_as_the_threshold_stays_and_no_less(model):
    growth = np.concatenate(_growth(model))
    for threshold in np.quantile(growth[np.isfinite(growth)], [0.3, 0.7]):
        pruned = prune_to_loss(model, threshold)
        assert sum(map(len, pruned.orders)) == (growth >= threshold).sum()


def test_nothing_changes_where_nothing_is_pruned(model):
    for old, new in zip(model.orders, prune_to_loss(model, 1e-300).orders, strict=True):
        assert (old.logprob == new.logprob).all()
        np.testing.assert_allclose(10 ** old.backoff, 10 ** new.backoff, atol=2e-4)


def test_at_the_same_size_perplexity_is_far_lower_than_of_any_ngrams(tmp_path):
    train, lines = tmp_path / "train", TEXT.read_text().splitlines()
    train.write_text("\n".join(lines[:400]) + "\n")
    whole = estimate([train], 3)
    draw = np.random.default_rng(0)
    some = [np.ones(len(whole.words), bool), *(draw.random(len(g)) < 0.3 for g in whole.orders[1:])]
    some[2] &= some[1][whole.orders[2].prefix]
    at_random = _kept(whole, some)
    by_loss = prune_to_ngrams(whole, sum(map(len, at_random.orders)))
    found = {}
    for name, model in (("random", at_random), ("loss", by_loss), ("whole", whole)):
        write_arpa(model, tmp_path / f"{name}.arpa")
        found[name] = perplexity(tmp_path / f"{name}.arpa", lines[400:]).without_unknown
    assert found["whole"] < found["loss"] < found["whole"] + 0.7 * (found["random"] - found["whole"])


@pytest.mark.parametrize("limit", [60_000, 200_000, 300_000])
def test_a_pruned_file_is_as_large_as_asked_for(tmp_path, model, limit):
    pruned = prune_to_bytes(model, limit)
    write_arpa(pruned, tmp_path / "lm.arpa")
    assert arpa_bytes(pruned) == (tmp_path / "lm.arpa").stat().st_size
    assert 0.98 * limit < arpa_bytes(pruned) <= limit


@pytest.mark.parametrize(("prune", "says"), [
    (lambda m: prune_to_loss(m, 0), "above 0"), (lambda m: prune_to_loss(m, float("nan")), "above 0"),
    (lambda m: prune_to_ngrams(m, 1000), "1675 words, which all stay"),
    (lambda m: prune_to_bytes(m, 1000), r"^0.001 megabytes \(--megabytes\): the words alone take 0.03"),
])
def test_sizes_that_cannot_be_are_refused(model, prune, says):
    with pytest.raises(UsageError, match=says):
        prune(model)


def ends_are_there(pruned) -> bool:
    """Whether of every n-gram the model holds the words after the first."""
    grams = words_of(pruned)
    return all(gram[1:] in shorter for longer, shorter in zip(grams[2:], map(set, grams[1:])) for gram in longer)


@settings(deadline=None, max_examples=25)
@given(text=texts, order=st.integers(2, 4))
def test_kenlm_loads_a_small_model_pruned_to_any_size(tmp_path_factory, text, order):
    """It puts a blank where the end of an n-gram is missing, and a small model has no room for many."""
    folder = tmp_path_factory.mktemp("lm")
    tables_of(folder, text, order, Options(fallback=FALLBACK))
    model = load_arpa(folder / "lm.arpa")
    before = 0
    for size in range(len(model.words), sum(map(len, model.orders)) + 1):
        pruned = prune_to_ngrams(model, size)
        found = sum(map(len, pruned.orders))
        if found == before or len(pruned.orders) == 1:  # the same model as before, or one that KenLM cannot read
            continue
        before = found
        assert ends_are_there(pruned)
        write_arpa(pruned, folder / f"{size}.arpa")
        load_kenlm(folder / f"{size}.arpa")


def test_commands_of_few_words_are_loaded_at_any_size(tmp_path):
    """Bug: of such a model 42 bigrams and 23 trigrams stayed, and KenLM had no room for the bigrams left out."""
    draw = random.Random(0)
    parts = [["PLEASE", "NOW", "THEN"], ["DIM", "RAISE", "CLOSE", "OPEN"], ["THE", "ALL", "MY"],
             ["LIGHT", "LAMP", "DOOR", "SHADE"], ["AT", "BY"], ["NOON", "NIGHT", "TEN"]]
    lines = [" ".join(draw.choice(part) for part in parts if draw.random() < 0.8) for _ in range(1000)]
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    model = estimate([tmp_path / "text"], 4, Options(fallback=FALLBACK))
    for size in range(len(model.words) + 1, 200):
        pruned = prune_to_ngrams(model, size)
        if len(pruned.orders) > 1:
            write_arpa(pruned, tmp_path / "lm.arpa")
            load_kenlm(tmp_path / "lm.arpa")
