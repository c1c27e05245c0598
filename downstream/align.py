"""When each word was said, and each phone: CTC forced alignment with a recogniser and the transcripts.

    hubertkit align RECOGNISER MANIFEST --out DIR --dictionary cmudict.dict

The likeliest alignment of a transcript's characters to the frames (Viterbi over CTC's states,
`torchaudio.functional.forced_align`) gives each character the frames in which it is emitted. CTC emits briefly, so
words are widened: each reaches half of the way to its neighbours, but at most `EDGE_SECONDS` beyond its own frames.
Phones divide the span of their word: the pronunciation is laid along its letters, each letter lasting from its first
frame to that of the next one, so that where letters take long, phones do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, dropwhile, islice, pairwise
from pathlib import Path

import numpy as np
import torch

from downstream.heads.ctc import Recogniser, least_frames
from downstream.recogniser import emit
from downstream.text.clusters import clusters
from downstream.text.vocabulary import SEPARATOR, Vocabulary, composed, spelled_as
from upstream.audio.caching import AudioCache
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.teacher.alignments import Interval, without_stress

EDGE_SECONDS = 0.1  # of a word beyond the frames in which its letters are emitted, where there is room
UNKNOWN = "spn"  # the phone of a word that the dictionary lacks, as Kaldi and the Montreal Forced Aligner write it
Dictionary = Mapping[str, tuple[str, ...]]
_PROBABILITY = re.compile(r"\d*\.\d+(e-?\d+)?|\d+e-\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Alignment:
    """Of one utterance.

    Attributes:
        words: with their times in seconds; what lies between them is silence.
        phones: likewise; empty without a dictionary.
        score: mean log-probability of a frame along the alignment, in nats; far below 0 where the transcript is not
            what was said.
    """

    words: tuple[Interval, ...]
    phones: tuple[Interval, ...]
    score: float


def align(model: Recogniser, vocabulary: Vocabulary, manifest: Manifest, device: torch.device,
          dictionary: Dictionary | None = None, characters: bool = False) -> Iterator[tuple[int, Alignment | str]]:
    """(index, alignment) of every utterance, longest first; in place of an alignment the reason why there is none.

    Args:
        characters: see `align_text`.

    Raises:
        InputError: no utterance has a transcript.
    """
    texts = manifest.texts
    if not any(texts):
        raise InputError("no utterance has a transcript to align; import the corpus with its texts")
    rate = model.encoder.config.grid.rate
    for index, logprobs in emit(model, manifest, AudioCache(manifest), device):
        try:
            yield index, align_text(logprobs.numpy(), texts[index] or "", vocabulary, rate,
                                    manifest.lengths[index] / 16_000, dictionary, characters)
        except InputError as error:
            yield index, str(error)


def align_text(logprobs: np.ndarray, text: str, vocabulary: Vocabulary, rate: float, seconds: float,
               dictionary: Dictionary | None = None, characters: bool = False) -> Alignment:
    """Align one text.

    Args:
        logprobs: (T, V) natural-log probabilities.
        rate: frames a second (Hz); frame t spans t / rate to (t + 1) / rate seconds.
        seconds: of the recording; nothing reaches beyond it.
        characters: what is read as one character is a word, for scripts without spaces between words.

    Raises:
        InputError: no text, characters outside the vocabulary, more symbols than frames.
    """
    targets = vocabulary.encode(text)
    if not targets:
        raise InputError("no transcript")
    if least_frames(targets) > len(logprobs):
        raise InputError(f"{len(logprobs)} frames cannot hold the {len(targets)} characters of its transcript")
    spans, score = character_spans(logprobs, targets, vocabulary.blank)
    letters = _by_word(spans, [vocabulary.symbols[t] for t in targets])
    names = spelled_as(text, vocabulary.letters).split()
    if characters:
        names, letters = _by_character(names, letters)
    words = _widened(names, letters, rate, seconds)
    phones = () if dictionary is None else tuple(
        phone for word, own in zip(words, letters) for phone in divided(word, [first / rate for first, _ in own],
                                                                        dictionary))
    return Alignment(tuple(words), phones, score)


def character_spans(logprobs: np.ndarray, targets: Sequence[int], blank: int) -> tuple[list[tuple[int, int]], float]:
    """The likeliest CTC alignment: for each target the frames [first, end) in which it is emitted, and its mean
    log-probability a frame.

    Args:
        logprobs: (T, V).
        targets: ids, none of them the blank; T must be at least `least_frames(targets)`.
    """
    from torchaudio.functional import forced_align

    path, scores = forced_align(torch.from_numpy(np.ascontiguousarray(logprobs, np.float32))[None],
                                torch.tensor([list(targets)], dtype=torch.int32), blank=blank)
    labels = path[0].numpy()
    changes = np.flatnonzero(np.diff(labels, prepend=-1, append=-1))
    spans = [(int(a), int(b)) for a, b in pairwise(changes) if labels[a] != blank]
    return spans, float(scores[0].mean())


def divided(word: Interval, letter_starts: Sequence[float], dictionary: Dictionary) -> list[Interval]:
    """The phones of a word within its span; one `spn` for a word that the dictionary lacks.

    Args:
        letter_starts: seconds at which each letter of the word is first emitted.
    """
    pronounced = pronunciation(dictionary, word.label)
    if not pronounced:
        return [Interval(word.start, word.end, UNKNOWN)]
    # A letter lasts until the next one; the first begins and the last ends with the word.
    knots = [word.start, *letter_starts[1:], word.end]
    places = np.linspace(0, len(knots) - 1, len(pronounced) + 1)
    times = np.interp(places, np.arange(len(knots)), knots)
    return [Interval(float(a), float(b), phone) for a, b, phone in zip(times, times[1:], pronounced)]


def pronunciation(dictionary: Dictionary, word: str) -> tuple[str, ...] | None:
    """The phones of a word as it is written or, if there are none, in upper case; accents are part of their letters."""
    word = composed(word)
    return dictionary.get(word) or dictionary.get(word.upper())


def read_dictionary(path: Path) -> dict[str, tuple[str, ...]]:
    """A pronouncing dictionary in the format of CMUdict, `WORD  P1 P2 ...`, comments after `;;;` or `#`; or of the
    Montreal Forced Aligner and Kaldi, with probabilities (`0.99`) between the word and its phones.

    Of several pronunciations (`WORD(2)`) the first counts; stress digits of ARPAbet are dropped. Words are in it as
    they are written and in upper case, where one that comes earlier may have their place (Turkish `kır` and `kir`).

    Raises:
        UsageError: no such file.
        InputError: no text, or a line without a pronunciation, with its number.
    """
    if not Path(path).exists() or Path(path).is_dir():
        what = "a folder" if Path(path).exists() else "no such file"
        raise UsageError(f"{path}: {what}; a pronouncing dictionary is a file in CMUdict's format")
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a pronouncing dictionary ({error})") from error
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        entry, *fields = ([] if line.startswith(";;;") else line.partition("#")[0].split()) or [""]
        phones = tuple(without_stress(p) for p in dropwhile(_PROBABILITY.fullmatch, fields))
        if entry and not phones:
            raise InputError(f"{path}: line {number}: {entry!r} has no pronunciation")
        entry = composed(entry)
        word, another, _ = entry.partition("(")
        if entry and not another:
            found.setdefault(entry, phones)
        if entry:
            found.setdefault(word.upper() or entry, phones)
    if not found:
        raise InputError(f"{path}: no pronunciations in it")
    return found


def _by_word(spans: list[tuple[int, int]], symbols: list[str]) -> list[list[tuple[int, int]]]:
    """The spans of the letters of each word."""
    words: list[list[tuple[int, int]]] = [[]]
    for span, symbol in zip(spans, symbols):
        if symbol == SEPARATOR:
            words.append([])
        else:
            words[-1].append(span)
    return words


def _by_character(names: list[str],
                  letters: list[list[tuple[int, int]]]) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """What is read as one character in words, and the spans of its letters."""
    parts, spans = [part for name in names for part in clusters(name)], chain.from_iterable(letters)
    return parts, [list(islice(spans, len(part))) for part in parts]


def _widened(names: list[str], letters: list[list[tuple[int, int]]], rate: float, seconds: float) -> list[Interval]:
    """Words in seconds, each reaching half of the way to the next one or to the end, and EDGE_SECONDS at most."""
    own = [(spans[0][0] / rate, min(spans[-1][1] / rate, seconds)) for spans in letters]
    before = [0.0, *(end for _, end in own)]
    after = [*(start for start, _ in own[1:]), seconds]
    words = []
    for place, (name, (start, end)) in enumerate(zip(names, own)):
        room_before = start - before[place] if place == 0 else (start - before[place]) / 2
        room_after = after[place] - end if place == len(own) - 1 else (after[place] - end) / 2
        words.append(Interval(start - min(EDGE_SECONDS, max(0.0, room_before)),
                              end + min(EDGE_SECONDS, max(0.0, room_after)), name))
    return words
