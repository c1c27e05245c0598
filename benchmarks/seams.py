"""Do the seams of long recordings show? The same utterances transcribed one by one and joined to long recordings.

    hubertkit bench seams RECOGNISER TEST.arrow --out seams.json [--lm lm.arpa --tuned tuned.json]

Utterances follow each other in the order of the manifest, up to so many minutes a recording, and each recording is
transcribed as `hubertkit transcribe` does it, in windows, parted at pauses. Both ways errors are counted of the joined
words against the joined texts: what goes wrong at a seam counts as any other error, and an alignment is as free to
reach from one utterance into the next. Each error has its place in an utterance, so the two ways are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein  # what jiwer aligns with

from downstream.score.rates import Unit, compared_words
from downstream.score.significance import paired_difference
from downstream.transcribe import Settings, Transcriber
from upstream.audio.manifest import Manifest
from upstream.audio.reading import read
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.progress import progress, say

GOAL = 0.1  # points of WER
Recording = tuple[np.ndarray, str]  # (S,) float32 at 16 kHz, and what is said


def run(recogniser: Path, test: Manifest, settings: dict[str, Settings], minutes: float = 30.0,
        pause_seconds: float = 0.0, say: Callable[[str], None] = say, unit: Unit = "word") -> dict[str, Any]:
    """Rows for a results file.

    Args:
        recogniser: its folder.
        test: recordings with texts.
        settings: how to decode, by the name that rows have as `decoder`.
        minutes: of a joined recording at most; an utterance is never parted.
        pause_seconds: of digital silence between two utterances, which a recogniser may never have met; most have
            quiet of their own around what is said.
        unit: that errors are counted in; with `character` all numbers of words and `wer` are of characters.

    Returns:
        Two rows for each decoder, `recordings` being `one by one` or `joined`: `count` of what is transcribed,
        `longest_seconds`, `words`, `errors`, `wer`; of `joined` also `difference`, in points, and `goal`,
        `difference_interval` and `p_value`, utterances drawn. Beside them `parted_at_seconds`, the pause at which
        recordings were parted.

    Raises:
        UsageError: minutes or a pause that cannot be, or by which no two utterances are joined; no recogniser.
        InputError: an utterance without a text, or no words at all.
    """
    if not minutes > 0 or not pause_seconds >= 0:
        raise UsageError(f"{minutes} minutes with pauses of {pause_seconds} s: must be above 0 and at least 0")
    missing = next((test[i].id for i in range(len(test)) if test[i].text is None), None)
    if missing is not None:
        raise InputError(f"{missing}: no text; seams are measured on recordings with transcripts")
    alone = [(read(test[i]), str(test[i].text)) for i in range(len(test))]
    if not any(text.split() for _, text in alone):
        raise InputError("the texts hold no words; seams are measured on recordings with transcripts")
    groups = grouped([len(wave) for wave, _ in alone], minutes, pause_seconds)
    if len(groups) == len(alone) > 1:
        raise UsageError(f"{minutes:g} minutes: no two utterances with a pause of {pause_seconds:g} s fit into a "
                         "recording, so nothing is joined; give more")
    whole = [joined(alone[group.start:group.stop], pause_seconds) for group in groups]
    rows: list[dict[str, Any]] = []
    parted = 0.0
    for name, setting in settings.items():
        transcriber = Transcriber(recogniser, setting)
        parted = transcriber.pause_seconds
        each = _transcribed(transcriber, alone, f"{name}, one by one")
        long = _transcribed(transcriber, whole, f"{name}, joined")
        texts = [text for _, text in alone]
        apart = errors_by_utterance(texts, [" ".join(each[group.start:group.stop]) for group in groups], groups, unit)
        together = errors_by_utterance(texts, long, groups, unit)
        words = np.array([len(compared_words(text, unit)) for text in texts])
        rows += [_row(name, "one by one", alone, words, apart), _row(name, "joined", whole, words, together)]
        paired = paired_difference(together, apart, words)
        rows[-1] |= {"difference": round(paired.points, 3), "difference_interval": paired.interval.rounded,
                     "p_value": round(paired.p_value, 5), "goal": GOAL}
        say(f"{name}: {rows[-2]['wer']:.2f} one by one, {rows[-1]['wer']:.2f} joined")
    return {"benchmark": "seams", "unit": unit, "minutes": minutes, "pause_seconds": pause_seconds,
            "parted_at_seconds": parted, "rows": rows}


def grouped(samples: Sequence[int], minutes: float, pause_seconds: float) -> list[range]:
    """Which utterances make a recording of at most so many minutes: as many as go into it, and one at least."""
    pause, most = round(pause_seconds * SAMPLE_RATE), minutes * 60 * SAMPLE_RATE
    starts, length = [0], 0
    for number, own in enumerate(samples):
        if number > starts[-1] and length + pause + own > most:
            starts.append(number)
        length = own if number == starts[-1] else length + pause + own
    return [range(*ends) for ends in pairwise([*starts, len(samples)])]


def joined(parts: Sequence[Recording], pause_seconds: float) -> Recording:
    """Recordings one after another as one, with a pause of digital silence between them."""
    pause = np.zeros(round(pause_seconds * SAMPLE_RATE), np.float32)
    waves = [piece for wave, _ in parts for piece in (pause, wave)][1:]
    return np.concatenate(waves), " ".join(text for _, text in parts)


def errors_by_utterance(texts: Sequence[str], found: Sequence[str], groups: Sequence[range],
                        unit: Unit = "word") -> np.ndarray:
    """(N,) int64: word errors at each of N utterances, of the words found in recordings that hold `groups` of them.

    A recording is aligned whole, with the fewest errors. A word that is too many is an error of the utterance that the
    next word of the reference is of, or at a recording's end of the last utterance.
    """
    errors = np.zeros(len(texts), np.int64)
    for group, heard in zip(groups, found, strict=True):
        said = [compared_words(text, unit) for text in texts[group.start:group.stop]]
        ends = np.cumsum(list(map(len, said)))
        edits = Levenshtein.editops([word for words in said for word in words], compared_words(heard, unit))
        at = np.minimum(np.searchsorted(ends, [edit.src_pos for edit in edits], side="right"), len(said) - 1)
        errors[group.start:group.stop] = np.bincount(at, minlength=len(said))
    return errors


def _transcribed(transcriber: Transcriber, parts: Sequence[Recording], label: str) -> list[str]:
    found = []
    with progress(label, len(parts)) as report:
        for number, (wave, _) in enumerate(parts, 1):
            found.append(" ".join(word.word for word in transcriber.words([wave])))
            report(number, len(parts))
    return found


def _row(decoder: str, how: str, recordings: Sequence[Recording], words: np.ndarray,
         errors: np.ndarray) -> dict[str, Any]:
    return {"decoder": decoder, "recordings": how, "count": len(recordings),
            "longest_seconds": round(max(len(wave) for wave, _ in recordings) / SAMPLE_RATE, 1),
            "words": int(words.sum()), "errors": int(errors.sum()),
            "wer": round(100 * float(errors.sum()) / float(words.sum()), 3)}
