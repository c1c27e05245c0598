"""What a decoder ranks texts by, computed whole for a given text: no beam has cut it short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from downstream.decode.alphabet import Alphabet, alphabet
from downstream.decode.batched import BatchedDecoder, load_arrays
from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import WeightedDecoder
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.likelihood import text_logprobs
from downstream.decode.parting import Parting
from downstream.decode.word_model import UNKNOWN_LOG10, WordModel, load_word_model
from downstream.lm.array_file import holds_arrays
from downstream.lm.arrays import NgramArrays
from downstream.lm.scoring import LN10
from downstream.text.lexicon import Lexicon
from upstream.errors import UsageError

TextScore = Callable[[str], tuple[float, int]]


@dataclass(frozen=True)
class Weighed:
    """A text and the two parts of its score, natural logarithms.

    Attributes:
        text: words joined by single spaces.
        acoustic: log p(text | emissions); -inf where the frames or symbols cannot give it.
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
    """The score of a decoder without its search. Bonuses of hotwords are not part of it.

        log p(text | emissions) + lm_weight * (log P(text) + unknown_penalty * unknown words) + word_score * words

    Attributes:
        language: natural-log probability of a text with its end, and the number of words that the model does not know.
        lm_weight: of natural logarithms.
        word_score: added for each word, in nats.
        unknown_penalty: of each unknown word, in nats, weighted like the language model.
        best_path: p is that of the best alignment, as flashlight has it, not the sum over all.
        vocabulary: words that the decoder finds; of an open vocabulary those that the language model knows.
        closed: whether it finds no other words.
        parting: how texts fall apart into words that need no separator between them; None: at spaces.
    """

    language: TextScore
    lm_weight: float
    word_score: float
    unknown_penalty: float = 0.0
    best_path: bool = False
    vocabulary: frozenset[str] = frozenset()
    closed: bool = False
    parting: Parting | None = None

    @staticmethod
    def of(decoder: WeightedDecoder) -> Objective:
        """What a decoder with a language model ranks by.

        Raises:
            UsageError: no language model, a lexicon with other spellings than by characters, or unspaced search of
                any words.
            FormatError: a language model that is neither an ARPA file nor packed arrays.
        """
        if decoder.lm is None:
            raise UsageError("taking errors apart needs a language model: give one as lm (--lm)")
        lm = Path(decoder.lm)
        # the model as the decoder reads it: KenLM has not all orders
        language, known = (array_scores(load_arrays(lm)) if isinstance(decoder, BatchedDecoder) else text_scores(lm))
        if isinstance(decoder, BeamDecoder):
            return Objective(language, decoder.lm_weight, decoder.word_score, LN10 * UNKNOWN_LOG10, vocabulary=known)
        lexicon = decoder.lexicon
        if isinstance(lexicon, Lexicon) and not lexicon.by_characters:
            raise UsageError("a lexicon with other spellings than by characters: errors are taken apart by characters")
        words = known if lexicon is None else frozenset(lexicon.words if isinstance(lexicon, Lexicon) else lexicon)
        if isinstance(decoder, LexiconDecoder):
            return Objective(language, decoder.lm_weight, decoder.word_score, best_path=not decoder.log_add,
                             vocabulary=words, closed=True)
        closed, parting = decoder.unknown_penalty is None, None
        if decoder.unspaced and not closed:
            raise UsageError("unspaced search of any words: a text of unknown ones can be parted anywhere, so errors "
                             "are not taken apart; leave unknown_penalty out")
        if decoder.unspaced:
            parting = Parting(load_arrays(lm), words, decoder.lm_weight, decoder.word_score)
        return Objective(language, decoder.lm_weight, decoder.word_score, decoder.unknown_penalty or 0.0,
                         vocabulary=words if closed else known, closed=closed, parting=parting)

    def words_of(self, text: str) -> list[str]:
        """The words of a text that the score counts."""
        return text.split() if self.parting is None else self.parting.part(text)

    def weigh(self, texts: Sequence[str], logprobs: np.ndarray, columns: Alphabet) -> list[Weighed]:
        """The parts of the scores of texts of one utterance.

        Args:
            logprobs: (T, V) natural-log probabilities of the utterance.
        """
        plain = [" ".join(text.split()) for text in texts]
        acoustic = text_logprobs(columns.usable(logprobs), plain, columns, self.best_path)
        return [Weighed(text, each, self._language(text)) for text, each in zip(plain, acoustic, strict=True)]

    def _language(self, text: str) -> float:
        words = self.words_of(text)
        lm, unknown = self.language(" ".join(words))
        return self.lm_weight * (lm + self.unknown_penalty * unknown) + self.word_score * len(words)


def text_scores(path: Path) -> tuple[TextScore, frozenset[str]]:
    """How a language model scores a text, and its words. Of an ARPA file, or of what `hubertkit lm pack` wrote."""
    if not holds_arrays(path):
        model, vocabulary = load_word_model(path)
        return WordModel(model, vocabulary).text_score, vocabulary.words
    return array_scores(NgramArrays.load(path))


def array_scores(arrays: NgramArrays) -> tuple[TextScore, frozenset[str]]:
    """The same of arrays."""
    def score(text: str) -> tuple[float, int]:
        ids = [arrays.words.index(word) for word in text.split()]
        state, total = np.asarray([arrays.begin]), 0.0
        for word in [*ids, arrays.eos]:
            logprob, state = arrays.score(state, np.asarray([word]))  # type: ignore[arg-type,assignment]
            total += float(logprob[0])
        return total, ids.count(0)

    return score, frozenset(arrays.words.own)


def without_language_model(decoder: WeightedDecoder, words: frozenset[str]) -> WeightedDecoder | None:
    """The same search over the words of its lexicon alone; None of a decoder with an open vocabulary.

    The word score is left out with the model: it balances the model's preference for few words.
    """
    if isinstance(decoder, BeamDecoder):
        return None
    letters = alphabet(decoder.symbols, decoder.blank).letters
    lexicon = decoder.lexicon or tuple(sorted(word for word in words if letters.issuperset(word)))
    return replace(decoder, lm=None, lexicon=lexicon, lm_weight=0.0, word_score=0.0, nbest=1)  # type: ignore[arg-type]
