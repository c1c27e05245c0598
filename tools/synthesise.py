"""Speech from text by espeak-ng: recordings, transcripts and gold phone times without downloading anything.

    from tools.synthesise import VOICES_TRAIN, sentences, synthesise
    manifest = synthesise(Path("corpus/train"), sentences(1000, seed=1), VOICES_TRAIN, seed=1)

For demonstrations and tests: what is said is right by construction, and so are the times of the phones.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from tools.espeak import Request, Speech, speak
from tools.sentences import sentences
from upstream.audio.cutting import encoded
from upstream.audio.manifest import Manifest, Utterance
from upstream.disk import disk_errors
from upstream.errors import HubertkitError, InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.keyed import keyed, keyed_int
from upstream.progress import progress

__all__ = ["SILENCE", "VOICES_TEST", "VOICES_TRAIN", "Voice", "phone_of", "sentences", "synthesise"]

SILENCE = "sil"
SOURCE = "espeak-ng"
PAUSE_SECONDS = (0.1, 0.5)  # of background noise before and after the speech
TAIL_SECONDS = 0.05  # kept of the engine's own pause after the last phone, which dies away in it
SPEECH_DBFS = (-30.0, -20.0)  # RMS level of the speech
NOISE_DB = (-45.0, -30.0)  # of the noise, relative to the speech
PEAK = 0.98


@dataclass(frozen=True)
class Voice:
    """A speaker.

    Attributes:
        name: of the speaker; the beginning of the utterances' ids.
        language: espeak-ng's name of language and variant, `en-us+f2`.
        rate_wpm: words a minute, 80 to 450.
        pitch, pitch_range: 0 to 100; 50 is the variant's own.
    """

    name: str
    language: str
    rate_wpm: int = 160
    pitch: int = 50
    pitch_range: int = 50


# Six kinds of English and the voices m1 to m5, m7, f1 to f4. The test speakers have other voices (m6, f5 and two named
# ones), not another English, as an unseen speaker of a corpus has.
VOICES_TRAIN = [
    Voice("ada", "en-us+f2", 160, 50), Voice("ben", "en-us+m1", 150, 45), Voice("cleo", "en-gb-x-rp+f1", 165, 55),
    Voice("dan", "en-gb-x-rp+m3", 170, 50), Voice("eve", "en+f3", 150, 50, 60), Voice("finn", "en+m2", 180, 50, 40),
    Voice("gina", "en-us+f4", 175, 60), Voice("hal", "en-us+m7", 140, 40), Voice("iris", "en-gb-scotland+f2", 155, 65),
    Voice("jock", "en-gb-scotland+m4", 165, 50), Voice("kate", "en-us-nyc+f1", 190, 45, 65),
    Voice("leo", "en-gb-x-gbcwmd+m5", 160, 55),
]
VOICES_TEST = [
    Voice("maud", "en-us+f5", 165, 55), Voice("ned", "en-gb-x-rp+m6", 155, 45),
    Voice("olga", "en+Annie", 170, 50), Voice("paul", "en-us+Mike", 160, 50),
]


def synthesise(out: Path, texts: Sequence[str], voices: Sequence[Voice], seed: int,
               noise_db: tuple[float, float] = NOISE_DB) -> Manifest:
    """Say the sentences, the voices taking turns, and write a corpus.

    Writes `audio/ID.flac` (16 kHz, 16 bits), `alignments/ID.ctm` (lines `ID 1 start duration phone`, seconds, without
    gaps from 0 to the end) and, last, `manifest.arrow` below `out`. Silence before and after, loudness and background
    noise are drawn for each utterance; there is no digital silence. What an utterance sounds like depends on its id,
    sentence, voice and the seed alone.

    Args:
        out: folder of the corpus; a corpus that is there already is replaced.
        texts: sentences of letters, apostrophes and spaces, in either case; transcripts are in upper case.
        voices: speakers, at least one.
        seed: of silence, loudness, noise and the engine.
        noise_db: lowest and highest level of the background noise, relative to the speech.

    Returns:
        The manifest as saved. Ids are `VOICE-00000`, speakers the voices' names.

    Raises:
        UsageError: no sentences, no voices, or two voices of one name; files of somebody else in `out`.
        InputError: a sentence with other characters, or a voice that the engine does not have.
        HubertkitError: espeak-ng is not installed.
    """
    if not texts or not voices or len({v.name for v in voices}) != len(voices):
        raise UsageError(f"{len(texts)} sentences and {len(voices)} voices to synthesise: at least one of each, "
                         "and voices of different names")
    normal = [_transcript(text) for text in texts]
    plan = [(f"{voices[i % len(voices)].name}-{i:05d}", voices[i % len(voices)], text) for i, text in enumerate(normal)]
    out, partial = Path(out), Path(out, ".partial")
    _refuse_others(out, partial)
    with disk_errors(out):
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "audio").mkdir(parents=True)
        (partial / "alignments").mkdir()
        samples = _write_all(partial, plan, seed, noise_db)
        (out / "manifest.arrow").unlink(missing_ok=True)  # no manifest stands for a corpus that is half replaced
        for part in ("audio", "alignments"):
            shutil.rmtree(out / part, ignore_errors=True)
            os.replace(partial / part, out / part)
    manifest = Manifest.of((Utterance(name, out / "audio" / f"{name}.flac", 0, count, SAMPLE_RATE, 1, voice.name, text)
                            for (name, voice, text), count in zip(plan, samples)), f"{SOURCE}, seed {seed}")
    manifest.save(out / "manifest.arrow")
    with disk_errors(out):
        partial.rmdir()  # now: as long as it is there, the rest is known to be ours
    return manifest


def _refuse_others(out: Path, partial: Path) -> None:
    """Raise UsageError where a folder holds recordings or other files, of the names of a corpus, that are no corpus of
    ours nor left of one that was not finished."""
    try:
        ours = (out / "manifest.arrow").is_file() and Manifest.load(out / "manifest.arrow").source.startswith(SOURCE)
    except HubertkitError:
        ours = False
    for name in () if ours or partial.is_dir() else ("audio", "alignments", "manifest.arrow"):
        if (out / name).exists():
            raise UsageError(f"{out / name}: is there already and of no synthesised speech, so it is left as it is; "
                             "give another folder, or move it away")


def phone_of(name: str) -> str:
    """The phone of one of espeak's phoneme names.

    Stress (`'`, `,`, `%`, `=`) and length (`:`) are dropped, and so are the marks of variants: digits after a letter,
    `#`, `-`, `[`. That leaves some 55 phones for English: t#, t2 and t[ are t; I2 and I# are I. All pauses are `sil`.
    """
    if name.startswith("_"):
        return SILENCE
    bare = name.strip("',%=").replace(":", "")
    if bare in _SAME_PHONE:
        return _SAME_PHONE[bare]
    return re.sub(r"(?<=.)[0-9#\[-]+$", "", bare)


# Variants whose names do not begin with the name of their phone: the glide in "the old", the first vowels of "about"
# and "ask", the triphthong of "fire", the Scottish vowels of "her" and "bird".
_SAME_PHONE = {";": "j", "a#": "@", "aa": "a", "aI3": "aI@", "VR": "3", "IR": "3"}


def _write_all(folder: Path, plan: list[tuple[str, Voice, str]], seed: int, noise_db: tuple[float, float]) -> list[int]:
    """Write audio and alignments; the number of samples of each."""
    requests = [Request(text.lower(), v.language, v.rate_wpm, v.pitch, v.pitch_range, keyed_int(seed, "espeak", name))
                for name, v, text in plan]
    samples = []
    with progress("synthesising", len(plan)) as report:
        for done, ((name, _, _), speech) in enumerate(zip(plan, speak(requests)), 1):
            wave, phones = _recording(speech, keyed(seed, "synthesise", name), noise_db)
            (folder / "audio" / f"{name}.flac").write_bytes(encoded(wave))
            (folder / "alignments" / f"{name}.ctm").write_text(_ctm(name, phones, len(wave)), encoding="utf-8")
            samples.append(len(wave))
            report(done)
    return samples


def _recording(speech: Speech, rng: np.random.Generator,
               noise_db: tuple[float, float]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """(samples,) float32 at 16 kHz with noise around the speech, and the (start in seconds, phone) of every phone."""
    spoken, last = _without_end(speech)
    wave = soxr.resample(spoken.astype(np.float32) / 32_768, speech.rate, SAMPLE_RATE)
    before, after = (int(s * SAMPLE_RATE) for s in rng.uniform(*PAUSE_SECONDS, 2))
    level = 10 ** (rng.uniform(*SPEECH_DBFS) / 20)
    wave *= min(level / np.sqrt(np.mean(wave**2)), PEAK / np.abs(wave).max())
    noise = _noise(rng, before + len(wave) + after)
    noise *= np.sqrt(np.mean(wave**2)) * 10 ** (rng.uniform(*noise_db) / 20)
    noise[before:before + len(wave)] += wave
    lead = before / SAMPLE_RATE
    phones = [(lead + first / speech.rate, phone_of(name)) for first, name in speech.phones if first < last]
    return np.clip(noise, -1, 1).astype(np.float32), [(0.0, SILENCE), *phones, (lead + last / speech.rate, SILENCE)]


def _without_end(speech: Speech) -> tuple[np.ndarray, int]:
    """The samples up to shortly after the last phone, and where that ends."""
    last = len(speech.samples)
    for first, name in reversed(speech.phones):
        if phone_of(name) != SILENCE:
            break
        last = first
    return speech.samples[:last + int(TAIL_SECONDS * speech.rate)], last


def _noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """(samples,) float32 of RMS 1: white noise through a low-pass of first order, as a quiet room is."""
    white = rng.standard_normal(samples + 1, dtype=np.float32)
    smooth = white[1:] + 0.9 * white[:-1]
    return smooth / np.sqrt(np.mean(smooth**2))


def _ctm(name: str, phones: list[tuple[float, str]], samples: int) -> str:
    """The lines of an alignment; neighbouring silences are joined, and a phone of no duration is left out."""
    starts: list[tuple[float, str]] = []
    for (start, phone), (end, _) in zip(phones, [*phones[1:], (samples / SAMPLE_RATE, "")]):
        if round(end, 4) > round(start, 4) and not (phone == SILENCE and starts and starts[-1][1] == SILENCE):
            starts.append((round(start, 4), phone))
    ends = [start for start, _ in starts[1:]] + [samples / SAMPLE_RATE]
    return "".join(f"{name} 1 {start:.4f} {end - start:.4f} {phone}\n" for (start, phone), end in zip(starts, ends))


def _transcript(text: str) -> str:
    words = " ".join(text.upper().split())
    odd = re.search(r"[^A-Z' ]", words)
    if odd or not words.strip("' "):
        what = f"holds {odd.group()!r}" if odd else "has no letters"
        raise InputError(f"the sentence {text!r} {what}; only letters, apostrophes and spaces can be synthesised "
                         "(normalise the text first: numbers in words, no punctuation)")
    return words
