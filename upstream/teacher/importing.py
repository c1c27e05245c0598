"""Centroids that others have made, as a teacher: `.npy`, or a k-means of scikit-learn as fairseq and textless-lib
publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from upstream.disk import file_hash, load_array
from upstream.errors import FormatError, InputError, UsageError
from upstream.teacher.kmeans import MOST_CLUSTERS
from upstream.teacher.quantiser import Quantiser
from upstream.teacher.teacher import Teacher
from upstream.teacher.unpickling import read_kmeans


def import_centroids(path: Path, features: dict[str, Any]) -> Teacher:
    """A single teacher of centroids in a file. Nothing in the file is run.

    Args:
        path: `.npy` with an array (k, d), or a `KMeans` or `MiniBatchKMeans` written by joblib or pickle.
        features: what they are centroids of, `Source.describe()`: the file does not say, so only the number of
            dimensions can be checked.

    Raises:
        UsageError: no such file.
        FormatError: the file holds neither.
        InputError: centroids of another dimension than the features, not finite, or too many.
    """
    path = Path(path)
    if not path.is_file():
        what = "a teacher already" if (path / "teacher.json").is_file() else "no file of centroids"
        raise UsageError(f"{path}: {what if path.exists() else 'no such file'}")
    centroids = _read_npy(path) if path.suffix == ".npy" else read_kmeans(path)
    if centroids.ndim != 2 or centroids.dtype.kind not in "fiu" or not 1 <= len(centroids) <= MOST_CLUSTERS:
        raise FormatError(f"{path}: {centroids.dtype} of shape {centroids.shape}; expected numbers (clusters, "
                          f"dimensions), at most {MOST_CLUSTERS} clusters")
    if centroids.shape[1] != features["dim"]:
        raise InputError(f"{path}: centroids of {centroids.shape[1]} dimensions, the features have {features['dim']}; "
                         "name the encoder and layer that they were made of")
    if not np.isfinite(centroids).all():
        raise InputError(f"{path}: centroid {int(np.flatnonzero(~np.isfinite(centroids).all(1))[0])} is not finite")
    book = torch.from_numpy(np.ascontiguousarray(centroids, np.float32).copy())
    return Teacher(Quantiser((book,)), features, None,
                   {"clusters": len(book), "imported": path.name, "file_sha256": file_hash(path)})


def _read_npy(path: Path) -> np.ndarray:
    try:
        return load_array(path, mmap_mode="r")  # a size that the file does not have is an error
    except (OSError, EOFError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read as an array ({error})") from error
