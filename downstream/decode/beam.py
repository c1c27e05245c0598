"""CTC beam search with a word n-gram model: pyctcdecode's search, KenLM's scores, weights in natural logarithm.

A hypothesis is ranked by

    log p(text | emissions) + lm_weight * log P(text) + word_score * words        (all natural logarithms)

with log p summed over the alignments that the search keeps (Hannun et al. 2014). In pyctcdecode's terms
`lm_weight` is alpha and `word_score` beta, since it turns KenLM's log10 into natural logarithms before weighing.
A weight tuned with flashlight, which stays in log10, is divided by ln 10 = 2.3026 to be used here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from downstream.decode.alphabet import Alphabet, alphabet
from downstream.decode.hypothesis import Candidate, Hypothesis, Word
from downstream.decode.word_model import WordModel, check_language_model, load_word_model
from downstream.emissions import check_rate
from upstream.errors import UsageError

_NEVER = -1e4  # natural log; pyctcdecode clips it to log(1e-15), below any threshold of tokens


@dataclass(frozen=True)
class BeamDecoder:
    """Settings of a beam search; the search itself is made on first use and kept for the life of the process.

    Attributes:
        symbols: V symbols, one per column of the emissions.
        blank: column of the CTC blank.
        lm: ARPA file (`.arpa`, `.arpa.gz`), or None: emissions alone.
        lm_weight: of the natural-log probability of the language model.
        word_score: added for each word, in nats.
        beam: hypotheses kept after each frame.
        beam_prune_logp: nats; hypotheses further below the best one are dropped.
        token_min_logp: nats; symbols below are not tried in a frame, unless it is the likeliest one.
        tokens_per_frame: symbols tried in a frame at most; None: all above `token_min_logp`.
        nbest: candidates that a hypothesis lists; with 1, hypotheses that can only stay behind another are dropped.
        hotwords: words that are expected, which the search favours.
        hotword_weight: nats that each of them gains (pyctcdecode's).
    """

    symbols: tuple[str, ...]
    blank: int
    lm: Path | None = None
    lm_weight: float = 0.5
    word_score: float = 0.0
    beam: int = 50
    beam_prune_logp: float = -10.0
    token_min_logp: float = -5.0
    tokens_per_frame: int | None = None
    nbest: int = 1
    hotwords: tuple[str, ...] = ()
    hotword_weight: float = 10.0

    def __post_init__(self) -> None:
        if min(self.beam, self.nbest, 1 if self.tokens_per_frame is None else self.tokens_per_frame) < 1:
            raise UsageError(f"beam={self.beam}, nbest={self.nbest}, tokens_per_frame={self.tokens_per_frame}: "
                             "must be at least 1")
        if not np.isfinite([self.lm_weight, self.word_score]).all() or self.lm_weight < 0:
            raise UsageError(f"lm_weight={self.lm_weight} must be at least 0 and word_score={self.word_score} finite")

    def prepare(self) -> None:
        """Load the language model now and raise what is wrong with it, so that forked processes share it."""
        self._search()

    def decode(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        """Search the best text of an utterance.

        Args:
            id: of the utterance.
            logprobs: (T, V) natural-log probabilities, T >= 0.
            rate: frames a second (Hz). Frame t spans t / rate to (t + 1) / rate seconds.

        Raises:
            InputError: symbols or a language model that cannot be decoded with, emissions that do not fit them, or no
                rate.
        """
        check_rate(rate)
        search, model = self._search()
        rows, removed = self._admissible(alphabet(self.symbols, self.blank).usable(logprobs, id))
        if not len(rows):
            return Hypothesis(id, "", 0.0, 0.0)
        if model is not None:
            model.weigh(self.lm_weight, self.word_score)
        beams = search.decode_beams(rows, beam_width=self.beam, beam_prune_logp=self.beam_prune_logp,
                                    token_min_logp=self.token_min_logp, prune_history=self.nbest == 1,
                                    hotwords=self.hotwords or None, hotword_weight=self.hotword_weight)
        candidates = tuple(_candidate(beam, model, removed) for beam in beams[:self.nbest])
        best = candidates[0]
        words = tuple(Word(word, start / rate, end / rate) for word, (start, end) in beams[0][2])
        return Hypothesis(id, best.text, best.score, best.acoustic, best.lm, words,
                          candidates if self.nbest > 1 else ())

    def _search(self) -> tuple[Any, WordModel | None]:
        columns = alphabet(self.symbols, self.blank)
        if self.lm is None:
            return _build(columns, None, None)
        model, vocabulary = load_word_model(self.lm)
        return _build(columns, model, vocabulary)

    def _admissible(self, logprobs: np.ndarray) -> tuple[np.ndarray, float]:
        """Rows that sum to 1 over the symbols to try, and the natural log of what that removed from every path."""
        rows = logprobs.astype(np.float64)
        rows, removed = _normalised(rows)
        if self.tokens_per_frame is not None and self.tokens_per_frame < rows.shape[1] and len(rows):
            least = np.partition(rows, -self.tokens_per_frame, axis=1)[:, -self.tokens_per_frame]
            least = np.minimum(np.maximum(least, self.token_min_logp), rows.max(axis=1))
            rows, more = _normalised(np.where(rows >= least[:, None], rows, _NEVER))
            removed += more
        return rows, removed


def _normalised(rows: np.ndarray) -> tuple[np.ndarray, float]:
    rows = np.maximum(rows, _NEVER)
    sums = np.logaddexp.reduce(rows, axis=1, keepdims=True)
    return rows - sums, float(sums.sum())


def _candidate(beam: tuple[Any, ...], model: WordModel | None, removed: float) -> Candidate:
    text, _, _, acoustic, score = beam
    lm, unknown = (0.0, 0) if model is None else model.text_score(text)
    return Candidate(text, float(score) + removed, float(acoustic) + removed, lm, unknown)


@lru_cache(maxsize=8)
def _build(columns: Alphabet, model: Any, vocabulary: Any) -> tuple[Any, WordModel | None]:
    from pyctcdecode.alphabet import Alphabet as Labels
    from pyctcdecode.decoder import BeamSearchDecoderCTC

    # it warns of small vocabularies and of alphabets that it would have to guess; ours are checked and given as meant
    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    words: Any = None  # stands in for pyctcdecode's LanguageModel, which cannot be subclassed without importing it
    if model is not None:
        check_language_model(vocabulary.words, columns)
        words = WordModel(model, vocabulary)
    return BeamSearchDecoderCTC(Labels(list(columns.characters), is_bpe=False), words), words
