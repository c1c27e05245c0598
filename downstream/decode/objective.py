"""What a decoder ranks texts by, computed whole for a given text: no beam has cut the sum over alignments short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.decode.alphabet import Alphabet
from downstream.decode.likelihood import text_logprobs
from downstream.decode.word_model import LN10, UNKNOWN_LOG10


@dataclass(frozen=True)
class Weighed:
    """A text and the two parts of its score, natural logarithms.

    Attributes:
        text: words joined by single spaces.
        acoustic: log p(text | emissions), over all alignments; -inf where the frames or symbols cannot give it.
        language: what the language model and the words add, weighted.
    """

    text: str
    acoustic: float
    language: float

    @property
    def score(self) -> float:
        """What texts are ranked by."""
        return self.acoustic + self.language


@dataclass(frozen=True)
class Objective:
    """The score of `BeamDecoder`, and of `BatchedDecoder` with an unknown penalty: they differ in what they search.

        log p(text | emissions) + lm_weight * (log P(text) + unknown_penalty * unknown words) + word_score * words

    Attributes:
        language: natural-log probability of a text with its end, and the number of unknown words in it.
        lm_weight: of natural logarithms.
        word_score: added for each word, in nats.
        unknown_penalty: of each unknown word, in nats, weighted like the language model.
    """

    language: Callable[[str], tuple[float, int]]
    lm_weight: float
    word_score: float
    unknown_penalty: float = LN10 * UNKNOWN_LOG10

    def weigh(self, texts: Sequence[str], logprobs: np.ndarray, columns: Alphabet) -> list[Weighed]:
        """The parts of the scores of texts of one utterance.

        Args:
            logprobs: (T, V) natural-log probabilities of the utterance.
        """
        plain = [" ".join(text.split()) for text in texts]
        acoustic = text_logprobs(columns.usable(logprobs), plain, columns)
        return [Weighed(text, each, self._language(text)) for text, each in zip(plain, acoustic, strict=True)]

    def _language(self, text: str) -> float:
        lm, unknown = self.language(text)
        return self.lm_weight * (lm + self.unknown_penalty * unknown) + self.word_score * len(text.split())
