"""From an utterance to its waveform: read the span, mix down, resample to 16 kHz."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import soundfile
import soxr

from upstream.audio.containers import MP3_FORMATS, open_audio, place, reason
from upstream.audio.manifest import Utterance
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE

# After a seek a lossy decoder has no past to predict from. RFC 7845 advises 80 ms for Opus, but at low bit rates its
# long-term prediction forgets slowly: against decoding from the beginning, the worst of 240 spans of 24 kbit/s speech
# was off by 4e-3 after 80 ms, 3.6e-3 after 2 s, 1.8e-3 after 4 s. Five seconds cost some 10 ms to decode.
WARM_UP_SECONDS = 5.0
LOSSY_FORMATS = ("OGG", *MP3_FORMATS)
# What a seek finds in these is what decoding from the beginning finds, to the bit.
EXACT_FORMATS = ("FLAC", "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST")
EXACT_CODINGS = ("PCM_", "FLOAT", "DOUBLE")


def read(utterance: Utterance) -> np.ndarray:
    """The waveform of an utterance.

    Only the span is decoded. Channels are averaged, other rates resampled by soxr (high quality), and what overshoots
    full scale by that is clipped.

    Returns:
        (utterance.length,) float32 in [-1, 1] at 16 kHz.

    Raises:
        InputError: the file is missing, is no audio, has another rate or number of channels than the manifest says,
            ends before the span does, or holds NaN or infinity.
        UsageError: no utterance, but the name of a file for instance.
    """
    if not isinstance(utterance, Utterance):
        raise UsageError(f"utterance={utterance!r:.60}: expected an Utterance of a manifest; read_audio reads a file")
    span = _mixed(utterance, _decode(utterance))
    if utterance.rate != SAMPLE_RATE:
        span = _of_length(soxr.resample(span, utterance.rate, SAMPLE_RATE), utterance.length)
    return np.clip(span, -1.0, 1.0)


def read_part(utterance: Utterance, first: int, samples: int) -> np.ndarray:
    """`read(utterance)[first:first + samples]`, to the bit, without decoding the rest where the file allows for that:
    in FLAC and plain WAV at 16 kHz. A lossy decoder remembers what came before, and so does a resampler.

    Raises:
        InputError: as `read`, but for damage outside the part that was decoded.
    """
    first = min(first, utterance.length)
    if utterance.rate != SAMPLE_RATE or not _seeks_exactly(utterance):
        return read(utterance)[first:first + samples]
    inside = min(samples, utterance.samples - first)
    return read(replace(utterance, start=utterance.start + first, samples=inside))


def _seeks_exactly(utterance: Utterance) -> bool:
    try:
        with open_audio(utterance.audio, utterance.offset, utterance.size) as file:
            return file.format in EXACT_FORMATS and file.subtype.startswith(EXACT_CODINGS)
    except (soundfile.SoundFileError, OSError):
        return False  # `read` says what is wrong with it


def _decode(utterance: Utterance) -> np.ndarray:
    """The span as (samples, channels) float32, at the file's rate."""
    try:
        with open_audio(utterance.audio, utterance.offset, utterance.size) as file:
            _compare(utterance, file)
            warm_up = int(WARM_UP_SECONDS * file.samplerate) if file.format in LOSSY_FORMATS else 0
            first = max(0, utterance.start - warm_up)
            if first >= file.frames:
                return np.empty((0, file.channels), np.float32)  # seeking beyond the end fails in words of its own
            if first:
                file.seek(first)
            found = file.read(utterance.start - first + utterance.samples, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        if not utterance.audio.is_file():
            raise InputError(f"{utterance.id}: {utterance.audio} is not there; was the corpus moved? "
                             "Import it again") from error
        where = place(utterance.audio, utterance.offset, utterance.size)
        raise InputError(f"{utterance.id}: {where} cannot be read as audio ({reason(error, utterance.audio)}); "
                         "replace the file or leave the utterance out") from error
    return found[utterance.start - first:]


def _compare(utterance: Utterance, file: soundfile.SoundFile) -> None:
    if (file.samplerate, file.channels) != (utterance.rate, utterance.channels):
        raise InputError(f"{utterance.id}: {utterance.audio} has {file.samplerate} Hz and {file.channels} channels, "
                         f"the manifest says {utterance.rate} Hz and {utterance.channels}; import the corpus again")


def _mixed(utterance: Utterance, span: np.ndarray) -> np.ndarray:
    """(samples,) float32, the mean of the channels, checked."""
    if len(span) != utterance.samples:
        raise InputError(f"{utterance.id}: {utterance.audio} gives {len(span)} samples from {utterance.start}, "
                         f"{utterance.samples} are expected; the file is cut short or damaged: mend or replace it. If "
                         "it was changed since the corpus was imported, import it again")
    if not np.isfinite(span).all():
        place = int(np.flatnonzero(~np.isfinite(span).all(axis=1))[0]) + utterance.start
        raise InputError(f"{utterance.id}: {utterance.audio} holds NaN or infinity, first at sample {place}; "
                         "replace the file or leave the utterance out")
    return span[:, 0] if span.shape[1] == 1 else span.mean(axis=1, dtype=np.float32)


def _of_length(wave: np.ndarray, length: int) -> np.ndarray:
    """Cut or fill the end by the one sample that rounding may differ."""
    return wave[:length] if len(wave) >= length else np.pad(wave, (0, length - len(wave)))
