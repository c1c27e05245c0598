"""ABX: are two tokens of a phone nearer to each other than to a token of another phone in the same context?

    within    A, B and X of one speaker
    across    A and B of one speaker, X of another

A and X are tokens of one phone, B of another, all between the same neighbours. An error is d(A, X) > d(B, X), a tie
half of one. d is the cost of the best alignment of the two tokens (dynamic time warping) with the angle between frames,
arccos(cos) / pi, over the length of its path. Errors are averaged over the triplets of A, B and X in a context, then
over contexts, then over speakers (pairs of them across), then over ordered pairs of phones, as ZeroSpeech and
Libri-light do (Schatz et al. 2013; Kahn et al. 2020).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from upstream.errors import UsageError
from upstream.frames import CONV_GRID, FrameGrid
from upstream.keyed import keyed
from upstream.teacher.alignments import SILENCE, AlignmentFile, phone_class, read_alignment

_GAP_SECONDS = 1e-3  # between phones that count as neighbours
_NO_PHONES = (SILENCE, "spn", "SPN")
_CELLS = 1 << 22  # of alignment tables that exist at a time
CONTEXT_TOKENS = 1_000  # half a million alignments: most contexts of an hour have a hundredth

Context = tuple[str, str]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Span:
    """Where a phone lies: frames [first, last) of an utterance, between two other phones."""

    utterance: str
    speaker: str
    phone: str
    context: Context
    first: int
    last: int


@dataclass(frozen=True)
class Token:
    """A phone as frames (n, D) float32, n >= 1."""

    speaker: str
    phone: str
    context: Context
    frames: np.ndarray


@dataclass(frozen=True)
class Abx:
    """Errors in percent, 50 by guessing; None where no triplet could be made.

    Attributes:
        within_triplets, across_triplets: how many were judged.
    """

    within: float | None
    across: float | None
    within_triplets: int
    across_triplets: int


def find_spans(alignments: Mapping[str, AlignmentFile], lengths: Mapping[str, int], speakers: Mapping[str, str],
               most: int = 5, seed: int = 0, grid: FrameGrid = CONV_GRID) -> list[Span]:
    """Tokens that take part in a triplet, in the order of the utterances.

    Args:
        alignments: {utterance id: file}.
        lengths: {utterance id: samples at 16 kHz} of the utterances to look at.
        speakers: of those utterances.
        most: tokens of a phone in a context by a speaker; which ones is drawn.

    Returns:
        Phones whose neighbours on both sides are phones as well, with at least one frame (whose centre lies in them),
        in contexts that hold two different phones.
    """
    groups: dict[tuple[Context, str, str], list[Span]] = defaultdict(list)
    for utterance_id, samples in lengths.items():
        for span in _spans(utterance_id, speakers[utterance_id], alignments[utterance_id], grid.frames(samples), grid):
            groups[span.context, span.speaker, span.phone].append(span)
    phones: dict[Context, set[str]] = defaultdict(set)
    for context, _, phone in groups:
        phones[context].add(phone)
    chosen = {span for key, spans in groups.items() if len(phones[key[0]]) > 1
              for span in _draw(spans, most, seed)}
    return [span for spans in groups.values() for span in spans if span in chosen]


def thinned(spans: Sequence[Span], most: int = CONTEXT_TOKENS, seed: int = 0) -> list[Span]:
    """Spans in their order, of contexts with more than `most` only those of some speakers: every token of a context
    meets every other one, so that the time and memory of a very common one would have no bound.

    Speakers are drawn, by the seed, the context and their names, as long as all their tokens fit; two are kept whatever
    they have, so that there are errors within and across. A context of no more tokens is whole.

    Raises:
        UsageError: a number below 1.
    """
    if most < 1:
        raise UsageError(f"{most} tokens of a context: must be at least 1")
    counts: dict[Context, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for span in spans:
        counts[span.context][span.speaker] += 1
    kept = {context: _speakers_kept(context, of_each, most, seed) for context, of_each in counts.items()
            if sum(of_each.values()) > most}
    return [span for span in spans if span.context not in kept or span.speaker in kept[span.context]]


def _speakers_kept(context: Context, counts: Mapping[str, int], most: int, seed: int) -> set[str]:
    names = sorted(counts)
    order = [names[i] for i in keyed(seed, "abx speakers", *context).permutation(len(names))]
    totals = np.cumsum([counts[name] for name in order])
    return set(order[:max(2, int(np.searchsorted(totals, most, side="right")))])


def abx(tokens: Iterable[Token]) -> Abx:
    """The errors of tokens; every token of a context meets every other one (see `thinned`)."""
    within: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    across: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    judged = [0, 0]
    contexts: dict[Context, list[Token]] = defaultdict(list)
    for token in tokens:
        contexts[token.context].append(token)
    for members in contexts.values():
        distances = pairwise([t.frames for t in members])
        places: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, token in enumerate(members):
            places[token.speaker, token.phone].append(place)
        for (speaker, phone), a in places.items():
            for (owner, other), b in places.items():
                if owner != speaker or other == phone:
                    continue
                for (third, same), x in places.items():
                    if same != phone or (third == speaker and len(a) < 2):
                        continue
                    error, count = _errors(distances, a, b, x)
                    into = within if third == speaker else across
                    into[phone, other][speaker, third].append(error)
                    judged[third != speaker] += count
    return Abx(_average(within), _average(across), *judged)


def pairwise(tokens: Sequence[np.ndarray]) -> np.ndarray:
    """(N, N) float64, symmetric: distances of tokens (n, D) float32."""
    count = len(tokens)
    lengths = np.array([len(t) for t in tokens])
    starts = np.cumsum(lengths) - lengths
    angles = frame_distances(np.concatenate(tokens), np.concatenate(tokens))
    rows, columns = np.triu_indices(count, 1)
    order = np.argsort(lengths[rows] * lengths[columns], kind="stable")  # tables of similar size together
    rows, columns = rows[order], columns[order]
    found = np.zeros((count, count))
    longest = int(lengths.max())
    step = max(1, _CELLS // longest ** 2)
    for first in range(0, len(rows), step):
        i, j = rows[first:first + step], columns[first:first + step]
        n, m = int(lengths[i].max()), int(lengths[j].max())
        down = np.minimum(starts[i, None] + np.arange(n), len(angles) - 1)  # beyond a token's end nobody looks
        along = np.minimum(starts[j, None] + np.arange(m), len(angles) - 1)
        costs = warp(angles[down[:, :, None], along[:, None, :]], lengths[i], lengths[j])
        found[i, j] = found[j, i] = costs
    return found


def frame_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) float64 in [0, 1]: angle between frames (n, D) and (m, D), over pi; zeros are at a right angle."""
    def unit(frames: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(frames.astype(np.float64), axis=1, keepdims=True)
        return frames / np.where(norms > 0, norms, 1)

    found: np.ndarray = unit(first) @ unit(second).T
    np.clip(found, -1, 1, out=found)  # in place: of a thousand tokens each copy is half a gigabyte
    np.arccos(found, out=found)
    found /= np.pi
    return found


def warp(distances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Dynamic time warping of many pairs at once.

    Args:
        distances: (P, n, m) of frames.
        rows, columns: (P,) how many of them belong to each pair.

    Returns:
        (P,) float64: least sum of distances along a path from the first to the last frames, over the path's length.
        Among equal ways the path takes the diagonal, then the one along the columns.
    """
    pairs, n, m = distances.shape
    cost = np.empty((pairs, n, m))
    length = np.empty((pairs, n, m), np.int64)
    cost[:, 0], cost[:, :, 0] = distances[:, 0].cumsum(-1), distances[:, :, 0].cumsum(-1)
    length[:, 0], length[:, :, 0] = np.arange(1, m + 1), np.arange(1, n + 1)
    for i in range(1, n):
        for j in range(1, m):
            diagonal, left, up = cost[:, i - 1, j - 1], cost[:, i, j - 1], cost[:, i - 1, j]
            straight = (diagonal <= left) & (diagonal <= up)
            sideways = ~straight & (left <= up)
            cost[:, i, j] = distances[:, i, j] + np.where(straight, diagonal, np.where(sideways, left, up))
            length[:, i, j] = 1 + np.where(straight, length[:, i - 1, j - 1],
                                           np.where(sideways, length[:, i, j - 1], length[:, i - 1, j]))
    pair = np.arange(pairs)
    return cost[pair, rows - 1, columns - 1] / length[pair, rows - 1, columns - 1]


def _errors(distances: np.ndarray, a: list[int], b: list[int], x: list[int]) -> tuple[float, int]:
    """Mean error of the triplets of A, B and X, and how many there are; where A and X are one set, no token is both."""
    near = distances[np.ix_(a, x)][:, None]  # (A, 1, X)
    far = distances[np.ix_(b, x)][None]  # (1, B, X)
    wrong = (near > far) + 0.5 * (near == far)
    if a != x:
        return float(wrong.mean()), wrong.size
    different = ~np.eye(len(a), dtype=bool)
    kept = wrong.transpose(0, 2, 1)[different]
    return float(kept.mean()), kept.size


def _average(found: Mapping[tuple[str, str], Mapping[Key, Sequence[float]]]) -> float | None:
    """Percent: over contexts, then speakers, then pairs of phones."""
    if not found:
        return None
    return 100 * float(np.mean([np.mean([np.mean(contexts) for contexts in speakers.values()])
                                for speakers in found.values()]))


def _spans(utterance: str, speaker: str, path: AlignmentFile, frames: int, grid: FrameGrid) -> Iterable[Span]:
    intervals = read_alignment(path)
    centres = grid.centre_seconds(0) + np.arange(frames) / grid.rate
    for before, own, after in zip(intervals, intervals[1:], intervals[2:]):
        names = [phone_class(i.label) for i in (before, own, after)]
        touching = own.start - before.end < _GAP_SECONDS and after.start - own.end < _GAP_SECONDS
        first, last = np.searchsorted(centres, (own.start, own.end)).tolist()
        if touching and first < last and not set(names) & set(_NO_PHONES):
            yield Span(utterance, speaker, names[1], (names[0], names[2]), first, last)


def _draw(spans: list[Span], most: int, seed: int) -> list[Span]:
    """At most so many of the tokens of a phone in a context by a speaker."""
    if len(spans) <= most:
        return spans
    one = spans[0]
    chosen = keyed(seed, "abx tokens", one.speaker, one.phone, *one.context).permutation(len(spans))[:most]
    return [spans[i] for i in np.sort(chosen)]
