"""The teacher: codebooks, and what frames they were fitted on. It turns recordings into units.

A folder holds `teacher.json` (features read, clusters, sample, seed, inertia, content hash; written last) and
`centroids.npy` (k, d) float32; of a teacher with several streams `centroids0.npy`, `centroids1.npy`, ...; and `pca.npy`
where a linear map (PCA, whitening, random projection) comes first: its mean, then its rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upstream import ranks
from upstream.disk import (
    check_json,
    disk_errors,
    json_text,
    load_array,
    path_given,
    read_json,
    save_array,
    writing_together,
)
from upstream.errors import FormatError, InputError, UsageError
from upstream.features.source import Source
from upstream.features.streaming import Read
from upstream.frames import CONV_GRID
from upstream.headers import parts_held, refuse_other_files, unfinished
from upstream.places import places
from upstream.stretches import remove_stretches, stretch_folder, stretches
from upstream.teacher.kmeans import default_engine
from upstream.teacher.projection import Projection
from upstream.teacher.quantiser import Kind, Quantiser, check_clusters, fit_quantiser, random_quantiser, total_inertia
from upstream.teacher.sampling import (
    Progress,
    Recordings,
    draw_sample,
    draw_utterances,
    refuse_broken,
    sample_size,
)
from upstream.teacher.units import Units, UnitsWriter, holds, join

KIND = "teacher"
FORMAT = f"hubertkit {KIND}"
VERSION = 1
PROJECTION = "pca.npy"
SAMPLE_FRAMES = 1_000_000
SAMPLE_WITHIN = 20.0  # times as many frames are heard, of 960 hours 111: HuBERT's own teachers of layers hear a tenth
STRETCH_SECONDS = 36_000.0  # of audio that is labelled before some of it is kept: half an hour of two cores with BASE
ONE_PROCESS = 8 << 30  # bytes of a sample that one of several processes may hold: twice the default's for LARGE

__all__ = ["Recordings", "Teacher", "draw_sample"]


@dataclass(frozen=True)
class Teacher:
    """Codebooks of frames.

    Attributes:
        quantiser: the codebooks, on the host.
        features: what the frames are: `Source.describe()`.
        inertia: mean squared distance of a frame of the sample to what its labels stand for (`total_inertia`); None
            where nothing was fitted, or nobody knows.
        fitted: how it was fitted: sample size, seed, iterations, engine, manifest hash.
    """

    quantiser: Quantiser
    features: dict[str, Any]
    inertia: float | None
    fitted: dict[str, Any]

    @staticmethod
    def fit(source: Source, manifest: Recordings, clusters: int | Sequence[int], *, seed: int, read: Read,
            sample_frames: int = SAMPLE_FRAMES, indices: Sequence[int] | np.ndarray | None = None,
            iterations: int = 30, restarts: int = 1, progress: Progress | None = None, kind: Kind | None = None,
            pca: int = 0, whiten: bool = False, sample_within: float = SAMPLE_WITHIN,
            keep: Path | None = None) -> Teacher:
        """Fit k-means on a random sample of frames (Hsu et al. 2021, section IV-B).

        Several ranks read the sample together. On CPUs the first one clusters it, as a process alone would: that takes
        far less time than the reading. Where they have GPUs, or the sample is more than `ONE_PROCESS` bytes, each keeps
        what it has read, and they cluster it together (`lloyd`); how many they are changes nothing but, rarely, a last
        bit.

        Args:
            source: what to cluster; plain features, as in the paper.
            manifest: recordings; `indices` are those of it to sample from, or a mask over all; None for all.
            clusters: one number, or one for each stream.
            read: gives the waveform of an index, e.g. `AudioCache(manifest).wave`.
            sample_frames: at most so many frames are kept in memory (4 bytes x dimensions each).
            progress: called with (utterances read, utterances to read).
            kind: see `quantiser`; None is `single` for one number of clusters and `ensemble` for several.
            pca: cluster so many principal components of the frames; 0 for the frames themselves.
            whiten: give the components unit variance; all of them unless `pca` says how many.
            sample_within: the sample is of utterances with so many times its frames, drawn first, and only these are
                read (`draw_utterances`); of all where there are no more, or for 0.
            keep: a folder where what has been read of a long sample is kept; `forget_sample` removes it from there,
                once the teacher is saved.

        Raises:
            UsageError: a kind and clusters that do not go together; `sample_within` between 0 and 1.
            InputError: too few frames for so many clusters, or frames of an utterance that are not finite.
        """
        numbers = _numbers(clusters)
        kind = kind or ("single" if len(numbers) == 1 else "ensemble")
        if kind == "random":
            if pca or whiten:
                raise UsageError("kind=random draws its projection and fits nothing; leave out pca and whiten")
            return Teacher.random(source, numbers, seed=seed)
        check_clusters(numbers, kind)
        given = np.arange(len(manifest)) if indices is None else places(indices, len(manifest), once=True)
        chosen = draw_utterances(manifest, given, sample_frames, seed, sample_within)
        frames = sample_size(manifest, chosen, sample_frames)
        together = ranks.count() > 1 and (source.device.type != "cpu" or
                                          4 * frames * source.describe()["dim"] > ONE_PROCESS)
        sample = draw_sample(source, manifest, chosen, sample_frames, seed, read, progress, together, keep)

        def cluster() -> tuple[Quantiser, tuple[float, ...], str]:
            engine = default_engine(source.device)
            return *fit_quantiser(sample.to(source.device), numbers, kind, seed, iterations, restarts, engine, pca,
                                  whiten), engine

        quantiser, inertias, engine = cluster() if together else ranks.alone(cluster)
        fitted: dict[str, Any] = {
            "clusters": numbers[0] if isinstance(clusters, int | np.integer) else list(numbers),
            "sample_frames": int(frames), "utterances": len(chosen), "seed": int(seed), "iterations": iterations,
            "restarts": restarts, "engine": engine, "ranks": ranks.count() if together else 1,
            "manifest_hash": manifest.hash}
        if len(chosen) < len(given):
            fitted |= {"sample_within": float(sample_within), "utterances_given": len(given)}
        if len(numbers) > 1:
            fitted["inertias"] = list(inertias)
        if quantiser.projection is not None:
            fitted |= {"pca": len(quantiser.projection.matrix), "whiten": whiten}
        return Teacher(quantiser, source.describe(), total_inertia(kind, inertias), fitted)

    @staticmethod
    def random(source: Source, clusters: int | Sequence[int], *, seed: int) -> Teacher:
        """The teacher of BEST-RQ: random projections to 16 dimensions and random codes, drawn from the seed alone."""
        numbers = _numbers(clusters)
        described = source.describe()
        return Teacher(random_quantiser(described["dim"], numbers, seed), described, None,
                       {"clusters": list(numbers), "seed": int(seed)})

    @property
    def kind(self) -> Kind:
        """How its codebooks share a frame."""
        return self.quantiser.kind

    @property
    def classes(self) -> tuple[int, ...]:
        """K of each stream."""
        return self.quantiser.classes

    @property
    def centroids(self) -> Tensor:
        """(k, d) float32 of the first stream."""
        return self.quantiser.codebooks[0]

    @property
    def clusters(self) -> int:
        """k of the first stream."""
        return self.classes[0]

    @property
    def hash(self) -> str:
        """Content hash of the codebooks and of the features that they are codebooks of."""
        digest = hashlib.sha256(json.dumps(self.features, sort_keys=True).encode())
        for book in self.quantiser.codebooks:
            digest.update(str(tuple(book.shape)).encode())
            digest.update(book.numpy().astype("<f4").tobytes())
        if self.kind != "single":
            digest.update(self.kind.encode())
        if self.quantiser.projection is not None:
            digest.update(b"pca" + self.quantiser.projection.as_array().astype("<f4").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the teacher to a folder, all files under temporary names first: a full disk leaves the teacher that was
        there. Raises UsageError for `fitted` or `features` that JSON cannot hold."""
        folder = Path(folder)
        books, projection = self.quantiser.codebooks, self.quantiser.projection
        arrays = {name: book.numpy() for name, book in zip(_codebook_files(len(books)), books)}
        if projection is not None:
            arrays[PROJECTION] = projection.as_array()
        described: dict[str, Any] = {"format": FORMAT, "version": VERSION, "features": self.features,
                                     "inertia": self.inertia, "fitted": self.fitted, "hash": self.hash}
        if self.kind != "single" or projection is not None:
            described |= {"kind": self.kind, "codebooks": len(books), "pca": projection is not None}
        check_json(described, folder / "teacher.json")
        with disk_errors(folder), unfinished(folder):
            held = parts_held(folder / "teacher.json", KIND, _parts) or []
            with writing_together([folder / name for name in (*arrays, "teacher.json")]) as temporaries:
                for temporary, array in zip(temporaries, arrays.values()):
                    with temporary.open("wb") as file:
                        save_array(file, array)
                temporaries[-1].write_text(json_text(described), encoding="utf-8")
            for left in {*held} - {*arrays, "teacher.json"}:
                (folder / left).unlink(missing_ok=True)  # of a teacher that the folder held before

    @staticmethod
    def load(folder: Path) -> Teacher:
        """Read a teacher. Raises FormatError where there is none, or one that is broken or of another version."""
        folder = path_given(folder, "folder")
        described = read_json(folder / "teacher.json")
        if not isinstance(described, dict) or (described.get("format"), described.get("version")) != (FORMAT, VERSION):
            raise FormatError(f"{folder / 'teacher.json'}: not a teacher of format version {VERSION}; fit it again")
        try:
            names = _codebook_files(int(described.get("codebooks", 1)))
            books = [load_array(folder / name) for name in names]
            projection = Projection.from_array(load_array(folder / PROJECTION)) \
                if described.get("pca") else None
            quantiser = Quantiser(tuple(map(torch.from_numpy, books)), described.get("kind", "single"), projection)
            check_clusters(quantiser.classes, quantiser.kind)
            teacher = Teacher(quantiser, described["features"], described["inertia"], described["fitted"])
            intact = all(b.dtype == np.float32 for b in books) and teacher.hash == described["hash"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, UsageError) as error:
            raise FormatError(f"{folder}: the teacher cannot be read ({error}); fit it again") from error
        if not intact:
            raise FormatError(f"{folder}: {names[0]} is not what teacher.json was written for; fit it again")
        return teacher

    def label(self, source: Source, manifest: Recordings, folder: Path, *, read: Read,
              progress: Progress | None = None) -> Units:
        """The labels of every frame of every utterance of a manifest, a stream for each codebook, stored in `folder`.

        The labels of an utterance depend on nothing but its waveform. Units are stored in the manifest's order. Ranks
        make them in stretches, in folders of their own in `folder`, which the first one puts together: stretches that
        were done before a kill are kept, and nothing is done where `folder` holds these units.

        Args:
            source: the features that the teacher was fitted on.
            read: gives the waveform of an index.
            progress: called with (utterances labelled, utterances to label) of this rank.

        Raises:
            InputError: the source gives other features than those the teacher knows, or frames that are not finite.
        """
        self.check(source)
        folder = Path(folder)
        if not ranks.alone(lambda: holds(folder, manifest.ids, self.provenance(manifest))):
            self._label_stretches(source, manifest, folder, read, progress)
        ranks.alone(lambda: remove_stretches(folder))
        return Units.load(folder)

    def _label_stretches(self, source: Source, manifest: Recordings, folder: Path, read: Read,
                         progress: Progress | None) -> None:
        ids, provenance = manifest.ids, self.provenance(manifest)
        own = stretches(manifest.lengths, STRETCH_SECONDS, range(len(manifest))[ranks.divide(manifest.lengths)])
        if ranks.first() and not own:
            own = [range(0)]  # units of nothing are units
        everyones = [rows for found in ranks.gather(own) for rows in found]
        places = {rows: stretch_folder(folder, rows) if len(everyones) > 1 else folder for rows in everyones}
        left = [rows for rows in own if not holds(places[rows], ids[rows.start:rows.stop], provenance)]
        done, total = 0, sum(map(len, left))
        quantiser = self.quantiser.to(source.device)
        for rows in left:
            with UnitsWriter(places[rows], self.classes, provenance) as writer, torch.inference_mode():
                for index, frames in source.stream(manifest, rows, read):
                    refuse_broken(manifest, index, frames)
                    writer.add(ids[index], *(labels.cpu().numpy() for labels in quantiser.labels(frames)))
                    done += 1
                    if progress is not None:
                        progress(done, total)
        ranks.gather(None)  # all have finished theirs
        if len(everyones) > 1:
            ranks.alone(lambda: join(list(places.values()), folder))

    def provenance(self, manifest: Recordings) -> dict[str, Any]:
        """What units of this teacher say of themselves, as JSON values."""
        return {"teacher_hash": self.hash, "manifest_hash": manifest.hash, "features": self.features,
                "encoder_hash": self.features.get("encoder"), "layer": self.features.get("layer"),
                "normalize": bool(self.features.get("normalize")), "hop": CONV_GRID.hop, "kind": self.kind,
                "fitted": self.inertia is not None}

    def check(self, source: Source) -> None:
        """Raises InputError where a source gives other features than those the teacher was fitted on."""
        found = source.describe()
        different = [k for k in sorted(found.keys() | self.features.keys()) if found.get(k) != self.features.get(k)]
        if different:
            says = ", ".join(f"{k} {_brief(self.features.get(k))} is now {_brief(found.get(k))}" for k in different)
            raise InputError(f"the teacher was fitted on other features: {says}; give it those, or fit a new one")


def refuse_others(folder: Path, codebooks: int, projection: bool = False) -> None:
    """Raise UsageError where a teacher of so many codebooks, with or without a linear map before them, would be written
    over files of somebody else: see `refuse_other_files`."""
    refuse_other_files(folder / "teacher.json", KIND, _parts, _files(codebooks, projection))


def _numbers(clusters: int | Sequence[int]) -> tuple[int, ...]:
    """Of each stream, as Python's own integers, which JSON can hold."""
    return (int(clusters),) if isinstance(clusters, int | np.integer) else tuple(map(int, clusters))


def _brief(value: Any) -> str:
    """A value as a message gives it: hashes (several are joined by a plus) by their beginnings."""
    return re.sub(r"\b[0-9a-f]{64}\b", lambda found: found[0][:12], str(value))


def _parts(described: dict[str, Any]) -> list[str]:
    return _files(int(described.get("codebooks", 1)), bool(described.get("pca")))


def _files(codebooks: int, projection: bool) -> list[str]:
    return [*_codebook_files(codebooks), *[PROJECTION] * projection]


def _codebook_files(count: int) -> list[str]:
    return ["centroids.npy"] if count == 1 else [f"centroids{i}.npy" for i in range(count)]
