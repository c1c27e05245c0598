"""The score that a node of the lexicon is ranked with, by hand."""

import itertools
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.decode.lexicon_trie import ROOT, build
from downstream.decode.look_ahead import best_below

CHARACTERS = ("", " ", "A", "B", "E")
SCORES = {"A": -3.0, "AB": -1.0, "BE": -6.0}


words = st.lists(st.text("ABE", min_size=1, max_size=6), min_size=1, max_size=25, unique=True)


@given(words)
def test_a_tree_holds_each_word_at_the_end_of_its_letters_and_the_span_of_those_below(found):
    trie = build(found, CHARACTERS)
    assert list(trie.words) == sorted(found)
    prefixes = {word[:n] for word in found for n in range(len(word) + 1)}
    assert trie.tree == len(trie.label) == len(prefixes)
    for prefix in prefixes:
        node = ROOT
        for letter in prefix:
            node = trie.children[node * trie.width + CHARACTERS.index(letter)]
        assert list(trie.words[trie.first[node]:trie.last[node]]) == [w for w in trie.words if w.startswith(prefix)]
        assert (trie.word[node] >= 0) == (prefix in found)
        assert trie.word[node] < 0 or trie.words[trie.word[node]] == prefix
        assert trie.label[node] == (CHARACTERS.index(prefix[-1]) if prefix else trie.width)
    assert (trie.children >= 0).sum() == trie.tree - 1


def test_a_long_word_takes_no_more_memory_than_its_letters():
    """All words were as wide as the longest: with one of a thousand letters a model did not fit."""
    short = ["".join(letters) for letters in itertools.product("ABE", repeat=6)]
    tracemalloc.start()
    trie = build([*short, "A" * 100_000], CHARACTERS)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert trie.tree == sum(3**n for n in range(7)) + 100_000 - 6


@pytest.mark.parametrize("open_vocabulary", [False, True])
def test_a_large_alphabet_takes_no_more_memory_than_its_words(open_vocabulary):
    """Each node had a place for each sign."""
    signs = [chr(0x4e00 + i) for i in range(4300)]
    words = [one + other for one, other in pairwise(signs)]
    tracemalloc.start()
    trie = build(words, ("", " ", *signs), open_vocabulary)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert len(trie.children) == len(trie.edges) == trie.tree
    assert (trie.edges[:-1] < trie.edges[1:]).all()


@pytest.mark.parametrize(("unknown", "expected"), [
    (-np.inf, {"": -1, "A": -1, "AB": -1, "B": -6, "BE": -6}),
    (-2.0, {"": -1, "A": -1, "AB": -1, "B": -2, "BE": -2, "E": -2, "ABB": -2}),
    (-0.5, {"": -0.5, "A": -0.5, "AB": -0.5, "B": -0.5, "BE": -0.5, "E": -0.5}),
])
def test_a_node_scores_as_the_best_word_that_it_can_become_the_unknown_one_included(unknown, expected):
    trie = build(SCORES, CHARACTERS, open_vocabulary=unknown > -np.inf)
    found = best_below(trie, np.array([SCORES[word] for word in trie.words]), unknown)
    for spelling, score in expected.items():
        node = ROOT
        for letter in spelling:
            node = trie.children[node * trie.width + CHARACTERS.index(letter)]
        assert found[node] == score
