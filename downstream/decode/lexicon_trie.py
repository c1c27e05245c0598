"""The words that a decoder may find as a tree of their letters, in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from upstream.errors import InputError

ROOT = 0
NOTHING = -1
_DENSE_COLUMNS = 512  # with more, a table of all columns of each node would take gigabytes


@dataclass(frozen=True, eq=False)
class LexiconTrie:
    """Nodes in the order of a depth-first walk, so that what lies below a node is one span of the sorted words.

    With an open vocabulary, `width` nodes follow, one for each column of the emissions: a spelling that no word begins
    with is at the node of its last letter, and every node but the root ends a word, the unknown one where no other.

    Attributes:
        words: sorted by their columns; the word of index `len(words)` is the unknown one.
        width: columns of the emissions.
        tree: number of nodes that the words have, the root included.
        children: (nodes * width,) int32, the node after a node and a column; -1 where there is none. Of a large
            alphabet (len(edges),) int32 instead, the nodes that the edges lead to.
        edges: None, or of a large alphabet int64, rising: `node * width + column` wherever a word goes on, and a last
            one that is none, nodes * width.
        otherwise: (width,) int32, the node after any node and a column where no word goes on: -1 or of an unknown word.
        label: (nodes,) int64, the column that leads to a node; `width` for the root.
        word: (nodes,) int64, index of the word that ends at a node; -1 where none does.
        first, last: (tree,) int64, the span of words below a node.
    """

    words: tuple[str, ...]
    width: int
    tree: int
    children: np.ndarray
    edges: np.ndarray | None
    otherwise: np.ndarray
    label: np.ndarray
    word: np.ndarray
    first: np.ndarray
    last: np.ndarray


def build(words: Iterable[str], characters: tuple[str, ...], open_vocabulary: bool = False) -> LexiconTrie:
    """The tree of words.

    Args:
        words: those with a character that no column has are left out; double ones count once.
        characters: of each column of the emissions, as `Alphabet.characters`; "" and " " spell nothing.
        open_vocabulary: whether any other spelling is a word as well, the unknown one.

    Raises:
        InputError: no word is left and the vocabulary is closed.
    """
    columns = {c: i for i, c in enumerate(characters) if c not in ("", " ")}
    spelt = sorted((tuple(columns[c] for c in word), word) for word in set(words)
                   if word and columns.keys() >= set(word))
    if not spelt and not open_vocabulary:
        raise InputError("none of the words can be spelled with the recogniser's symbols; lexicon and symbols must be "
                         "of the same case and language")
    width = len(characters)
    label, parent, word, first, last = _nodes([letters for letters, _ in spelt])
    tree, otherwise = len(label), np.full(width, NOTHING, np.int32)
    edges = parent[1:] * width + label[1:]
    label[ROOT] = width
    if open_vocabulary:
        letters = sorted(columns.values())
        otherwise[letters] = tree + np.array(letters, np.int32)
        label = np.concatenate([label, np.arange(width)])
        word = np.concatenate([np.where(word < 0, len(spelt), word), np.full(width, len(spelt))])
        word[ROOT] = NOTHING
    return LexiconTrie(tuple(word for _, word in spelt), width, tree, *_children(edges, otherwise, len(label)),
                       otherwise, label, word, first, last)


def _children(edges: np.ndarray, otherwise: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """`children` and `edges` of a tree; `edges`: those that lead to the nodes 1, 2, ..."""
    below, width = np.arange(1, len(edges) + 1, dtype=np.int32), len(otherwise)
    if width <= _DENSE_COLUMNS:
        children = np.tile(otherwise, nodes)
        children[edges] = below
        return children, None
    order = np.argsort(edges)
    return np.append(below[order], np.int32(NOTHING)), np.append(edges[order], nodes * width)


def _nodes(spelt: list[tuple[int, ...]]) -> tuple[np.ndarray, ...]:
    """Label, parent, word, first and last word of each node, of sorted spellings without repetition.

    All in the letters of all words one after another: a table as wide as the longest word would be of no use to others.
    """
    lengths = np.fromiter(map(len, spelt), np.int64, len(spelt))
    letters = np.fromiter(chain.from_iterable(spelt), np.int64, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(spelt)), lengths)
    depth = np.arange(len(letters)) - starts[row]
    # A letter is a new node unless it and all before it equal those of the word above. The last one always is.
    above = np.where((row > 0) & (depth < lengths[row - 1]), starts[row - 1] + depth, NOTHING)
    same = (above >= 0) & (letters[above] == letters)
    differs = np.minimum.reduceat(np.where(same, len(letters), depth), starts) if len(spelt) else starts
    new = depth >= differs[row]
    label, row, depth = letters[new], row[new], depth[new]
    count = 1 + len(label)
    # The node before a new one is its parent, except where it begins to differ: then it is the last one as deep.
    node = np.arange(1, count)
    by_depth = np.lexsort((node, depth))
    keys = depth[by_depth] * count + node[by_depth]
    first_new = depth == differs[row]
    branch = first_new & (depth > 0)
    parent = np.where(first_new, ROOT, node - 1)
    parent[branch] = node[by_depth[np.searchsorted(keys, (depth[branch] - 1) * count + node[branch]) - 1]]
    word = np.full(count, NOTHING)
    word[np.cumsum(np.bincount(row, minlength=len(spelt)))] = np.arange(len(spelt))
    below = (word >= 0).astype(np.int64)
    ends = np.cumsum(np.bincount(depth)) if count > 1 else np.zeros(0, np.int64)
    for begin, end in reversed(list(zip([0, *ends[:-1]], ends))):  # the deepest first
        nodes = by_depth[begin:end]
        np.add.at(below, parent[nodes], below[node[nodes]])
    first = np.concatenate([[0], row])
    return np.concatenate([[0], label]), np.concatenate([[0], parent]), word, first, first + below
