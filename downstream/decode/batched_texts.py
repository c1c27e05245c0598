"""From the hypotheses that a batched search leaves to texts with scores and word times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from downstream.decode.batched_backend import Backend
from downstream.decode.batched_frames import Frames
from downstream.decode.batched_search import Found, Graph, appended
from downstream.decode.hypothesis import Word
from downstream.decode.lexicon_trie import ROOT


class Spelling(NamedTuple):
    """A text letter by letter.

    `score` is that of the search, in nats. `columns` and `frames` are of its letters and separators, where they are
    first emitted; where a word ends without a separator stands the column W, with the frame of the letter behind it.
    `unfinished`: the search ended inside a word, whose piece is left out of them; the score is that of what was
    searched, the piece included.
    """

    score: float
    columns: tuple[int, ...]
    frames: tuple[int, ...]
    unfinished: bool = False


def spellings(found: Found, frames: Frames, graph: Graph, nbest: int, backend: Backend) -> list[list[Spelling]]:
    """The best texts of each utterance, the best first, in the order of the frames' utterances. Of those that differ
    in the ends of words alone the best is kept.

    Hypotheses that end inside a word are left out; where an utterance has no other, they lose the piece, and of those
    that are then equal the best is kept, as flashlight's are in `LexiconDecoder`.
    """
    beam = found.beam
    scores, whole = _ended(found, graph, backend)
    texts = np.where(beam.node == ROOT, beam.text, appended(beam.text, graph.space))
    by_utterance = np.argsort(beam.utterance, kind="stable")
    bounds = np.searchsorted(beam.utterance[by_utterance], np.arange(len(frames.order) + 1))
    parents, columns, steps = found.trace.finished()
    chosen = []
    for place, frame in enumerate(frames.frame):
        rows = by_utterance[bounds[place]:bounds[place + 1]]
        complete = rows[whole[rows]]
        best = _best(complete if len(complete) else rows, scores, texts, nbest)
        texts_found: dict[tuple[int, ...], Spelling] = {}
        for score, row in best:
            one = _spelling(score, int(beam.trace[row]), bool(whole[row]), graph, (parents, columns, steps), frame)
            texts_found.setdefault(tuple(c for c in one.columns if c != graph.boundary), one)
        chosen.append(list(texts_found.values()))
    return chosen


def words_of(spelling: Spelling, characters: Sequence[str], rows: np.ndarray, rate: float) -> tuple[Word, ...]:
    """Words and their times: from the first letter's frame to the end of the last one's, repetitions included.

    Args:
        characters: of each column, and "" of the one behind them, which ends a word without a separator.
        rows: (T, W) natural-log probabilities.
        rate: frames a second.
    """
    words: list[Word] = []
    likeliest = rows.argmax(axis=1).tolist()
    word, start, end = "", 0, 0
    for place, (column, frame) in enumerate(zip(spelling.columns, spelling.frames)):
        if not characters[column].strip():
            words.append(Word(word, start / rate, end / rate))
            word = ""
            continue
        start = start if word else frame
        word, end = word + characters[column], frame + 1
        until = spelling.frames[place + 1] if place + 1 < len(spelling.frames) else len(rows)
        while end < until and likeliest[end] == column:
            end += 1
    return (*words, Word(word, start / rate, end / rate)) if word else tuple(words)


def model_scores(texts: Sequence[Sequence[str]], graph: Graph, index: Callable[[str], int],
                 backend: Backend) -> list[float]:
    """Natural-log probabilities of whole sentences, unweighted; `index` gives the language model's id of a word."""
    totals = np.zeros(len(texts))
    if graph.lm is None:
        return totals.tolist()
    ids = [[*map(index, words), graph.end] for words in texts]
    states = np.full(len(texts), graph.begin)
    for position in range(max(map(len, ids), default=0)):
        here = np.array([i for i, words in enumerate(ids) if position < len(words)])
        asked = np.array([ids[i][position] for i in here])
        logprobs, after = graph.lm.score(backend.array(states[here]), backend.array(asked))
        totals[here] += backend.numpy(logprobs)
        states[here] = backend.numpy(after)
    return totals.tolist()


def _ended(found: Found, graph: Graph, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    """Scores with the last word and the end of the sentence, in nats, and whether hypotheses end where a text may."""
    beam = found.beam
    label = backend.numpy(graph.word)[beam.node]
    inside = np.flatnonzero(label >= 0)
    with np.errstate(divide="ignore"):
        scores, states = np.log(beam.blank + beam.letter) + found.scale[beam.utterance], beam.state.copy()
    if len(inside):
        nats, after = graph.nats(backend.array(states[inside]), backend.array(label[inside]))
        scores[inside] += backend.numpy(nats)
        states[inside] = backend.numpy(after)
    scores += backend.numpy(graph.end_nats(backend.array(states), backend))
    return scores, (label >= 0) | (beam.node == ROOT)


def _best(rows: np.ndarray, scores: np.ndarray, texts: np.ndarray, nbest: int) -> list[tuple[float, int]]:
    """Scores of different texts, the best first, and a row of each: that of the best hypothesis."""
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    if not np.isfinite(scores[rows[0]]):
        return [(float(scores[rows[0]]), int(rows[0]))]
    rows = rows[np.isfinite(scores[rows])]
    _, firsts, group = np.unique(texts[rows], return_index=True, return_inverse=True)
    best = scores[rows[firsts]]  # of each text: the rows are in order
    sums = best + np.log(np.bincount(group, np.exp(scores[rows] - best[group])))
    order = np.lexsort((firsts, -sums))[:nbest]
    return [(float(sums[i]), int(rows[firsts[i]])) for i in order]


def _spelling(score: float, row: int, whole: bool, graph: Graph, trace: tuple[np.ndarray, np.ndarray, np.ndarray],
              frames: np.ndarray) -> Spelling:
    parents, columns, steps = trace
    path: list[int] = []
    while row >= 0:
        path.append(row)
        row = int(parents[row])
    letters = columns[path[::-1]].tolist()
    if not whole:  # inside a word that cannot end here: back to where the last one ended
        letters = letters[:max((i + 1 for i, c in enumerate(letters) if c in (graph.space, graph.boundary)), default=0)]
    return Spelling(score, tuple(letters), tuple(frames[steps[path[::-1]]][:len(letters)].tolist()), not whole)
