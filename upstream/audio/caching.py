"""Waveforms decoded once: kept in memory, on disk, or both, each within a stated size.

An Opus recording decodes at some 850 audio seconds a second and core and FLAC at some thousands, and every epoch hears
it again; 16-bit samples come back at tens of thousands.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upstream.audio.manifest import Manifest
from upstream.audio.reading import read, read_part
from upstream.errors import UsageError
from upstream.progress import say

GB = 10**9
FULL_SCALE = 32_768  # of 16-bit samples, as libsndfile scales them
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SUM_BYTES = 4


@dataclass(frozen=True)
class CacheRecipe:
    """How much decoded audio is kept, 8.7 hours a GB. Nothing that is computed depends on it."""

    memory_gb: float = 2.0  # in each process, for each corpus: the recordings, noise, those of a probe
    folder: str | None = None  # where to keep it on disk, for all processes and later runs; may be deleted at any time
    disk_gb: float = 100.0  # for each corpus, where there is a folder

    def __post_init__(self) -> None:
        for name in ("memory_gb", "disk_gb"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"cache.{name}={getattr(self, name)}, must be at least 0")

    def open(self, manifest: Manifest) -> AudioCache:
        """The cache of one manifest's waveforms. Raises UsageError where the folder cannot be made or written."""
        disk = None if self.folder is None else DiskCache(manifest, Path(self.folder), int(self.disk_gb * GB))
        return AudioCache(manifest, int(self.memory_gb * GB), disk)


class AudioCache:
    """Waveforms of a manifest, decoded once and kept as 16-bit samples while they fit.

    Every waveform passes through 16 bits, kept or not, so that results do not depend on the limits. 16-bit files come
    back exactly; of others the error is below half a step, below the coding noise of a lossy file. What is kept stays:
    epochs go through everything, so throwing out the oldest would only throw out what is needed next.

    Attributes:
        manifest: whose utterances these are.
    """

    def __init__(self, manifest: Manifest, limit_bytes: int = 2 * GB, disk: DiskCache | None = None) -> None:
        self.manifest = manifest
        self._left, self._disk = limit_bytes, disk
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def wave(self, index: int) -> np.ndarray:
        """(length,) float32 in [-1, 1] at 16 kHz of the utterance at this place. Raises InputError as `read` does."""
        index = int(index)
        samples = self._kept.get(index)
        if samples is None:
            samples = self._fetch(index)
            self._keep(index, samples)
        return _waveform(samples)

    def part(self, index: int, first: int, samples: int) -> np.ndarray:
        """`wave(index)[first:first + samples]`, decoding no more than that of a recording that is not kept: one of an
        hour has hundreds of crops, and all of them would be decoded for each."""
        index = int(index)
        if index not in self._kept and not self._may_keep(index):
            return _waveform(sixteen_bits(read_part(self.manifest[index], first, samples)))
        whole = self._kept.get(index)
        if whole is None:
            whole = self._fetch(index)
            self._keep(index, whole)
        return _waveform(whole[first:first + samples])

    def _may_keep(self, index: int) -> bool:
        """Whether an utterance fits into memory, or is one of those that the disk has or could have."""
        fits = 2 * int(self.manifest.lengths[index]) <= self._left
        return fits or (self._disk is not None and (self._disk.has_room_for(index) or self._disk.has(index)))

    def _fetch(self, index: int) -> np.ndarray:
        samples = None if self._disk is None else self._disk.get(index)
        if samples is None:
            samples = sixteen_bits(read(self.manifest[index]))
            if self._disk is not None:
                self._disk.put(index, samples)
        return samples

    def _keep(self, index: int, samples: np.ndarray) -> None:
        with self._lock:  # a prefetching thread may bring the same utterance at the same time
            if index not in self._kept and samples.nbytes <= self._left:
                self._kept[index] = samples
                self._left -= samples.nbytes


class DiskCache:
    """16-bit samples of a manifest in one sparse file, each utterance at a place of its own: the first ones that fit.

    Named after the manifest's hash, so another corpus has another file. Any number of processes may share it: who
    decodes an utterance writes the same bytes as anyone else. Its checksum, in a second file, is written after it, so a
    killed process, a power cut or a damaged disk costs a decoding and nothing more. A full disk ends the writing, with
    a warning.

    Args:
        manifest: whose utterances.
        folder: made if it is not there.
        limit_bytes: how large the file may grow.

    Raises:
        UsageError: the folder cannot be made or written.
    """

    def __init__(self, manifest: Manifest, folder: Path, limit_bytes: int) -> None:
        folder, lengths = Path(folder), np.asarray(manifest.lengths, np.int64)
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])  # in samples
        self._count = int(np.searchsorted(self._bounds[1:] * 2, limit_bytes, side="right"))
        self._full = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._samples = _opened(folder / f"{manifest.hash[:16]}.s16")
            self._sums = _opened(folder / f"{manifest.hash[:16]}.crc32")
        except OSError as error:
            raise UsageError(f"cache.folder={folder}: cannot be written ({error.strerror}); give another") from error

    def get(self, index: int) -> np.ndarray | None:
        """(length,) int16 of an utterance; None where it has not been kept, or is damaged."""
        if index >= self._count:
            return None
        expected = os.pread(self._sums, _SUM_BYTES, index * _SUM_BYTES)
        if not any(expected):  # beyond the end, or a hole
            return None
        first, end = self._place(index)
        content = os.pread(self._samples, end - first, first)
        return np.frombuffer(content, np.int16) if _sum(content) == expected else None

    def put(self, index: int, samples: np.ndarray) -> None:
        """Keep the (length,) int16 samples of an utterance, if it is one of those that fit."""
        if not self.has_room_for(index):
            return
        content = np.ascontiguousarray(samples).tobytes()
        try:
            if _write(self._samples, content, self._place(index)[0]):
                _write(self._sums, _sum(content), index * _SUM_BYTES)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._full = True
            say("warning: the disk of cache.folder is full; what is not in the cache yet is decoded every time")

    def has(self, index: int) -> bool:
        """Whether an utterance has been kept; whether it is sound only reading it shows."""
        return index < self._count and any(os.pread(self._sums, _SUM_BYTES, index * _SUM_BYTES))

    def has_room_for(self, index: int) -> bool:
        """Whether an utterance is one of those that are kept."""
        return index < self._count and not self._full

    def close(self) -> None:
        """Close the files."""
        os.close(self._samples)
        os.close(self._sums)

    def _place(self, index: int) -> tuple[int, int]:
        return 2 * int(self._bounds[index]), 2 * int(self._bounds[index + 1])


def _waveform(samples: np.ndarray) -> np.ndarray:
    wave = samples.astype(np.float32)
    wave /= FULL_SCALE
    return wave


def sixteen_bits(wave: np.ndarray) -> np.ndarray:
    """(S,) float32 in [-1, 1] as int16, rounded; 1.0 becomes the highest there is."""
    scaled = np.rint(wave * FULL_SCALE)
    return np.minimum(scaled, FULL_SCALE - 1, out=scaled).astype(np.int16)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _write(file: int, content: bytes, place: int) -> bool:
    """Whether all was written; a disk that fills up in the middle says so at the next attempt."""
    return os.pwrite(file, content, place) == len(content)


def _sum(content: bytes) -> bytes:
    """A checksum that is never zero, for zeros are what a hole reads as."""
    return (zlib.crc32(content) or 1).to_bytes(_SUM_BYTES, "little")
