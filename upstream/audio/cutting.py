"""Utterances as files of their own, on disk or in memory, for programs that read whole files at 16 kHz only."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from upstream.audio.caching import sixteen_bits
from upstream.audio.corpora.probing import Entry, probe
from upstream.audio.file_names import fitting
from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.reading import read
from upstream.disk import disk_errors
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.locks import filling, is_taken
from upstream.progress import progress


def cut_audio(manifest: Manifest, folder: Path, suffix: str = ".flac") -> Manifest:
    """Write each utterance to `ID.flac` in a new folder (16 kHz, one channel, 16 bits), and give the manifest of those.

    An id too long for a file's name is cut (`file_names.fitting`).

    Raises:
        UsageError: the folder is there already and holds something.
        BusyError: another process writes it.
        InputError: an utterance cannot be read; nothing is left then.
    """
    folder = Path(folder).absolute()
    if is_taken(folder):
        raise UsageError(f"{folder}: is there already; give another folder to export to")
    with disk_errors(folder), filling(folder) as unfinished:
        names = [_write(utterance, unfinished, suffix) for utterance in reported(manifest)]
    whole = (replace(u, audio=folder / name, start=0, samples=u.length, rate=SAMPLE_RATE, channels=1, offset=None,
                     size=None) for u, name in zip(manifest, names))
    return Manifest.of(whole, manifest.source)


def flac(utterance: Utterance) -> bytes:
    """An utterance as a FLAC file in memory: 16 kHz, one channel, 16 bits. Raises InputError if it cannot be read."""
    return encoded(sixteen_bits(read(utterance)))


def encoded(samples: np.ndarray, suffix: str = ".flac") -> bytes:
    """(S,) int16, or float32 in [-1, 1], as a file in memory: 16 kHz, 16 bits. soundfile writes files, too, but
    does not say where the disk is full, or cuts them short in silence."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format=suffix[1:].upper(), subtype="PCM_16")
    return file.getvalue()


def refuse_parts(manifest: Manifest) -> None:
    """Raise InputError naming the first utterance that is not a whole file at 16 kHz, and how to make it one."""
    for u, info in zip(manifest, probe(Entry(u.id, u.audio, offset=u.offset, size=u.size) for u in manifest)):
        if isinstance(info, str):
            raise InputError(f"{u.id}: {u.audio}: {info}")
        what = (f"lies inside {u.audio}" if u.offset is not None else
                f"is {u.samples} of the {info.frames} samples of {u.audio}" if u.samples != info.frames else
                f"has {u.rate} Hz" if u.rate != SAMPLE_RATE else None)
        if what:
            raise InputError(f"{u.id}: {what}; fairseq reads whole files at {SAMPLE_RATE} Hz: write each utterance "
                             "as one first (--cut-audio)")


def _write(utterance: Utterance, folder: Path, suffix: str) -> str:
    quoted = quote(utterance.id, safe="")
    if not quoted.strip("."):  # whoever reads `...flac` sees no suffix
        quoted = quoted.replace(".", "%2E")
    name = fitting(quoted) + suffix
    (folder / name).write_bytes(encoded(sixteen_bits(read(utterance)), suffix))
    return name


def reported(manifest: Manifest) -> Iterator[Utterance]:
    """The utterances, with progress on what is written of them."""
    with progress("writing audio", len(manifest)) as report:
        for done, utterance in enumerate(manifest, 1):
            yield utterance
            report(done)
