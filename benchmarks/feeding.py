"""How fast recordings become batches: decoding, the caches, and the crops of pretraining, on one thread and on two.

    hubertkit bench feeding RECORDINGS --out feeding.json

The recordings are written as FLAC, WAV and, where libsndfile can, Opus (its default bit rate), so that formats compare
on the same speech, and read from the page cache. Crops are those of HuBERT BASE.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from upstream.audio.batches import CropPlan, crop_frames
from upstream.audio.caching import AudioCache, DiskCache, sixteen_bits
from upstream.audio.manifest import Manifest, Utterance
from upstream.audio.reading import read
from upstream.disk import disk_errors
from upstream.errors import InputError
from upstream.frames import SAMPLE_RATE, frame_counts
from upstream.model.config import EncoderConfig
from upstream.model.masking import SpanMask
from upstream.pretrain_crops import CropReader
from upstream.progress import say
from upstream.training.loop import TrainingRecipe

GOAL = 2000.0  # audio seconds a second and core, from FLAC
REPEATS = 5
LEAST_SECONDS = 2.0
ROOM = 1 << 40  # bytes: more than is there
FORMATS: dict[str, dict[str, Any]] = {"flac": {}, "wav": {"subtype": "PCM_16"},
                                      "opus": {"format": "OGG", "subtype": "OPUS"}}


def run(recordings: Manifest, minutes: float = 30.0, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Rows for a results file.

    Args:
        recordings: what to read; the first `minutes` of them are used.

    Returns:
        Rows of `what` (`decode`: whole utterances; `crops`: pretraining's micro-batches, masks and all), `source` (a
        format, or a cache: `memory`, `disk`), `threads`, `audio_seconds_per_second` (median; of all threads together)
        and `goal` where there is one. Beside them `minutes` and `discarded`, the share of all recordings that an
        epoch of crops does not hear.

    Raises:
        InputError: none of the recordings is long enough for a crop.
    """
    chosen = _first(recordings, minutes * 60)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="feeding-") as made:
        for name, options in FORMATS.items():
            try:
                manifest = _written(chosen, Path(made) / name, options)
            except soundfile.SoundFileError as error:
                say(f"{name}: left out, this libsndfile cannot write it ({error})")
                continue
            say(f"{name}: {manifest.seconds / 60:.0f} min")
            rows += _decoding(name, manifest)
            rows.append(_row("crops", name, 1, _crops_rate(AudioCache(manifest, 0))))
            if name == "flac":
                rows += _caches(manifest, Path(made) / "cache")
    for row in rows:
        if row["source"] == "flac":
            row["goal"] = GOAL * row["threads"]
    return {"benchmark": "feeding", "minutes": round(chosen.seconds / 60, 1),
            "discarded": round(_plan(recordings).discarded(), 4), "rows": rows}


def _decoding(name: str, manifest: Manifest) -> Iterator[dict[str, Any]]:
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            yield _row("decode", name, threads,
                       _rate(manifest.seconds, lambda: [None for _ in pool.map(_decoded, manifest)]))


def _decoded(utterance: Utterance) -> None:
    read(utterance)


def _caches(manifest: Manifest, folder: Path) -> Iterator[dict[str, Any]]:
    kept = {"memory": AudioCache(manifest, ROOM), "disk": AudioCache(manifest, 0, DiskCache(manifest, folder, ROOM))}
    for name, cache in kept.items():
        _heard(cache)
        yield _row("decode", name, 1, _rate(manifest.seconds, partial(_heard, cache)))
        yield _row("crops", name, 1, _crops_rate(cache))


def _heard(cache: AudioCache) -> None:
    for index in range(len(cache.manifest)):
        cache.wave(index)


def _crops_rate(audio: AudioCache) -> list[float]:
    """Rates of an epoch of micro-batches, decoded, cropped, masked and stacked."""
    recipe = TrainingRecipe(batch_seconds=87.5, micro_batch_seconds=87.5, least_seconds=LEAST_SECONDS)
    manifest = audio.manifest
    reader = CropReader(manifest, np.arange(len(manifest)), np.arange(0), EncoderConfig(), recipe, SpanMask(), 0,
                        audio=audio)
    updates = len(_plan(manifest).epoch(0))
    rates = []
    for _ in range(REPEATS):
        began, seconds = time.perf_counter(), 0.0
        for _, [crops] in zip(range(updates), reader.updates(1)):
            seconds += crops.seconds
        rates.append(seconds / (time.perf_counter() - began))
    return rates


def _plan(manifest: Manifest) -> CropPlan:
    config, recipe = EncoderConfig(), TrainingRecipe()
    grid = config.grid
    return CropPlan(frame_counts(np.asarray(manifest.lengths), grid), crop_frames(grid, recipe.crop_seconds),
                    crop_frames(grid, LEAST_SECONDS), int(87.5 * grid.rate), 1, 0)


def _rate(seconds: float, work: Callable[[], Any]) -> list[float]:
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        rates.append(seconds / (time.perf_counter() - began))
    return rates


def _row(what: str, source: str, threads: int, rates: list[float]) -> dict[str, Any]:
    return {"what": what, "source": source, "threads": threads,
            "audio_seconds_per_second": round(float(np.median(rates))),
            "lowest": round(min(rates)), "highest": round(max(rates))}


def _first(manifest: Manifest, seconds: float) -> Manifest:
    """The first utterances that are long enough for a crop, until there are so many seconds."""
    lengths = np.asarray(manifest.lengths)
    fit = np.flatnonzero(lengths >= LEAST_SECONDS * SAMPLE_RATE)
    if not len(fit):
        raise InputError(f"no recording of at least {LEAST_SECONDS:g} s; bring longer ones")
    enough = 1 + int(np.searchsorted(np.cumsum(lengths[fit]), seconds * SAMPLE_RATE))
    return manifest.select(fit[:enough].tolist())


def _written(manifest: Manifest, folder: Path, options: dict[str, Any]) -> Manifest:
    """The same utterances as files of one format, 16 kHz, mono. Raises SoundFileError where there is no such format;
    the files are made in memory, for soundfile says the same of a full disk."""
    folder.mkdir()
    found = []
    for number, utterance in enumerate(manifest):
        path = folder / f"{number}.{'ogg' if options.get('format') == 'OGG' else folder.name}"
        file = io.BytesIO()
        soundfile.write(file, sixteen_bits(read(utterance)), SAMPLE_RATE, **{"format": folder.name, **options})
        with disk_errors(path):
            path.write_bytes(file.getvalue())
        found.append(replace(utterance, audio=path, start=0, samples=utterance.length, rate=SAMPLE_RATE, channels=1,
                             offset=None, size=None))
    return Manifest.of(found, manifest.source)
