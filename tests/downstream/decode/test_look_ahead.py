"""The score that a node of the lexicon is ranked with, by hand."""

import numpy as np
import pytest

from downstream.decode.lexicon_trie import ROOT, build
from downstream.decode.look_ahead import best_below

CHARACTERS = ("", " ", "A", "B", "E")
SCORES = {"A": -3.0, "AB": -1.0, "BE": -6.0}


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
