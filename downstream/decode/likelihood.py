"""The CTC probability of a given text: the sum over all paths that are read as it, which no beam has cut short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from downstream.decode.alphabet import Alphabet

_PAUSE, _BLANK = -1, -2  # states that are no letters

def text_logprobs(usable: np.ndarray, texts: Sequence[str], columns: Alphabet,
                  best_path: bool = False) -> list[float]:
    """Natural-log probability of texts by the emissions of an utterance.

    As decoders read paths: separators before the first word and after the last one say nothing, and several between
    two words are as good as one. So recognisers that end every utterance with a separator are not wronged, as they
    would be by the CTC loss of the text. The forward pass is that of Graves et al. 2006, section 4.1.

    Args:
        usable: (T, usable columns) natural-log probabilities, as `Alphabet.usable` gives them, T >= 0; minus infinity
            is allowed.
        texts: words parted by white space.
        best_path: the probability of the best path instead of the sum over all.

    Returns:
        Of each text, -inf where the symbols cannot spell it, or the frames are too few for it.
    """
    blank, separator = columns.characters.index(""), columns.characters.index(" ")
    chains = [_chain(text, columns) for text in texts]
    sizes = [0 if chain is None else len(chain) for chain in chains]
    states = np.concatenate([np.empty(0, np.int64), *(chain for chain in chains if chain is not None)])
    first = np.cumsum([0, *(size for size in sizes if size)])[:-1]
    add = np.maximum if best_path else np.logaddexp
    alpha = _forward(np.asarray(usable, np.float64), states, first, blank, separator, add)
    ends = iter(np.split(alpha, first[1:])) if len(first) else iter(())
    # a text may end in the silence after its last word, in the blank after its last letter, or in that letter
    return [float(add.reduce(next(ends)[-3:])) if size else -np.inf for size in sizes]


def _chain(text: str, columns: Alphabet) -> np.ndarray | None:
    """The states of a text: a pause, then for each word a letter (its column), a blank, ... and a pause again.

    None where the alphabet lacks a letter.
    """
    places = {character: place for place, character in enumerate(columns.characters) if character not in ("", " ")}
    states = [_PAUSE]
    for word in text.split():
        for letter in word:
            if letter not in places:
                return None
            states += [places[letter], _BLANK]
        states.append(_PAUSE)
    return np.asarray(states, np.int64)


def _forward(rows: np.ndarray, states: np.ndarray, first: np.ndarray, blank: int, separator: int,
             add: np.ufunc) -> np.ndarray:
    """(states,) log of the summed probability of the paths that are in each state after the last frame.

    Args:
        states: chains one after another.
        first: where each begins.
        add: of natural logarithms; the maximum for the best path.
    """
    # a pause is entered with a separator and goes on with blanks or separators: so each path is counted once
    either = add(rows[:, blank], rows[:, separator])[:, None] if len(rows) else np.empty((0, 1))
    table = np.concatenate([rows, either], axis=1)
    stay = np.select([states == _PAUSE, states == _BLANK], [table.shape[1] - 1, blank], states)
    enter = np.where(states == _PAUSE, separator, stay)
    starts = np.zeros(len(states), bool)
    starts[first] = True
    before = np.concatenate([[_PAUSE, _PAUSE], states])[:-2]  # two states back
    letter, pause = states >= 0, states == _PAUSE
    # over a blank: from a letter to another one, or to the pause after it
    skip = (letter & (before >= 0) & (before != states)) | (pause & (before >= 0))
    from_last, from_skip = np.where(starts, -np.inf, 0.0), np.where(skip & ~starts, 0.0, -np.inf)
    alpha = np.where(starts, 0.0, -np.inf)
    padded = np.full(len(states) + 2, -np.inf)
    for frame in table:
        padded[2:] = alpha
        arriving = add(padded[1:-1] + from_last, padded[:-2] + from_skip)
        alpha = add(alpha + frame[stay], arriving + frame[enter])
    return alpha
