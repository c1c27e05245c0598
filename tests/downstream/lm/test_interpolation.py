"""Mixtures of two models: the weight against a grid search, the model through KenLM."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kneser_ney_definition import backed_off, tables_of

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.interpolation import Pair, em
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.loading import load_arpa
from downstream.lm.scoring import load_kenlm, perplexity
from upstream.errors import InputError

ORACLES = Path(__file__).parents[2] / "oracles/kenlm"
LINES = (ORACLES / "text/small.txt").read_text().splitlines()

probabilities = st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)), min_size=1, max_size=40)


@given(probabilities)
def test_em_finds_what_a_grid_search_finds(pairs):
    first, second = np.array(pairs).T
    grid = np.linspace(0, 1, 2001)
    likelihoods = np.log(grid[:, None] * first + (1 - grid[:, None]) * second).mean(1)
    weight = em(first, second)
    assert np.log(weight * first + (1 - weight) * second).mean() >= likelihoods.max() - 1e-6


def test_words_that_one_model_does_not_know_are_the_others():
    """Of 4 tokens A alone knows three: log likelihood 3 log w + log(1 - w), largest at 3/4."""
    assert em(np.array([0.1, 0.2, 0.3, 0.0]), np.array([0.0, 0.0, 0.0, 0.9])) == pytest.approx(0.75)


def test_worked_example(tmp_path):
    """A is of `A B`, `A C` (p(A | <s>) = .6, a(<s>) = .5, p(A) = p(B) = .2, p(</s>) = .3), B of `B`, D = 1/2, 1, 3/2.

    B: unigrams B and </s> once each, gamma() = .5 over 3 words: p(B) = p(</s>) = 1/4 + 1/6 = 5/12, p(<unk>) = 1/6;
    p(B | <s>) = .5 + .5 * 5/12 = 17/24. Mixed half and half: p(B) = (.2 + 5/12) / 2, p(A) = .1, p(A | <s>) = .3,
    p(B | <s>) = (.5 * .2 + 17/24) / 2, and a(<s>) = (1 - .3 - p(B | <s>)) / (1 - p(A) - p(B)).
    """
    for name, text in (("a", "A B\nA C\n"), ("b", "B\n")):
        (tmp_path / name).write_text(text)
    pair = Pair(*(estimate([tmp_path / name], 2, Options(fallback=FALLBACK)) for name in "ab"))
    assert pair.words == ["<unk>", "<s>", "</s>", "A", "B", "C"]
    assert pair.only == (2, 0)
    write_arpa(pair.mixed(0.5), tmp_path / "lm.arpa")
    unigrams, bigrams = read_arpa(tmp_path / "lm.arpa")
    after = (0.1 + 17 / 24) / 2
    assert 10 ** bigrams[("<s>", "A")][0] == pytest.approx(0.3, rel=1e-5)
    assert 10 ** bigrams[("<s>", "B")][0] == pytest.approx(after, rel=1e-5)
    assert 10 ** unigrams[("B",)][0] == pytest.approx((0.2 + 5 / 12) / 2, rel=1e-5)
    assert 10 ** unigrams[("C",)][0] == pytest.approx(0.1, rel=1e-5)
    weight = (0.7 - after) / (0.9 - (0.2 + 5 / 12) / 2)
    assert 10 ** unigrams[("<s>",)][1] == pytest.approx(weight, rel=1e-4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of the first 250 lines, order 3, and of the next 250, order 2; and lines of both that neither has seen."""
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in (("first", LINES[:240]), ("second", LINES[260:500])):
        (folder / name).write_text("".join(line + "\n" for line in lines))
    return (estimate([folder / "first"], 3, Options(fallback=FALLBACK)),
            estimate([folder / "second"], 2, Options(fallback=FALLBACK)), LINES[240:260] + LINES[500:])


def test_after_any_history_all_words_sum_to_one_through_kenlm(tmp_path, models):
    mixed = Pair(*models[:2]).mixed(0.3)
    write_arpa(mixed, tmp_path / "lm.arpa")
    reader, draw = load_kenlm(tmp_path / "lm.arpa"), random.Random(0)
    seen = [line.split() for line in LINES if len(line.split()) > 4]
    histories = [draw.choice(seen)[2:draw.randrange(3, 5)] for _ in range(20)]
    histories += [[draw.choice(mixed.words[3:]) for _ in range(draw.randrange(3))] for _ in range(15)]
    for history in histories:
        total = sum(10 ** list(reader.full_scores(" ".join([*history, w]), eos=False))[-1][0]
                    for w in mixed.words if w not in ("<s>", "</s>"))
        total += 10 ** list(reader.full_scores(" ".join(history)))[-1][0]
        assert total == pytest.approx(1, abs=2e-4)


def test_the_mixture_is_no_worse_than_the_better_of_the_two(tmp_path, models):
    """Of the same vocabulary, as other perplexities do not compare."""
    first, second, dev = models
    shared = frozenset(first.words) & frozenset(second.words)
    found = []
    for number, order in ((0, 3), (260, 3)):
        text = tmp_path / f"{number}"
        text.write_text("".join(line + "\n" for line in LINES[number:number + 240]))
        found.append(estimate([text], order, Options(fallback=FALLBACK, vocab=shared)))
    pair = Pair(*found)
    assert pair.only == (0, 0)
    tuned = pair.tune(dev)
    assert 0 < tuned.weight < 1
    assert tuned.unknown[0] == tuned.unknown[1] == tuned.unknown[2] > 0
    through_kenlm = []
    for name, model in (("first", found[0]), ("second", found[1]), ("mixed", pair.mixed(tuned.weight))):
        write_arpa(model, tmp_path / f"{name}.arpa")
        through_kenlm.append(perplexity(tmp_path / f"{name}.arpa", dev).without_unknown)
    assert tuned.perplexities[:2] == pytest.approx(through_kenlm[:2], rel=1e-4)
    assert tuned.perplexities[2] <= min(through_kenlm[:2])
    assert through_kenlm[2] <= min(through_kenlm[:2])
    assert through_kenlm[2] == pytest.approx(tuned.perplexities[2], rel=0.02)  # an approximation, but a good one


def test_the_larger_vocabulary_and_what_each_model_lacks_are_told(models):
    first, second, dev = models
    pair = Pair(first, second)
    tuned = pair.tune(dev)
    assert pair.only == (len(set(first.words) - set(second.words)), len(set(second.words) - set(first.words)))
    assert len(pair.words) == len(set(first.words) | set(second.words))
    words = [word for line in dev for word in line.split()]
    assert tuned.tokens == len(words) + len(dev)
    assert tuned.unknown == tuple(sum(word not in known for word in words)
                                  for known in (first.words, second.words, pair.words))


def test_words_that_neither_model_knows_have_no_say_in_the_weight(models):
    pair = Pair(*models[:2])
    one, many = (pair.tune([*models[2], more]).weight for more in ("XXX", "XXX" + 500 * " YYY"))
    assert one == many


texts = st.lists(st.lists(st.sampled_from("ABCD"), max_size=5), min_size=1, max_size=8)
others = st.lists(st.lists(st.sampled_from("CDEF"), max_size=5), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(one=texts, two=others, orders=st.tuples(st.integers(1, 4), st.integers(1, 4)), weight=st.floats(0.05, 0.95))
def test_a_mixture_has_the_mixed_probabilities_of_all_ngrams_and_is_normalised(tmp_path_factory, one, two, orders,
                                                                               weight):
    folder = tmp_path_factory.mktemp("lm")
    tables, models = [], []
    for text, order in zip((one, two), orders):
        tables.append(tables_of(folder, text, order, Options(fallback=FALLBACK)))
        models.append(load_arpa(folder / "lm.arpa"))
    write_arpa(Pair(*models).mixed(weight), folder / "mixed.arpa")
    mixed = read_arpa(folder / "mixed.arpa")
    for k, table in enumerate(mixed):
        assert set(table) == {gram for side in tables if k < len(side) for gram in side[k]}
        for (*h, word), (logprob, _) in table.items():
            if word != "<s>":
                expected = sum(share * known_probability(side, tuple(h), word)
                               for share, side in zip((weight, 1 - weight), tables))
                assert 10 ** logprob == pytest.approx(expected, rel=1e-4)
    everything = [w for w, in mixed[0] if w != "<s>"]
    for context in [(), *(gram for table in mixed[:-1] for gram in table if gram[-1] not in ("</s>", "<unk>"))]:
        assert sum(10 ** backed_off(mixed, context, w) for w in everything) == pytest.approx(1, abs=1e-4)


def known_probability(tables, context, word):
    """By the definition; nothing for a word that the model does not know, and no memory of such words."""
    if (word,) not in tables[0]:
        return 0.0
    context = context[max(0, len(context) - len(tables) + 1):]
    while any((w,) not in tables[0] for w in context):
        context = context[1:]
    return 10 ** backed_off(tables, context, word)


def test_no_text_to_tune_on_is_said(models):
    with pytest.raises(InputError, match="no sentence"):
        Pair(*models[:2]).tune([])
