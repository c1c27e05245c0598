"""What the best word below a node of the lexicon will score, so that pruning inside words is fair."""

from __future__ import annotations

import numpy as np

from downstream.decode.lexicon_trie import LexiconTrie


def best_below(trie: LexiconTrie, scores: np.ndarray, unknown: float = -np.inf) -> np.ndarray:
    """The highest score of all words that a node can become.

    Args:
        trie: of n words.
        scores: (n,) weighted scores of the words without a context, in nats.
        unknown: that of the unknown word, where the vocabulary is open: every node can become it.

    Returns:
        (nodes,) float64, the nodes of unknown spellings included.
    """
    found = np.full(len(trie.label), unknown)
    if len(scores):
        ends = np.stack([trie.first, trie.last], axis=1).reshape(-1)
        below = np.maximum.reduceat(np.append(scores, -np.inf), ends)[::2]  # spans are never empty
        found[:trie.tree] = np.maximum(below, unknown)
    return found
