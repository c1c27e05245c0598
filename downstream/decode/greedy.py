"""Best path decoding: the likeliest symbol of each frame, repeats joined, blanks dropped (Graves et al. 2006, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.decode.alphabet import alphabet
from downstream.decode.hypothesis import Hypothesis, Word
from downstream.emissions import check_rate

_NEVER = -1e4  # natural log, in place of minus infinity, which files of hypotheses cannot hold


@dataclass(frozen=True)
class GreedyDecoder:
    """Greedy decoding as a decoder object, for `decode.pool`."""

    symbols: tuple[str, ...]
    blank: int

    def prepare(self) -> None:
        """Raise now what `decode` would raise because of the symbols."""
        alphabet(self.symbols, self.blank)

    def decode(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        """As `greedy`."""
        return greedy(logprobs, self.symbols, self.blank, rate, id=id)


def greedy(logprobs: np.ndarray, symbols: Sequence[str], blank: int, rate: float, id: str = "") -> Hypothesis:
    """The text of the likeliest path.

    Args:
        logprobs: (T, V) natural-log probabilities, T >= 0. Ties go to the lower column.
        symbols: V symbols; `|` or a space separates words; specials such as `<unk>` are never chosen.
        blank: column of the CTC blank.
        rate: frames a second (Hz).
        id: of the utterance.

    Returns:
        The hypothesis; its score is the log-probability of the path, in which a frame where no symbol is possible is a
        blank and counts -10,000. Frame t spans t / rate to (t + 1) / rate seconds.

    Raises:
        InputError: symbols that cannot be decoded with, emissions that do not fit them, or no rate.
    """
    check_rate(rate)
    columns = alphabet(symbols, blank)
    usable = columns.usable(logprobs, id)
    if not len(usable):
        return Hypothesis(id, "", 0.0, 0.0)
    highest = usable.max(axis=1)
    path = np.where(np.isneginf(highest), columns.characters.index(""), usable.argmax(axis=1))
    score = float(np.maximum(highest, _NEVER).sum(dtype=np.float64))
    words = _words([columns.characters[c] for c in path], rate)
    return Hypothesis(id, " ".join(word.word for word in words), score, score, words=words)


def _words(path: list[str], rate: float) -> tuple[Word, ...]:
    """Collapse a path, one character (or "" for blank) a frame, to words with times."""
    words: list[Word] = []
    word, start, end = "", 0, 0
    last = ""
    for frame, character in enumerate([*path, " "]):
        if character == " ":
            if word:
                words.append(Word(word, start / rate, end / rate))
            word = ""
        elif character:
            if character != last:
                start = start if word else frame
                word += character
            end = frame + 1
        last = character
    return tuple(words)
