"""Do the seams of long recordings show? The same utterances transcribed one by one and joined to long recordings.

    hubertkit bench seams RECOGNISER TEST.arrow --out seams.json [--lm lm.arpa --tuned tuned.json]

Utterances follow each other in the order of the manifest, up to so many minutes a recording, and each recording is
transcribed as `hubertkit transcribe` does it, in windows, parted at pauses. Both ways errors are counted of the joined
words against the joined texts: what goes wrong at a seam counts as any other error, and an alignment is as free to
reach from one utterance into the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from downstream.score.rates import word_errors
from downstream.transcribe import Settings, Transcriber
from upstream.audio.manifest import Manifest
from upstream.audio.reading import read
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.progress import progress, say

GOAL = 0.1  # points of WER
Recording = tuple[np.ndarray, str]  # (S,) float32 at 16 kHz, and what is said


def run(recogniser: Path, test: Manifest, settings: dict[str, Settings], minutes: float = 30.0,
        pause_seconds: float = 0.0, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Rows for a results file.

    Args:
        recogniser: its folder.
        test: recordings with texts.
        settings: how to decode, by the name that rows have as `decoder`.
        minutes: of a joined recording at most; an utterance is never parted.
        pause_seconds: of digital silence between two utterances, which a recogniser may never have met; most have
            quiet of their own around what is said.

    Returns:
        Two rows for each decoder, `recordings` being `one by one` or `joined`: `count` of what is transcribed,
        `longest_seconds`, `words`, `errors`, `wer`; of `joined` also `difference`, in points, and `goal`. Beside them
        `parted_at_seconds`, the pause at which recordings were parted.

    Raises:
        UsageError: minutes or a pause that cannot be, or no recogniser.
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
    whole = list(joined(alone, minutes, pause_seconds))
    rows: list[dict[str, Any]] = []
    parted = 0.0
    for name, setting in settings.items():
        transcriber = Transcriber(recogniser, setting)
        parted = transcriber.pause_seconds
        for recordings, parts in (("one by one", alone), ("joined", whole)):
            found = _transcribed(transcriber, [wave for wave, _ in parts], f"{name}, {recordings}")
            rows.append({"decoder": name, "recordings": recordings, **_scored(parts, found, whole)})
        rows[-1] |= {"difference": round(rows[-1]["wer"] - rows[-2]["wer"], 3), "goal": GOAL}
        say(f"{name}: {rows[-2]['wer']:.2f} one by one, {rows[-1]['wer']:.2f} joined")
    return {"benchmark": "seams", "minutes": minutes, "pause_seconds": pause_seconds, "parted_at_seconds": parted,
            "rows": rows}


def joined(parts: list[Recording], minutes: float, pause_seconds: float) -> Iterator[Recording]:
    """Recordings one after another with a pause of silence between them, as many as go into each of so many minutes."""
    pause = np.zeros(round(pause_seconds * SAMPLE_RATE), np.float32)
    waves: list[np.ndarray] = []
    texts: list[str] = []
    samples = 0
    for wave, text in parts:
        if waves and samples + len(pause) + len(wave) > minutes * 60 * SAMPLE_RATE:
            yield np.concatenate(waves), " ".join(texts)
            waves, texts, samples = [], [], 0
        new = [pause, wave] if waves else [wave]
        waves, texts, samples = waves + new, [*texts, text], samples + sum(map(len, new))
    if waves:
        yield np.concatenate(waves), " ".join(texts)


def _transcribed(transcriber: Transcriber, waves: list[np.ndarray], label: str) -> list[str]:
    found = []
    with progress(label, len(waves)) as report:
        for number, wave in enumerate(waves, 1):
            found.append(" ".join(word.word for word in transcriber.words([wave])))
            report(number, len(waves))
    return found


def _scored(parts: list[Recording], found: list[str], whole: list[Recording]) -> dict[str, Any]:
    """Errors of what was found in the parts, joined as the recordings of `whole` are."""
    words = errors = 0
    left = iter(zip(parts, found))
    for _, text in whole:
        hypothesis: list[str] = []
        heard = 0
        while heard < len(text.split()):
            (_, said), words_found = next(left)
            heard, hypothesis = heard + len(said.split()), hypothesis + words_found.split()
        words, errors = words + len(text.split()), errors + word_errors(text, " ".join(hypothesis))
    errors += sum(len(words_found.split()) for _, words_found in left)  # of silent utterances at the end
    return {"count": len(parts), "longest_seconds": round(max(len(wave) for wave, _ in parts) / SAMPLE_RATE, 1),
            "words": words, "errors": errors, "wer": round(100 * errors / words, 3)}
