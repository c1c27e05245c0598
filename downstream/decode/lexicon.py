"""CTC beam search over the words of a lexicon: flashlight-text's search, KenLM's scores, weights in natural logarithms.

A hypothesis is ranked by

    log p(path | emissions) + lm_weight * log P(text) + word_score * words + silence_score * frames of the separator

with all logarithms natural, as in all of hubertkit's decoders, and p that of the best alignment (`log_add` sums over
those that the search keeps). flashlight and fairseq leave KenLM's scores in log10, so a `lm_weight` that was tuned or
published with them (torchaudio's 2.46 of HuBERT, wav2vec 2.0's tables 7 and 8 for the 4-gram) weighs log10 units: it is
divided by ln 10 = 2.3026 to be used here, which `natural_lm_weight` does (2.46 becomes 1.07). Their word, unknown and
silence scores are in nats already, and weights for a Transformer are of natural logarithms: both stay as they are.

flashlight ends a word at its separator only. Recognisers of fairseq's emit one after the last word as well, others
don't, so a frame that is a separator for sure is put after the last one; it adds nothing to any score.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from downstream.decode.alphabet import Alphabet, alphabet
from downstream.decode.flashlight_search import (
    Options,
    SpelledWords,
    load_words,
    make_search,
    run_search,
    spelled_lexicon,
    spelled_words,
    words_of_model,
)
from downstream.decode.greedy import greedy
from downstream.decode.hypothesis import Candidate, Hypothesis, Word
from downstream.emissions import check_rate
from downstream.lm.scoring import LN10
from downstream.text.lexicon import Lexicon
from upstream.errors import UsageError

_NEVER = -1e4  # nats; stands for minus infinity, from which flashlight would make NaN


def natural_lm_weight(log10_weight: float) -> float:
    """A weight of flashlight's, fairseq's or torchaudio's for KenLM's log10 scores as `lm_weight` here."""
    return log10_weight / LN10


def log10_lm_weight(natural_weight: float) -> float:
    """A `lm_weight` of hubertkit's as flashlight takes it."""
    return natural_weight * LN10


@dataclass(frozen=True)
class LexiconDecoder:
    """Settings of a search; lexicon and language model are loaded on first use and kept for the life of the process.

    Attributes:
        symbols: V symbols, one per column of the emissions.
        blank: column of the CTC blank.
        lm: ARPA file (`.arpa`, `.arpa.gz`) or, with a lexicon, a KenLM binary; None: no language model.
        lexicon: words that may be found: with their spellings, or as a tuple to be spelled by their characters. None:
            the words of the language model that the symbols can spell.
        lm_weight: of the natural-log probability of the language model.
        word_score: added for each word, in nats.
        beam: hypotheses kept after each frame.
        beam_threshold: nats; hypotheses further below the best one are dropped.
        tokens_per_frame: symbols tried in a frame at most; None: all.
        silence_score: nats for each frame of a separator on the path.
        log_add: sum over alignments instead of taking the best one.
        nbest: candidates that a hypothesis lists.
    """

    symbols: tuple[str, ...]
    blank: int
    lm: Path | None = None
    lexicon: Lexicon | tuple[str, ...] | None = None
    lm_weight: float = 0.5
    word_score: float = 0.0
    beam: int = 50
    beam_threshold: float = 50.0
    tokens_per_frame: int | None = None
    silence_score: float = 0.0
    log_add: bool = False
    nbest: int = 1

    def __post_init__(self) -> None:
        if min(self.beam, self.nbest, 1 if self.tokens_per_frame is None else self.tokens_per_frame) < 1:
            raise UsageError(f"beam={self.beam}, nbest={self.nbest}, tokens_per_frame={self.tokens_per_frame}: "
                             "must be at least 1")
        if not np.isfinite([self.lm_weight, self.word_score, self.silence_score]).all() or self.lm_weight < 0:
            raise UsageError(f"lm_weight={self.lm_weight} must be at least 0, word_score={self.word_score} and "
                             f"silence_score={self.silence_score} finite")
        if not self.beam_threshold > 0:
            raise UsageError(f"beam_threshold={self.beam_threshold} must be above 0")
        if self.lm is None and self.lexicon is None:
            raise UsageError("a lexicon search needs words: give a lexicon, a language model, or both")

    def prepare(self) -> None:
        """Load what is needed now and raise what is wrong with it, so that forked processes share it."""
        self._words()

    def decode(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        """Search the best text of an utterance.

        Where no hypothesis ends at the end of a word, the text is what was finished of the best one, or that of greedy
        decoding where that is nothing; `unfinished` says so.

        Args:
            id: of the utterance.
            logprobs: (T, V) natural-log probabilities, T >= 0.
            rate: frames a second (Hz). Frame t spans t / rate to (t + 1) / rate seconds.

        Raises:
            InputError: symbols, a lexicon or a language model that cannot be decoded with, emissions that do not fit
                them, or no rate.
        """
        check_rate(rate)
        columns, words = alphabet(self.symbols, self.blank), self._words()
        rows = columns.usable(logprobs, id)
        if not len(rows):
            return Hypothesis(id, "", 0.0, 0.0)
        last = np.full(rows.shape[1], _NEVER, np.float32)
        last[columns.characters.index(" ")] = 0.0
        results = run_search(make_search(words, self._options(len(last)), columns),
                             np.maximum(np.concatenate([rows, last[None]]), _NEVER))
        found = [_Path.of(result, words, columns, last) for result in results[:self.nbest]]
        if not found or (found[0].unfinished and not found[0].words):
            return self._without_search(id, logprobs, rate)
        candidates: dict[str, Candidate] = {}
        for path in found:  # pieces that are dropped may leave the same text twice
            candidate = self._candidate(path, words)
            candidates.setdefault(candidate.text, candidate)
        best = next(iter(candidates.values()))
        times = tuple(Word(word, start / rate, end / rate) for word, start, end in found[0].words)
        return Hypothesis(id, best.text, best.score, best.acoustic, best.lm, times,
                          tuple(candidates.values()) if self.nbest > 1 else (), unfinished=found[0].unfinished)

    def spelled(self, word: str) -> list[str]:
        """The spellings of a word, without the separator."""
        if not isinstance(self.lexicon, Lexicon):
            return [word]
        return ["".join(spelling[:-1]) for spelling in self.lexicon.spellings.get(word, ((*word, ""),))]

    def _candidate(self, path: _Path, words: SpelledWords) -> Candidate:
        score, lm = path.score, path.lm
        if path.unfinished:  # flashlight has guessed the rest of the last word
            lm = words.sentence(list(path.indices))
            score += self.lm_weight * (lm - path.lm)
        else:
            score -= self.silence_score  # of the frame that was put at the end
        text = " ".join(word for word, _, _ in path.words)
        acoustic = score - self.lm_weight * lm - self.word_score * len(path.words)
        return Candidate(text, score, acoustic, lm, sum(i in words.strange for i in path.indices))

    def _without_search(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        found = greedy(logprobs, self.symbols, self.blank, rate, id)
        only = Candidate(found.text, found.score, found.acoustic, 0.0, 0)
        return replace(found, nbest=(only,) if self.nbest > 1 else (), unfinished=True)

    def _options(self, width: int) -> Options:
        return Options(log10_lm_weight(self.lm_weight), self.word_score, self.silence_score,
                       self.beam, self.beam_threshold, self.tokens_per_frame or width, self.log_add)

    def _words(self) -> SpelledWords:
        columns = alphabet(self.symbols, self.blank)
        return _loaded(self.lexicon, None if self.lm is None else Path(self.lm), columns)


@dataclass(frozen=True)
class _Path:
    """A result of flashlight's, a frame taken from its end again; natural logarithms.

    Attributes:
        words: with their first frame and the one after their last.
        indices: of the words.
        unfinished: whether it ends inside a word, which is left out.
    """

    score: float
    lm: float
    words: tuple[tuple[str, int, int], ...]
    indices: tuple[int, ...]
    unfinished: bool

    @staticmethod
    def of(result: Any, words: SpelledWords, columns: Alphabet, last: np.ndarray) -> _Path:
        characters = columns.characters
        tokens = result.tokens[1:-1]  # flashlight's own beginning and end, which are no frames
        said: list[tuple[str, int, int]] = []
        indices: list[int] = []
        letters, start, end, before = "", 0, 0, ""
        for frame, (token, label) in enumerate(zip(tokens, result.words[1:-1])):
            character = characters[token]
            if character.strip():
                start = start if letters else frame
                letters += character if character != before else ""
                end = frame + 1
            if label >= 0:
                said.append((words.names[label], start, end))
                indices.append(label)
                letters = ""
            before = character
        return _Path(result.score - float(last[tokens[-1]]), LN10 * result.lmScore, tuple(said), tuple(indices),
                     bool(letters))


_kept: OrderedDict[tuple[Any, ...], tuple[Any, SpelledWords]] = OrderedDict()
_KEPT = 4


def _loaded(lexicon: Lexicon | tuple[str, ...] | None, lm: Path | None, columns: Alphabet) -> SpelledWords:
    """Words of a lexicon and a language model, kept as long as the file stays as it is.

    Lexicons are told apart by identity: comparing hundreds of thousands of words for every utterance takes longer than
    decoding it.
    """
    about = lm.stat() if lm is not None and lm.is_file() else None
    key = (id(lexicon), lm, about and (about.st_mtime_ns, about.st_size), columns)
    if key not in _kept:
        if isinstance(lexicon, Lexicon):
            spellings = spelled_lexicon(lexicon, columns)
        else:
            spellings = spelled_words(words_of_model(lm, columns) if lexicon is None and lm is not None
                                      else lexicon or (), columns)
        _kept[key] = lexicon, load_words(spellings, lm, columns)  # with the lexicon, so that its id is not another's
    _kept.move_to_end(key)
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)
    return _kept[key][1]
