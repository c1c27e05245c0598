"""Our own CTC decoder: a prefix beam search of many utterances at once, with a word n-gram model and a lexicon.

A hypothesis is ranked by

    log p(text | emissions) + lm_weight * log P(text) + word_score * words + bonuses of hotwords (natural logarithms)

with log p summed over the alignments that the search keeps. Words are found in a tree of the lexicon; the language
model is asked where they end. Before that, the best word below a node stands in for it, as in flashlight's smearing.

Scripts without spaces between words are searched `unspaced`: a word ends where the next one begins, with a separator
between them or without, and of the ways to part a text into words the likeliest counts.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from downstream.decode.alphabet import Alphabet, alphabet
from downstream.decode.batched_backend import Backend, NumpyBackend, TorchBackend
from downstream.decode.batched_frames import frames_of
from downstream.decode.batched_search import Graph, Limits, search
from downstream.decode.batched_texts import Spelling, model_scores, spellings, words_of
from downstream.decode.hypothesis import Candidate, Hypothesis
from downstream.decode.lexicon_trie import LexiconTrie, build
from downstream.decode.look_ahead import best_below
from downstream.decode.word_model import check_language_model
from downstream.emissions import check_rate
from downstream.given_files import check_lasting
from downstream.lm.array_file import holds_arrays
from downstream.lm.arrays import NgramArrays, arpa_hash_of, model_hash, pack, packed_from
from downstream.user_cache import cache_folder
from upstream.disk import content_hash
from upstream.errors import InputError, UsageError
from upstream.progress import progress, say

_MOST_VALUES = 1 << 24  # frames of a group times columns: 134 MB of each array of probabilities, of which there are two
_SMALLEST = -300.0  # nats: exp of half as much again is still a number


@dataclass(frozen=True)
class BatchedDecoder:
    """Settings of a search; lexicon and language model are loaded on first use and kept for the life of the process.

    Attributes:
        symbols: V symbols, one per column of the emissions.
        blank: column of the CTC blank.
        lm: arrays that `hubertkit lm pack` made, or an ARPA file, beside which they are written (`.ngrams`) unless they
            are there, or into the user's cache where a file of that name is another model's; None: no language model.
        lexicon: words that may be found; None: those of the language model.
        lm_weight: of the natural-log probability of the language model.
        word_score: added for each word, in nats.
        beam: hypotheses of an utterance kept after each frame, to within those that are equal within .09 nats.
        beam_threshold: nats; hypotheses further below the best one are dropped.
        token_min_logp: nats; symbols below are not tried in a frame, unless it is the likeliest letter.
        tokens_per_frame: letters tried in a frame at most; None: all above `token_min_logp`, which costs less than the
            errors that a low limit makes (docs/performance.md).
        unknown_penalty: added to the language model's <unk>, in nats before weighing, for words that it does not know.
            With it any spelling is a word, whatever the lexicon lacks; with None only those of the lexicon are.
        hotwords: words and what each time that they are found adds, in nats. They are added to the lexicon.
        blank_threshold: frames in which the blank is likelier are not searched; 1.0 searches all.
        nbest: candidates that a hypothesis lists. With 1, of hypotheses that can only go on alike the best is kept.
        batch: utterances searched in step by `decode_batch` at most; fewer where the alphabet is large.
        device: of torch; None: numpy, the fastest on a CPU.
        unspaced: words need no separator between them: of recognisers of scripts without spaces.
    """

    symbols: tuple[str, ...]
    blank: int
    lm: Path | None = None
    lexicon: tuple[str, ...] | None = None
    lm_weight: float = 0.5
    word_score: float = 0.0
    beam: int = 50
    beam_threshold: float = 20.0
    token_min_logp: float = -10.0
    tokens_per_frame: int | None = None
    unknown_penalty: float | None = None
    hotwords: tuple[tuple[str, float], ...] = ()
    blank_threshold: float = 0.999
    nbest: int = 1
    batch: int = 256
    device: str | None = None
    unspaced: bool = False

    def __post_init__(self) -> None:
        for name in ("symbols", "lexicon", "hotwords"):  # lists of a caller would have no hash
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(tuple(one) if name == "hotwords" else one for one in given))
        if min(self.beam, self.nbest, self.batch, 1 if self.tokens_per_frame is None else self.tokens_per_frame) < 1:
            raise UsageError(f"beam={self.beam}, nbest={self.nbest}, batch={self.batch}, "
                             f"tokens_per_frame={self.tokens_per_frame}: must be at least 1")
        numbers = [self.lm_weight, self.word_score, *(bonus for _, bonus in self.hotwords)]
        if not np.isfinite(numbers).all() or self.lm_weight < 0:
            raise UsageError(f"lm_weight={self.lm_weight} must be at least 0, word_score={self.word_score} and bonuses "
                             "of hotwords finite")
        if not self.beam_threshold > 0 or not 0 < self.blank_threshold <= 1 or (self.unknown_penalty or 0) > 0:
            raise UsageError(f"beam_threshold={self.beam_threshold} must be above 0, blank_threshold="
                             f"{self.blank_threshold} in (0, 1], unknown_penalty={self.unknown_penalty} at most 0")

    def prepare(self) -> None:
        """Load what is needed now and raise what is wrong with it, so that forked processes share it."""
        _graph(self)

    def decode(self, id: str, logprobs: np.ndarray, rate: float) -> Hypothesis:
        """Search the best text of one utterance; `decode_batch` is many times faster for many.

        Where no hypothesis ends at the end of a word, the text is what was finished of the best one, which may be
        nothing, and its score that of what was searched, the piece of a word included; `unfinished` says so.

        Args:
            id: of the utterance.
            logprobs: (T, V) natural-log probabilities, T >= 0.
            rate: frames a second (Hz). Frame t spans t / rate to (t + 1) / rate seconds.

        Raises:
            InputError: symbols, a lexicon or a language model that cannot be decoded with, emissions that do not fit
                them, or no rate.
        """
        return self.decode_batch([id], [logprobs], rate)[0]

    def decode_batch(self, ids: Sequence[str], logprobs: Sequence[np.ndarray], rate: float) -> list[Hypothesis]:
        """As `decode`, of many utterances; each gets what it gets alone. The order is kept. Raises as `decode`, and
        InputError for another number of ids than of emissions."""
        check_rate(rate)
        if len(ids) != len(logprobs):
            raise InputError(f"{len(ids)} ids for the emissions of {len(logprobs)} utterances; give one for each")
        columns = alphabet(self.symbols, self.blank)
        rows = [columns.usable(values, id) for id, values in zip(ids, logprobs)]
        graph, backend = _graph(self)
        limits = Limits(self.beam, self.beam_threshold, recombine=self.nbest == 1)
        found: dict[int, Hypothesis] = {}
        for group in _groups(list(map(len, rows)), len(columns.characters), self.batch):
            frames = frames_of([rows[i] for i in group], columns, self.blank_threshold, self.token_min_logp,
                               self.tokens_per_frame)
            result = search(graph, frames, limits, backend)
            best = spellings(result, frames, graph, self.nbest, backend)
            candidates = self._candidates(best, graph, columns, backend)
            for place, texts, spelled in zip(frames.order.tolist(), candidates, best):
                index = group[place]
                words = words_of(spelled[0], (*columns.characters, ""), rows[index], rate)
                found[index] = Hypothesis(ids[index], texts[0].text, texts[0].score, texts[0].acoustic, texts[0].lm,
                                          words, texts if self.nbest > 1 else (), unfinished=spelled[0].unfinished)
        return [found[i] for i in range(len(ids))]

    def _candidates(self, best: list[list[Spelling]], graph: Graph, columns: Alphabet,
                    backend: Backend) -> list[tuple[Candidate, ...]]:
        """The texts of each utterance with their scores taken apart."""
        parted = (*columns.characters, " ")  # what ends a word without a separator parts words, and is none of the text
        flat = ["".join(parted[c] for c in one.columns).split() for each in best for one in each]
        index = graph.lm.words.index if graph.lm is not None else _no_word_is_unknown
        lms = iter(model_scores(flat, graph, index, backend))
        texts, bonus = iter(flat), dict(self.hotwords)
        found = []
        for each in best:
            candidates = []
            for one in each:
                words, lm = next(texts), next(lms)
                unknown = sum(index(word) == 0 for word in words)
                rest = self.lm_weight * (lm + (self.unknown_penalty or 0.0) * unknown) + self.word_score * len(words)
                acoustic = one.score - rest - sum(bonus.get(word, 0.0) for word in words)
                text = "".join(columns.characters[c] for c in one.columns if c != graph.boundary).strip()
                candidates.append(Candidate(text, one.score, acoustic, lm, unknown,
                                            len(words) if self.unspaced else None))
            found.append(tuple(candidates))
        return found


def load_arrays(path: Path) -> NgramArrays:
    """Arrays of a language model, packed or an ARPA file: made of that where they are not there yet.

    Raises:
        UsageError: no such file, or no place for the arrays.
        FormatError: a file that is neither, or broken.
        InputError: a model without words.
    """
    check_lasting(path, "no such file; language models are made by `hubertkit lm build`")
    if holds_arrays(path):
        _tell_outdated(path)
        return _with_words(path, path)
    digest = str(model_hash(path))  # of files that a command has noted, known already
    arrays = _arrays_of(path, digest)
    with progress(f"packing {path.name}", 1) as report:
        pack(path, arrays, report, say, digest)
    return _with_words(path, arrays)


def _groups(frames: Sequence[int], width: int, batch: int) -> Iterator[list[int]]:
    """Utterances by falling length, in groups of as many as are searched in step: their arrays must fit into memory."""
    group, held = list[int](), 0
    for i in sorted(range(len(frames)), key=lambda i: -frames[i]):
        if group and (len(group) == batch or held + frames[i] * width > _MOST_VALUES):
            yield group
            group, held = [], 0
        group.append(i)
        held += frames[i] * width
    if group:
        yield group


def _no_word_is_unknown(word: str) -> int:
    return 1


@lru_cache(maxsize=8)
def _graph(decoder: BatchedDecoder) -> tuple[Graph, Backend]:
    """What a decoder searches. The weights are part of it, since the look-ahead holds them."""
    columns = alphabet(decoder.symbols, decoder.blank)
    hotwords = dict(decoder.hotwords)
    lm = None if decoder.lm is None else load_arrays(Path(decoder.lm))
    words = decoder.lexicon
    if lm is not None and words is None:
        words = tuple(lm.words.own)
        check_language_model(words, columns)
    open_vocabulary = decoder.unknown_penalty is not None or words is None
    if lm is not None and words is not None and open_vocabulary:
        words = (*words, *lm.words.own)  # else the model's words that a lexicon lacks would count as unknown
    trie = _trie((*(words or ()), *hotwords), columns, open_vocabulary)
    backend: Any = NumpyBackend() if decoder.device is None else TorchBackend(decoder.device)
    return _weighted(decoder, trie, lm, hotwords, columns, open_vocabulary, backend), backend


def _weighted(decoder: BatchedDecoder, trie: LexiconTrie, lm: NgramArrays | None, hotwords: dict[str, float],
              columns: Alphabet, open_vocabulary: bool, backend: Backend) -> Graph:
    ids = np.array([*((lm.words.index(word) if lm else 0) for word in trie.words), 0])
    unigrams = lm.unigrams.numpy().astype(np.float64) if lm else np.zeros(1)
    unknown = (ids == 0) if lm else np.zeros(len(ids), bool)
    bonus = (np.array([*(hotwords.get(word, 0.0) for word in trie.words), 0.0]) + decoder.word_score
             + np.where(unknown, decoder.lm_weight * (decoder.unknown_penalty or 0.0), 0.0))
    best = decoder.lm_weight * unigrams[ids] + bonus
    ahead = best_below(trie, best[:-1], best[-1] if open_vocabulary else -np.inf)
    if ahead.max() < _SMALLEST:  # it orders hypotheses, for which a factor that all have is nothing
        ahead = ahead - ahead.max()
    scorer: Any = lm if lm is None or decoder.device is None else _on_device(lm, decoder.device)
    return Graph(width=trie.width, blank=columns.characters.index(""), space=columns.characters.index(" "),
                 children=backend.array(trie.children),
                 edges=None if trie.edges is None else backend.array(trie.edges),
                 otherwise=backend.array(trie.otherwise), label=backend.array(trie.label),
                 word=backend.array(trie.word), ahead=backend.array(np.exp(ahead)), lm=scorer,
                 lm_word=backend.array(ids), bonus=backend.array(bonus), lm_weight=decoder.lm_weight,
                 begin=lm.begin if lm else 0, end=lm.eos if lm else 0, states=len(lm.link) if lm else 1,
                 unspaced=decoder.unspaced)


@lru_cache(maxsize=2)
def _on_device(lm: NgramArrays, device: str) -> NgramArrays:
    """A model is gigabytes, and tuning makes a graph for each pair of weights."""
    return lm.to(device)


def let_go() -> None:
    """Forget the graphs of searches, and the language models on devices, that are kept for the next call: whatever
    comes next in this process may want the memory."""
    _graph.cache_clear()
    _on_device.cache_clear()


@lru_cache(maxsize=4)
def _trie(words: tuple[str, ...], columns: Alphabet, open_vocabulary: bool) -> LexiconTrie:
    return build(words, columns.characters, open_vocabulary)


def _with_words(path: Path, arrays: Path) -> NgramArrays:
    """The arrays of the model that was given as `path`. Raises InputError where it has no words."""
    found = _arrays(arrays.resolve(), arrays.stat().st_mtime_ns)
    if len(found.words) <= 3:
        raise InputError(f"{path}: a language model without words; build it from text")
    return found


def _tell_outdated(path: Path) -> None:
    """Say so where arrays that were asked for lie beside a newer ARPA file of their name that is another model."""
    stem = path.name.removesuffix(".ngrams")
    beside = [arpa for arpa in (path.with_name(stem + end) for end in (".arpa", ".arpa.gz")) if arpa.is_file()]
    newer = [arpa for arpa in beside if arpa.stat().st_mtime_ns > path.stat().st_mtime_ns]
    made_of = arpa_hash_of(path)
    if newer and made_of and made_of not in map(model_hash, beside):
        say(f"warning: {path} was made of another model than {newer[0]}, which is newer: give that file to decode with "
            "it, or make the arrays anew with `hubertkit lm pack`")


def _arrays_of(path: Path, digest: str) -> Path:
    """Where the arrays of the ARPA file with this sha256 are kept: beside it, or in the user's cache.

    A file beside it that is not its own, such as the arrays of `lm.arpa.gz` beside `lm.arpa`, stays as it is.
    """
    name = path.name.removesuffix(".gz").removesuffix(".arpa") + ".ngrams"
    beside = path.with_name(name)
    own = not beside.exists() or arpa_hash_of(beside) == digest
    if packed_from(beside, digest) or (own and os.access(path.resolve().parent, os.W_OK)):
        return beside
    cache = cache_folder()
    try:
        if cache is None:
            raise OSError(errno.ENOENT, "this user has no home")
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: its arrays can be kept neither beside it nor in {cache or 'a cache'} "
                         f"({error.strerror}); set XDG_CACHE_HOME to a folder that can be written, or write them with "
                         "`hubertkit lm pack` and give that file") from error
    return cache / f"{content_hash(str(path.resolve()))[:16]}-{name}"


@lru_cache(maxsize=4)
def _arrays(path: Path, modified: int) -> NgramArrays:
    return NgramArrays.load(path)
