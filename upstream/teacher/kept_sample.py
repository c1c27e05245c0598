"""What has been read of a long sample, kept on disk until its teacher is there: a kill costs no more than one stretch.

    .sample/0c4d2a...-0-2911.npy    (n, dim) float32: the frames drawn of the first 2911 utterances that a rank reads

All together they are as large as the sample. A short one is not kept at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upstream import ranks
from upstream.disk import TEMPORARY, disk_errors, load_array, save_array, writing
from upstream.stretches import stretches

FOLDER = ".sample"
STRETCH_SECONDS = 36_000.0  # of audio that is read before some of it is kept: as for units (`teacher.STRETCH_SECONDS`)
_STRETCH = re.compile(r"([0-9a-f]{32})-\d+-\d+\.npy")


class KeptSample:
    """The stretches of this rank's part of a sample: utterances that it reads one after another. All ranks make one
    together, or none."""

    def __init__(self, folder: Path, key: str, lengths: np.ndarray, starts: np.ndarray) -> None:
        """
        Args:
            folder: of the teacher; what is kept there of other samples is removed.
            key: of what is read, by `sample_key`: nothing of another key is used.
            lengths: (n,) samples of the utterances that this rank reads.
            starts: (n + 1,) where in the rank's part of the sample the frames of each begin, and end.
        """
        self._folder, self._key, self._starts = folder / FOLDER, key, starts
        found = stretches(lengths, STRETCH_SECONDS)
        self._stretches = found if len(found) > 1 else []
        self._left = [len(rows) for rows in self._stretches]
        self._ends = [rows.stop for rows in self._stretches]
        keys = set(ranks.gather(key))
        ranks.alone(lambda: _remove_kept(self._folder, keys))

    def restore(self, sample: Tensor) -> int:
        """Fill the beginning of this rank's part of the sample with what is kept; gives how many utterances that are.
        What cannot be read is read again, and all after it."""
        for number, rows in enumerate(self._stretches):
            first, last = self._starts[rows.start], self._starts[rows.stop]
            try:
                kept = load_array(self._path(rows))
            except (OSError, EOFError, ValueError):
                return rows.start
            if kept.dtype != np.float32 or kept.shape != (last - first, sample.shape[1]):
                return rows.start
            sample[first:last] = torch.from_numpy(kept)
            self._left[number] = 0
        return self._ends[-1] if self._ends else 0

    def add(self, number: int, sample: Tensor) -> None:
        """Say that the frames of an utterance, by its number among those that this rank reads, are in its sample; keeps
        the stretch that they complete."""
        if not self._stretches:
            return
        place = int(np.searchsorted(self._ends, number, side="right"))
        self._left[place] -= 1
        if self._left[place] == 0:
            rows = self._stretches[place]
            with disk_errors(self._folder), writing(self._path(rows)) as temporary, temporary.open("wb") as file:
                save_array(file, sample[self._starts[rows.start]:self._starts[rows.stop]].numpy())

    def _path(self, rows: range) -> Path:
        return self._folder / f"{self._key}-{rows.start}-{rows.stop}.npy"


def sample_key(features: dict[str, Any], device: str, manifest_hash: str, parts: Sequence[np.ndarray]) -> str:
    """32 hexadecimal digits for what the frames of a sample depend on: the features and where they are made, the
    recordings, and in `parts`, integers, which utterances and frames."""
    digest = hashlib.sha256(json.dumps([features, device, manifest_hash], sort_keys=True).encode())
    for part in parts:
        digest.update(f"{len(part)} ".encode())
        digest.update(np.asarray(part, "<i8").tobytes())
    return digest.hexdigest()[:32]


def forget_sample(folder: Path) -> None:
    """Remove what is kept of a sample in a teacher's folder, once the teacher is there."""
    kept = Path(folder) / FOLDER
    _remove_kept(kept)
    with contextlib.suppress(OSError):  # somebody else's files are in it
        kept.rmdir()


def _remove_kept(folder: Path, keys: Collection[str] = ()) -> None:
    """Remove all stretches in a folder but those of some keys, and what a kill left of one that was being written. A
    folder of that name may be somebody's, and what is in it as well."""
    with disk_errors(folder):
        for path in list(folder.iterdir()) if folder.is_dir() else []:
            stretch = _STRETCH.fullmatch(path.name)
            if TEMPORARY.fullmatch(path.name) or (stretch and stretch[1] not in keys):
                path.unlink(missing_ok=True)
