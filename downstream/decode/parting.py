"""Into which words a text without spaces falls apart, by a language model: what `unspaced` search finds of one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from downstream.lm.arrays import NgramArrays


class _Way(NamedTuple):
    """A way to part the beginning of a text."""

    score: float
    state: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Parting:
    """The likeliest way to part a text into words that are known.

    Attributes:
        arrays: of the language model.
        words: that a text may consist of.
        lm_weight, word_score: of the score that chooses, as decoders have them.
    """

    arrays: NgramArrays
    words: frozenset[str]
    lm_weight: float
    word_score: float

    def part(self, text: str) -> list[str]:
        """The words of a text: spaces end words, and words need none between them. Where a text does not consist of
        known words, its words as spaces part them."""
        ways, longest = [_Way(0.0, self.arrays.begin, ())], max(map(len, self.words), default=0)
        for chunk in text.split():
            ways = self._through(chunk, ways, longest)
        last = [self._next(way, self.arrays.eos).score for way in ways]
        return list(ways[int(np.argmax(last))].words) if ways else text.split()

    def _through(self, chunk: str, ways: list[_Way], longest: int) -> list[_Way]:
        """The best way to the end of a chunk for each state of the language model."""
        reached: list[dict[int, _Way]] = [{} for _ in range(len(chunk) + 1)]
        reached[0] = {way.state: way for way in ways}
        for start in range(len(chunk)):
            for end in range(start + 1, min(start + longest, len(chunk)) + 1):
                word = chunk[start:end]
                if word not in self.words:
                    continue
                for way in reached[start].values():
                    after = self._next(way, self.arrays.words.index(word))
                    after = after._replace(score=after.score + self.word_score, words=(*way.words, word))
                    old = reached[end].get(after.state)
                    if old is None or old.score < after.score:
                        reached[end][after.state] = after
        return list(reached[-1].values())

    def _next(self, way: _Way, word: int) -> _Way:
        logprobs, after = self.arrays.score(np.asarray([way.state]), np.asarray([word]))  # type: ignore[arg-type]
        return way._replace(score=way.score + self.lm_weight * float(logprobs[0]), state=int(after[0]))
