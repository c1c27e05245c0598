"""The teacher: centroids, and what frames they were fitted on. It turns recordings into units.

A folder holds `teacher.json` (features read, clusters, sample, seed, inertia, content hash; written last) and
`centroids.npy` (k, d) float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from upstream.errors import FormatError, InputError
from upstream.features.source import Source
from upstream.features.streaming import Read
from upstream.frames import CONV_GRID
from upstream.keyed import keyed
from upstream.stage import disk_errors, read_json, write_json, writing
from upstream.teacher.kmeans import assign, default_engine, fit
from upstream.teacher.units import Units, UnitsWriter

FORMAT = "hubertkit teacher"
VERSION = 1
SAMPLE_FRAMES = 1_000_000

Progress = Callable[[float, float], None]


class Recordings(Protocol):
    """What a teacher asks of a manifest."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def hash(self) -> str: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Teacher:
    """Centroids of frames.

    Attributes:
        centroids: (k, d) float32 on the host.
        features: what the frames are: `Source.describe()`.
        inertia: mean squared distance of a frame of the sample to its centroid.
        fitted: how it was fitted: sample size, seed, iterations, engine, manifest hash.
    """

    centroids: Tensor
    features: dict[str, Any]
    inertia: float
    fitted: dict[str, Any]

    @staticmethod
    def fit(source: Source, manifest: Recordings, clusters: int, *, seed: int, read: Read,
            sample_frames: int = SAMPLE_FRAMES, indices: Sequence[int] | np.ndarray | None = None,
            iterations: int = 30, restarts: int = 1, progress: Progress | None = None) -> Teacher:
        """Fit k-means on a random sample of frames (Hsu et al. 2021, section IV-B).

        Args:
            source: what to cluster; plain features, as in the paper.
            manifest: recordings; `indices` are those of it to sample from, None for all.
            read: gives the waveform of an index, e.g. `AudioCache(manifest).wave`.
            sample_frames: at most so many frames are kept in memory (4 bytes x dimensions each).
            progress: called with (utterances read, utterances to read).

        Raises:
            InputError: too few frames for so many clusters.
        """
        chosen = np.arange(len(manifest)) if indices is None else np.asarray(indices, np.int64)
        sample = draw_sample(source, manifest, chosen, sample_frames, seed, read, progress)
        engine = default_engine(source.device)
        centroids, inertia = fit(sample.to(source.device), clusters, seed, iterations, restarts, engine)
        fitted = {"clusters": clusters, "sample_frames": len(sample), "utterances": len(chosen), "seed": seed,
                  "iterations": iterations, "restarts": restarts, "engine": engine, "manifest_hash": manifest.hash}
        return Teacher(centroids.cpu(), source.describe(), inertia, fitted)

    @property
    def clusters(self) -> int:
        """k."""
        return len(self.centroids)

    @property
    def hash(self) -> str:
        """Content hash of the centroids and of the features that they are centroids of."""
        digest = hashlib.sha256(json.dumps(self.features, sort_keys=True).encode())
        digest.update(str(tuple(self.centroids.shape)).encode())
        digest.update(self.centroids.numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the teacher to a folder; each file under a temporary name first, `teacher.json` last."""
        folder = Path(folder)
        with disk_errors(folder):
            with writing(folder / "centroids.npy") as temporary, temporary.open("wb") as file:
                np.save(file, self.centroids.numpy())
            write_json(folder / "teacher.json", {
                "format": FORMAT, "version": VERSION, "features": self.features, "inertia": self.inertia,
                "fitted": self.fitted, "hash": self.hash})

    @staticmethod
    def load(folder: Path) -> Teacher:
        """Read a teacher. Raises FormatError where there is none, or one that is broken or of another version."""
        folder = Path(folder)
        described = read_json(folder / "teacher.json")
        if not isinstance(described, dict) or (described.get("format"), described.get("version")) != (FORMAT, VERSION):
            raise FormatError(f"{folder / 'teacher.json'}: not a teacher of format version {VERSION}; fit it again")
        try:
            centroids = np.load(folder / "centroids.npy", allow_pickle=False)
            teacher = Teacher(torch.from_numpy(centroids), described["features"], described["inertia"],
                              described["fitted"])
            intact = centroids.dtype == np.float32 and teacher.hash == described["hash"]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{folder}: the teacher cannot be read ({error}); fit it again") from error
        if not intact:
            raise FormatError(f"{folder}: centroids.npy is not what teacher.json was written for; fit it again")
        return teacher

    def label(self, source: Source, manifest: Recordings, folder: Path, *, read: Read,
              progress: Progress | None = None) -> Units:
        """The nearest centroid of every frame of every utterance of a manifest, stored in `folder`.

        The labels of an utterance depend on nothing but its waveform. Units are stored in the manifest's order.

        Args:
            source: the features that the teacher was fitted on.
            read: gives the waveform of an index.
            progress: called with (utterances labelled, utterances).

        Raises:
            InputError: the source gives other features than those the teacher knows, or frames that are not finite.
        """
        self._check(source)
        ids, total = manifest.ids, len(manifest)
        centroids = self.centroids.to(source.device)
        meta = {"teacher_hash": self.hash, "manifest_hash": manifest.hash, "features": self.features}
        with UnitsWriter(folder, (self.clusters,), meta) as writer, torch.inference_mode():
            for done, (index, frames) in enumerate(source.stream(manifest, range(total), read), 1):
                if not bool(torch.isfinite(frames).all()):
                    raise InputError(f"{ids[index]}: features that are not finite; the audio or the encoder is broken")
                writer.add(ids[index], assign(frames, centroids).cpu().numpy())
                if progress is not None:
                    progress(done, total)
        return Units.load(folder)

    def _check(self, source: Source) -> None:
        found = source.describe()
        different = [k for k in sorted(found.keys() | self.features.keys()) if found.get(k) != self.features.get(k)]
        if different:
            says = ", ".join(f"{k} {self.features.get(k)} is now {found.get(k)}" for k in different)
            raise InputError(f"the teacher was fitted on other features: {says}; give it those, or fit a new one")


def draw_sample(source: Source, manifest: Recordings, indices: np.ndarray, frames: int, seed: int, read: Read,
                progress: Progress | None = None) -> Tensor:
    """(n, d) float32 on the host: a random sample of the frames of some utterances, n = frames or all there are.

    Every set of so many frames is equally likely. Which they are is drawn before anything is read, from the lengths
    alone, so only the sample is ever in memory, it does not depend on batches, and utterances without a share are not
    read at all.
    """
    ends = np.cumsum([CONV_GRID.frames(int(n)) for n in manifest.lengths[indices]], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    wanted = min(frames, total)
    drawn = np.sort(keyed(seed, "teacher sample").choice(total, wanted, replace=False, shuffle=False))
    bounds = np.concatenate([[0], np.searchsorted(drawn, ends)])  # drawn[bounds[i]:bounds[i + 1]] are of utterance i
    reading = indices[np.diff(bounds) > 0]
    places = {int(index): place for place, index in enumerate(indices)}
    sample = torch.empty(wanted, source.describe()["dim"])
    for done, (index, found) in enumerate(source.stream(manifest, reading, read), 1):
        place = places[index]
        share = slice(bounds[place], bounds[place + 1])
        rows = torch.from_numpy(drawn[share] - (ends[place] - len(found)))
        sample[share] = found[rows.to(found.device)].cpu()
        if progress is not None:
            progress(done, len(reading))
    return sample
