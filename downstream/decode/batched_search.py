"""Prefix beam search (Hannun et al. 2014) of many utterances in step, over numpy or torch.

All hypotheses of all utterances lie one after another in a few arrays. A step takes them through a frame: each stays
where it is by a blank or a repeated letter, goes on to the letters that the lexicon has below it, or ends its word, and
the language model is asked, once for all hypotheses. What is too bad is dropped and what is equal is joined.

Scores are probabilities, not logarithms, relative to the best hypothesis of the utterance: sums are sums then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from downstream.decode.batched_backend import Array, Backend
from downstream.decode.batched_frames import Frames
from downstream.decode.lexicon_trie import ROOT

_FACTOR = 6364136223846793005  # of the hashes of texts
_STEP_BITS = 49  # 8 steps an octave: 52 bits of the mantissa less 3


@dataclass(frozen=True, eq=False)
class Graph:
    """What the search goes through: lexicon, language model and weights, on the backend's device.

    Attributes:
        width: W, columns of the emissions.
        blank, space: two of them.
        children, edges, otherwise: int32, int64 (or None) and int32; label, word: (nodes,) int64; see `LexiconTrie`.
        ahead: (nodes,) exp of the weighted score of the best word below a node.
        lm: scores words after states, as `NgramArrays`; None: no language model.
        lm_word: (words + 1,) int64, the language model's ids of the lexicon's words and of the unknown one.
        bonus: (words + 1,) what each word adds, in nats.
        lm_weight: of natural logarithms.
        begin: state at the beginning of a sentence.
        end: id of the end of a sentence.
        states: how many states the language model has.
        unspaced: whether the next word may begin where one ends, without a separator between them.
    """

    width: int
    blank: int
    space: int
    children: Array
    edges: Array | None
    otherwise: Array
    label: Array
    word: Array
    ahead: Array
    lm: Any
    lm_word: Array
    bonus: Array
    lm_weight: float
    begin: int
    end: int
    states: int
    unspaced: bool = False

    @property
    def boundary(self) -> int:
        """In place of the separator's column, of a word's end without one: a column that emissions do not have."""
        return self.width

    def after(self, places: Array, columns: Array, backend: Backend) -> Array:
        """The nodes at `places`, node * W + column, with these columns; -1 for none."""
        if self.edges is None:
            return self.children.take(places)
        found = backend.search(self.edges, places)
        return backend.where(self.edges.take(found) == places, self.children.take(found), self.otherwise.take(columns))

    def score(self, states: Array, words: Array, backend: Backend) -> tuple[Array, Array]:
        """Factors of the lexicon's words after states, weighted, and the states after them."""
        nats, after = self.nats(states, words)
        return backend.exp(nats), after

    def nats(self, states: Array, words: Array) -> tuple[Array, Array]:
        """As `score`, the logarithms of the factors, which are numbers where a factor is too small to be one."""
        bonus = self.bonus.take(words)
        if self.lm is None:
            return bonus, states
        logprobs, after = self.lm.score(states, self.lm_word.take(words))
        return self.lm_weight * logprobs + bonus, after

    def end_nats(self, states: Array, backend: Backend) -> Array:
        """Logarithms of the factors of the end of the sentence after states."""
        if self.lm is None:
            return states * 0
        logprobs, _ = self.lm.score(states, backend.full(len(states), self.end))
        return self.lm_weight * logprobs


class Beam(NamedTuple):
    """Hypotheses of all utterances, in any order.

    `text` is a hash of the utterance and the letters so far. `blank` and `letter` are probabilities of the alignments
    that end in a blank (or have no letter since the last separator), and in the last letter.
    """

    utterance: Array
    node: Array
    state: Array
    text: Array
    trace: Array
    blank: Array
    letter: Array

    def take(self, rows: Array) -> Beam:
        return Beam(*(values.take(rows) for values in self))


class Trace:
    """Who came from whom by which letter: a row for each time that a letter or a separator was added."""

    def __init__(self) -> None:
        self._rows = 0
        self._parts = [(np.zeros(0, np.int32), np.zeros(0, np.int16))]
        self._starts: list[int] = []

    def add(self, parents: Array, columns: Array, backend: Backend) -> Array:
        """Rows of a step; their numbers."""
        self._parts.append((backend.numpy(parents).astype(np.int32), backend.numpy(columns).astype(np.int16)))
        first = self._rows
        self._rows += len(parents)
        return first + backend.arange(len(parents))

    def next_step(self) -> None:
        """What is added from now on is of the next step."""
        self._starts.append(self._rows)

    def finished(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parent (-1: none), column and step of each row."""
        parents, columns = (np.concatenate(part) for part in zip(*self._parts))
        return parents, columns, np.searchsorted(self._starts, np.arange(len(parents)), side="right") - 1


@dataclass(frozen=True)
class Limits:
    """How much is kept: hypotheses of an utterance (to within those equal within .09 nats), and nats below the best."""

    beam: int
    threshold: float
    recombine: bool  # keep the best one of those that the language model and the lexicon cannot tell apart


@dataclass(frozen=True, eq=False)
class Found:
    """All that was left when the utterances ended, with numpy arrays; `scale` is (U,), in nats."""

    beam: Beam
    scale: np.ndarray
    trace: Trace


def appended(texts: Array, columns: Array) -> Array:
    """Hashes of texts with one letter or separator more."""
    return texts * _FACTOR + (columns + 1)


class _Frame(NamedTuple):
    """One frame of each of A utterances; see `Frames`. `first` is the place of its first one among all letters."""

    gap: Array
    space: Array
    stay_blank: Array
    stay_letter: Array
    counts: Array
    first: Array


class _Sources(NamedTuple):
    """What a letter may be added to: all hypotheses, and behind them those whose word is taken to end here.

    `last` is the column of the last letter, wherever the word begins; `width` before the first one.
    """

    beam: Beam
    last: Array


class _Extensions(NamedTuple):
    """Hypotheses that would have one letter more. Most are dropped, so only what ranks them is worked out.

    `parent` is the row of the source that each comes from, `column` its new letter.
    """

    parent: Array
    utterance: Array
    node: Array
    column: Array
    letter: Array


def search(graph: Graph, frames: Frames, limits: Limits, backend: Backend) -> Found:
    """Search all utterances of a batch. The end of the sentence is not scored yet."""
    left = len(frames.order)
    every = _Frame(*map(backend.array, (frames.gap, frames.space, frames.stay_blank, frames.stay_letter, frames.counts,
                                        np.cumsum(frames.counts) - frames.counts)))
    letters, probabilities = backend.array(frames.letters), backend.array(frames.probabilities)
    beam, scale = _beginning(graph, left, backend), backend.array(frames.skipped.copy())
    trace, ended, start = Trace(), [], 0
    for active in [*frames.active.tolist(), 0]:
        if active < left:
            ended.append(beam.take(backend.nonzero(beam.utterance >= active)))
            beam, left = beam.take(backend.nonzero(beam.utterance < active)), active
        if active:
            trace.next_step()
            frame = _Frame(*(values[start:start + active] for values in every))
            beam, best = _step(graph, beam, frame, letters, probabilities, limits, trace, backend)
            scale[:active] += backend.log(best)
            start += active
    return Found(Beam(*(np.concatenate([backend.numpy(part) for part in parts]) for parts in zip(*ended))),
                 backend.numpy(scale), trace)


def _beginning(graph: Graph, utterances: int, backend: Backend) -> Beam:
    ids, ones = backend.arange(utterances), backend.array(np.ones(utterances))
    return Beam(ids, backend.full(utterances, ROOT), backend.full(utterances, graph.begin), (ids + 1) * _FACTOR,
                backend.full(utterances, -1), ones, ones * 0)


def _step(graph: Graph, old: Beam, frame: _Frame, letters: Array, probabilities: Array, limits: Limits, trace: Trace,
          backend: Backend) -> tuple[Beam, Array]:
    """The hypotheses after one more frame, and how good the best one of each utterance was."""
    aside = old.letter * frame.gap.take(old.utterance)
    old = old._replace(blank=old.blank + aside, letter=old.letter - aside)  # after a gap, all end in a blank
    total = old.blank + old.letter
    stays = _stays(graph, old, total, frame)
    sources = _sources(graph, old, backend)
    longer = _extensions(graph, sources, frame, letters, probabilities, backend)
    enders, new = _word_ends(graph, old, total, frame, backend)
    ranks = [(stays.blank + stays.letter) * graph.ahead.take(stays.node), longer.letter * graph.ahead.take(longer.node),
             new.blank * graph.ahead.take(new.node)]
    kept, best = _kept(ranks, [stays.utterance, longer.utterance, new.utterance], len(frame.gap), limits, backend)
    longer = _Extensions(*(values.take(kept[1]) for values in longer))
    stays, enders, new = stays.take(kept[0]), enders.take(kept[2]), new.take(kept[2])
    parents = _parents(graph, sources, longer, len(old.node), trace, backend)
    added = trace.add(backend.concatenate([parents, old.trace.take(enders)]),
                      backend.concatenate([longer.column, backend.full(len(enders), graph.space)]), backend)
    extended = _extended(sources.beam, longer, added[:len(longer.node)])
    new = new._replace(trace=added[len(longer.node):])
    rank = backend.concatenate([rank.take(rows) for rank, rows in zip(ranks, kept)])
    beam = Beam(*(backend.concatenate(list(field)) for field in zip(stays, extended, new)))
    beam = _joined(graph, beam, rank, limits, backend)
    by = best.take(beam.utterance)
    return beam._replace(blank=beam.blank / by, letter=beam.letter / by), best


def _stays(graph: Graph, old: Beam, total: Array, frame: _Frame) -> Beam:
    letter = old.utterance * (graph.width + 1) + graph.label.take(old.node)
    blank = old.utterance * 2 + (old.node == ROOT)
    return old._replace(blank=total * frame.stay_blank.reshape(-1).take(blank),
                        letter=old.letter * frame.stay_letter.reshape(-1).take(letter))


def _sources(graph: Graph, old: Beam, backend: Backend) -> _Sources:
    """Where words need no separator, each hypothesis whose word may end stands there a second time, its word scored."""
    last = graph.label.take(old.node)
    if not graph.unspaced:
        return _Sources(old, last)
    rows = backend.nonzero(graph.word.take(old.node) >= 0)
    ended = old.take(rows)
    factors, state = graph.score(ended.state, graph.word.take(ended.node), backend)
    ended = ended._replace(node=backend.full(len(rows), ROOT), state=state, text=appended(ended.text, graph.boundary),
                           blank=ended.blank * factors, letter=ended.letter * factors)
    return _Sources(Beam(*(backend.concatenate(list(field)) for field in zip(old, ended))),
                    backend.concatenate([last, last.take(rows)]))


def _extensions(graph: Graph, sources: _Sources, frame: _Frame, letters: Array, probabilities: Array,
                backend: Backend) -> _Extensions:
    """Hypotheses with one letter more."""
    old = sources.beam
    counts = frame.counts.take(old.utterance)
    places = frame.first.take(old.utterance) - (counts.cumsum(0) - counts)
    parent = backend.repeat(backend.arange(len(counts)), counts)
    place = backend.repeat(places, counts) + backend.arange(len(parent))
    column = letters.take(place)
    node = graph.after(backend.repeat(old.node * graph.width, counts) + column, column, backend)
    there = backend.nonzero(node >= 0)
    parent, place, node, column = (values.take(there) for values in (parent, place, node, column))
    repeated = column == sources.last.take(parent)  # a repeated letter needs a blank before it
    before = backend.where(repeated, old.blank.take(parent), (old.blank + old.letter).take(parent))
    return _Extensions(parent, old.utterance.take(parent), backend.integers(node), column,
                       before * probabilities.take(place))


def _parents(graph: Graph, sources: _Sources, longer: _Extensions, hypotheses: int, trace: Trace,
             backend: Backend) -> Array:
    """Rows of the trace that new letters follow: where a word has ended without a separator, new ones that say so."""
    parents = sources.beam.trace.take(longer.parent)
    if graph.unspaced:
        ended = backend.nonzero(longer.parent >= hypotheses)
        parents[ended] = trace.add(parents.take(ended), backend.full(len(ended), graph.boundary), backend)
    return parents


def _extended(old: Beam, longer: _Extensions, trace: Array) -> Beam:
    """What is kept of them, as hypotheses."""
    return Beam(longer.utterance, longer.node, old.state.take(longer.parent),
                appended(old.text.take(longer.parent), longer.column), trace, longer.letter * 0, longer.letter)


def _word_ends(graph: Graph, old: Beam, total: Array, frame: _Frame, backend: Backend) -> tuple[Array, Beam]:
    """Hypotheses whose word has ended, and the rows of those that they come from."""
    separator = frame.space.take(old.utterance)
    enders = backend.nonzero((graph.word.take(old.node) >= 0) & (separator > 0))
    factors, state = graph.score(old.state.take(enders), graph.word.take(old.node.take(enders)), backend)
    blank = total.take(enders) * separator.take(enders) * factors
    return enders, Beam(old.utterance.take(enders), backend.full(len(enders), ROOT), state,
                        appended(old.text.take(enders), graph.space), enders, blank, blank * 0)


def _kept(ranks: list[Array], utterances: list[Array], active: int, limits: Limits,
          backend: Backend) -> tuple[list[Array], Array]:
    """Rows of each part that are good enough, and the best of each utterance."""
    best = backend.highest(backend.concatenate(utterances), backend.concatenate(ranks), active)
    least = best * float(np.exp(-limits.threshold))
    kept = [backend.nonzero((rank >= least.take(utterance)) & (rank > 0))
            for rank, utterance in zip(ranks, utterances)]
    owner = backend.concatenate([utterance.take(rows) for utterance, rows in zip(utterances, kept)])
    if not len(owner) or int(backend.count(owner, active).max()) <= limits.beam:
        return kept, best
    bins = int(limits.threshold / np.log(2) * 8) + 16  # of the distance from the best one, an eighth of an octave each
    top = backend.bits(best)
    distance = [(top.take(utterance.take(rows)) - backend.bits(rank.take(rows))) >> _STEP_BITS
                for rank, utterance, rows in zip(ranks, utterances, kept)]
    cells = backend.count(owner * bins + backend.concatenate(distance), active * bins).reshape(active, bins)
    fits = (cells.cumsum(1) <= limits.beam).sum(1)
    fits = backend.where(fits > 0, fits, fits + 1)
    return [rows.take(backend.nonzero(away < fits.take(utterance.take(rows))))
            for rows, away, utterance in zip(kept, distance, utterances)], best


def _joined(graph: Graph, beam: Beam, rank: Array, limits: Limits, backend: Backend) -> Beam:
    """One hypothesis of those that are equal: the best. It gets the alignments of the others with the same text."""
    key = beam.text
    if limits.recombine:
        key = (beam.utterance * graph.states + beam.state) * len(graph.label) + beam.node
    order = backend.order(key)
    ordered = key.take(order)
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return beam
    no = same[:1] & False
    member = order.take(backend.nonzero(backend.concatenate([no, same]) | backend.concatenate([same, no])))
    member = member.take(backend.order(-rank.take(member)))
    member = member.take(backend.order(key.take(member)))  # by key, the best one first
    group = key.take(member)
    leads = backend.concatenate([no | True, group[1:] != group[:-1]])
    lead = member.take(backend.nonzero(leads)).take(leads.cumsum(0) - 1)
    other = backend.nonzero((beam.text.take(member) == beam.text.take(lead)) & ~leads)
    gained = [backend.sums(lead.take(other), values.take(member.take(other)), len(rank))
              for values in (beam.blank, beam.letter)]
    dropped = backend.count(member.take(backend.nonzero(~leads)), len(rank))
    beam = beam._replace(blank=beam.blank + gained[0], letter=beam.letter + gained[1])
    return beam.take(backend.nonzero(dropped == 0))
