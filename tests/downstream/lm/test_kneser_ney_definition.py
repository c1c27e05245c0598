"""Our estimator against the definition, written out with dictionaries, on small random texts."""

from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate

texts = st.lists(st.lists(st.sampled_from("ABCDE"), max_size=6), min_size=1, max_size=12)
prunings = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(sorted)
vocabularies = st.none() | st.frozensets(st.sampled_from("ABCDEF"))


def knows_a_word(vocab, sentences) -> bool:
    """Whether there is a model of a text and a vocabulary: it must hold a word of the text."""
    return vocab is None or any(word in vocab for sentence in sentences for word in sentence)


def tables_of(folder, sentences, order, options):
    (folder / "text").write_text("".join(" ".join(s) + "\n" for s in sentences))
    write_arpa(estimate([folder / "text"], order, options), folder / "lm.arpa")
    return read_arpa(folder / "lm.arpa")


@given(sentences=texts, order=st.integers(1, 4), prune=prunings, vocab=vocabularies, interpolated=st.booleans())
def test_every_context_predicts_with_a_total_probability_of_one(tmp_path_factory, sentences, order, prune, vocab,
                                                                interpolated):
    assume(knows_a_word(vocab, sentences))
    options = Options(tuple(prune[:order]), FALLBACK, interpolated, vocab)
    tables = tables_of(tmp_path_factory.mktemp("lm"), sentences, order, options)
    everything = [w for w, in tables[0] if w != "<s>"]
    for table in tables[:-1] or tables:
        for context in [(), *(c for c in table if c[-1] not in ("</s>", "<unk>"))]:
            if len(context) < order:
                total = sum(10 ** backed_off(tables, context, w) for w in everything)
                assert total == pytest.approx(1, abs=1e-5)


def backed_off(tables, context, word):
    """log10 p(word | context) by the definition of back-off."""
    gram = (*context, word)
    if gram in tables[len(gram) - 1]:
        return tables[len(gram) - 1][gram][0]
    weight = tables[len(context) - 1].get(context, (0, 0.0))[1]
    return weight + backed_off(tables, context[1:], word)


@given(sentences=texts, order=st.integers(1, 4), prune=prunings, vocab=vocabularies, interpolated=st.booleans(),
       pad=st.integers(0, 20))
def test_probabilities_are_those_of_the_definition(tmp_path_factory, sentences, order, prune, vocab, interpolated, pad):
    assume(knows_a_word(vocab, sentences))
    prune = prune[:order]
    options = Options(tuple(prune), FALLBACK, interpolated, vocab, pad if interpolated else 0)
    folder = tmp_path_factory.mktemp("lm")
    found = tables_of(folder, sentences, order, options)
    discounts = [s.discounts for s in estimate([folder / "text"], order, options).statistics]
    expected = defined(sentences, order, prune + prune[-1:] * order, discounts, options)
    assert [set(table) for table in found] == [set(table) for table in expected]
    for ours, theirs in zip(found, expected):
        for gram, (logprob, _) in ours.items():
            assert 10 ** logprob == pytest.approx(theirs[gram], rel=1e-5)


def defined(sentences, order, least, discounts, options):
    """{n-gram: probability} of each order from the formulas alone, with discounts that are given."""
    raw = Counter()
    for sentence in sentences:
        words = ["<s>", *sentence, "</s>"]
        raw.update(tuple(words[end - k:end]) for end in range(2, len(words) + 1) for k in range(1, min(order, end) + 1))
    left = defaultdict(set)
    for gram in raw:
        left[gram[1:]].add(gram[0])
    adjusted = {g: raw[g] if len(g) == order or g[0] == "<s>" else len(left[g]) for g in raw}
    following = defaultdict(list)
    for gram in adjusted:
        following[gram[:-1]].append(gram)
    allowed = options.vocab

    def kept(gram):
        if gram == ("</s>",):
            return True
        known = allowed is None or all(w in allowed or w in ("<s>", "</s>") for w in gram)
        return known and (not least[len(gram) - 1] or raw[gram] > least[len(gram) - 1])

    def discount(gram):
        return discounts[len(gram) - 1][min(adjusted[gram], 3) - 1]

    def gamma(context):
        grams = following[context]
        lost = sum(discount(g) if kept(g) else adjusted[g] for g in grams)
        return lost / sum(adjusted[g] for g in grams)

    size = max(1 + sum(len(g) == 1 and kept(g) for g in raw), options.vocab_pad)

    def p(gram):
        alone = (adjusted[gram] - discount(gram)) / sum(adjusted[g] for g in following[gram[:-1]])
        if len(gram) > 1:
            return (alone if kept(gram) else 0) + gamma(gram[:-1]) * p(gram[1:])
        return (alone if kept(gram) else 0) + (gamma(()) / size if options.interpolate_unigrams else 0)

    found = [{g: p(g) for g in raw if len(g) == k and kept(g)} for k in range(1, order + 1)]
    found[0][("<unk>",)] = gamma(()) / size if options.interpolate_unigrams else gamma(())
    found[0][("<s>",)] = 1.0
    return found
