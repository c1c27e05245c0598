"""The frames of a batch of utterances that need a search, one time step after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.decode.alphabet import Alphabet

_LEAST = 1e-30  # probability of a blank at least, so that no utterance ends in a place without a way out


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames without those that are surely blank, by (step, utterance); utterances by falling number of frames.

    F frames in all, K letters worth trying in all of them, W columns.

    Attributes:
        order: (U,) which utterance of those given is at each place.
        active: (steps,) utterances that have a frame at a step: the first ones.
        skipped: (U,) natural-log probability of the blanks left out.
        frame: (U, steps) int32, which frame of the utterance a step is.
        gap: (F,) 1.0 where blanks were left out before the frame, 0.0 elsewhere.
        space: (F,) probability of the word separator; 0 where it is not worth trying.
        stay_blank: (F, 2) probability of staying by a blank: at a letter, at a word's beginning.
        stay_letter: (F, W + 1) probability of staying at a letter by repeating it; 0 in the last column.
        counts: (F,) letters worth trying.
        letters, probabilities: (K,) the letters and their probabilities, frame after frame.
    """

    order: np.ndarray
    active: np.ndarray
    skipped: np.ndarray
    frame: np.ndarray
    gap: np.ndarray
    space: np.ndarray
    stay_blank: np.ndarray
    stay_letter: np.ndarray
    counts: np.ndarray
    letters: np.ndarray
    probabilities: np.ndarray


def frames_of(rows: Sequence[np.ndarray], alphabet: Alphabet, blank_threshold: float, token_min_logp: float,
              tokens: int | None) -> Frames:
    """Choose what is searched.

    Args:
        rows: usable (T, W) natural-log probabilities of each utterance, T >= 0.
        alphabet: of the columns.
        blank_threshold: frames with a likelier blank are left out.
        token_min_logp: letters and separators below are not tried, in nats.
        tokens: letters tried in a frame at most.
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    blank, space = alphabet.characters.index(""), alphabet.characters.index(" ")
    logs = np.concatenate([*rows, np.zeros((0, len(alphabet.characters)), np.float32)])
    owner = np.repeat(np.arange(len(rows)), lengths)
    sure = logs[:, blank] > np.log(blank_threshold)
    skipped = np.bincount(owner[sure], logs[sure, blank], minlength=len(rows)).astype(np.float64)  # int if all is kept
    kept = np.flatnonzero(~sure)
    counts = np.bincount(owner[kept], minlength=len(rows))
    order = np.argsort(-counts, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    step = np.arange(len(kept)) - np.repeat(np.cumsum(counts) - counts, counts)
    within = np.arange(len(logs)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    frame = np.zeros((len(rows), int(counts.max(initial=0))), np.int32)
    frame[place[owner[kept]], step] = within[kept]
    gap = (np.diff(kept, prepend=0) > 1).astype(np.float64)  # of no effect in an utterance's first frame
    by_step = np.lexsort((place[owner[kept]], step))
    logs = logs[kept[by_step]]  # with thousands of columns each array counts: this one takes the place of all frames
    stay_letter = np.zeros((len(logs), logs.shape[1] + 1))
    np.exp(logs, out=stay_letter[:, :-1], dtype=np.float64)
    return Frames(order, np.bincount(step, minlength=frame.shape[1]), skipped[order], frame, gap[by_step],
                  *_tried(stay_letter, blank, space, np.exp(token_min_logp), tokens))


def _tried(stay_letter: np.ndarray, blank: int, space: int, least: float, tokens: int | None) -> tuple[np.ndarray, ...]:
    """`space` to `probabilities` of `Frames`, from the probabilities of all columns."""
    probabilities = stay_letter[:, :-1]
    separator, blanks = probabilities[:, space], np.maximum(probabilities[:, blank], _LEAST)
    stay_blank = np.stack([blanks, blanks + separator], axis=1)  # separators change nothing where no word has begun
    letters = probabilities.copy()
    letters[:, [blank, space]] = 0
    if tokens is not None and tokens < letters.shape[1]:
        enough = np.partition(letters, -tokens, axis=1)[:, -tokens, None]
        letters[letters < enough] = 0
    likeliest = letters.max(axis=1, keepdims=True, initial=0)
    tried = (letters >= np.minimum(likeliest, least)) & (letters > 0)
    rows, columns = np.nonzero(tried)
    return (np.where(separator >= least, separator, 0.0), stay_blank, stay_letter, tried.sum(axis=1), columns,
            letters[rows, columns])
