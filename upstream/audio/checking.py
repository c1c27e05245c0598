"""Decode a whole manifest and say what is wrong with it, before a training run finds out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from upstream.ahead import ahead
from upstream.audio.containers import open_audio, open_bytes
from upstream.audio.corpora.probing import Problem, true_samples
from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.manifest_file import file_bytes, look
from upstream.audio.reading import read
from upstream.control_groups import available_cores
from upstream.errors import InputError, UsageError
from upstream.frames import CONV_GRID, SAMPLE_RATE
from upstream.progress import progress

CLIPPED_LEVEL = 0.999  # of full scale
CLIPPED_SHARE = 0.001  # of the samples; a few at full scale do no harm
THREADS = min(8, available_cores())  # decoding releases the interpreter's lock


def check(manifest: Manifest) -> list[Problem]:
    """Read every utterance, and list what is wrong in the order of the manifest.

    Utterances that cannot be used: missing, unreadable or cut files, another length or rate than the manifest says,
    files that were changed since it was made (by their size, beginning and end, where it holds these), NaN, no samples,
    only zeros, too short for one encoder frame. Remarks on others (`usable`): clipping, another rate than 16 kHz,
    several channels. An utterance with a fault gets no remarks. Raises UsageError for what is no manifest.
    """
    if not isinstance(manifest, Manifest):
        raise UsageError(f"manifest={manifest!r:.60}: expected a Manifest; Manifest.load reads one")
    found: list[Problem] = []
    with progress("checking", len(manifest)) as report:
        for done, problems in enumerate(_in_order(manifest), 1):
            found.extend(problems)
            report(done)
    return found


def check_utterance(utterance: Utterance, size: int | None = None, crc: int | None = None) -> list[Problem]:
    """What is wrong with one utterance, whose file had so many bytes and such a beginning and end, if that is known."""
    fault = _fault(utterance)
    if not isinstance(fault, str):
        fault = _changed(utterance, size, crc) or fault
    if isinstance(fault, str):
        return [Problem(utterance.id, utterance.audio, fault)]
    return [Problem(utterance.id, utterance.audio, what, usable=True) for what in _remarks(utterance, fault)]


def _fault(utterance: Utterance) -> str | np.ndarray:
    """Why an utterance cannot be used, or its waveform."""
    if utterance.samples == 0:
        return "has no samples"
    try:
        wave = read(utterance)
        where = utterance.audio, utterance.offset, utterance.size
        with open_audio(*where) as file, open_bytes(*where) as content:
            there = true_samples(file, *content)
    except InputError as error:
        return str(error).removeprefix(f"{utterance.id}: ")
    if isinstance(there, str):
        return there
    if not wave.any():
        return "is silent: every sample is zero"
    if CONV_GRID.frames(len(wave)) == 0:
        return f"is too short: {len(wave)} samples at 16 kHz, one frame needs {CONV_GRID.least_samples}"
    return wave


def _changed(utterance: Utterance, size: int | None, crc: int | None) -> str | None:
    """That the file is not the one that was imported; it may hold other words then, and its samples still be fine."""
    again = "changed since it was imported; import the corpus again"
    found = file_bytes(str(utterance.audio))
    if utterance.offset is None and size is not None and found != size:
        return f"has {found} bytes, the manifest says {size}: {again}"
    if crc is not None and look(str(utterance.audio), utterance.offset or 0, utterance.size) != crc:
        return f"has other bytes than the manifest says: {again}"
    return None


def _remarks(utterance: Utterance, wave: np.ndarray) -> Iterator[str]:
    clipped = float(np.mean(np.abs(wave) >= CLIPPED_LEVEL))
    if clipped > CLIPPED_SHARE:
        yield f"is clipped: more than {100 * CLIPPED_SHARE:g} % of the samples are at full scale"
    if utterance.rate != SAMPLE_RATE:
        yield f"has {utterance.rate} Hz and is resampled to {SAMPLE_RATE} Hz when read"
    if utterance.channels > 1:
        yield f"has {utterance.channels} channels, which are averaged when read"


def _in_order(manifest: Manifest) -> Iterator[list[Problem]]:
    """`check_utterance` of each utterance on several threads."""
    return ahead(lambda row: check_utterance(row[0], *row[1]), zip(manifest, manifest.looks()), THREADS)
