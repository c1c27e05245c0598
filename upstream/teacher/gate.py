"""The gate between units and training: labels that do not fit the audio are refused before a single update.

Months have been lost to empty dictionaries, to labels of other audio and to labels at another rate; here each of these
is an error that names the first utterance.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from upstream.errors import InputError
from upstream.frames import CONV_GRID, KALDI_GRID, FrameGrid
from upstream.teacher.units import Units


class Lengths(Protocol):
    """What the gate asks of a manifest."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def lengths(self) -> np.ndarray: ...


def check_units(units: Units, manifest: Lengths, grid: FrameGrid = CONV_GRID) -> list[np.ndarray]:
    """Check that units fit the recordings, and count the classes.

    Every utterance of the manifest must have exactly one label for each frame of the grid; each stream must have at
    least two classes, use all of them somewhere, and hold no label beyond. Units may hold other utterances too, in any
    order.

    Returns:
        For each stream (K,) int64: how often each class occurs in the whole store.

    Raises:
        InputError: naming the first utterance that does not fit and how many do not.
    """
    if abs(units.rate - grid.rate) > 1e-6:
        raise InputError(f"{units.folder}: units at {units.rate:g} Hz, the encoder has {grid.rate:g} frames a "
                         "second; make them again at that rate")
    ids = manifest.ids
    missing = [i for i in ids if i not in units]
    if missing:
        raise InputError(f"{missing[0]}: no units in {units.folder}{_and_others(len(missing))}; make the units again "
                         "for all utterances of the manifest")
    _check_counts(units, ids, manifest.lengths, grid)
    return [_histogram(units, stream) for stream in range(len(units.classes))]


def _check_counts(units: Units, ids: list[str], lengths: np.ndarray, grid: FrameGrid) -> None:
    places = np.fromiter((units.place(i) for i in ids), np.int64, len(ids))
    found = np.diff(units.offsets)[places]
    expected = _frames(lengths, grid)
    wrong = np.flatnonzero(found != expected)
    if not len(wrong):
        return
    first = int(wrong[0])
    hint = "the units are of other audio; make them again"
    if found[first] == _frames(lengths[first:first + 1], KALDI_GRID)[0]:
        hint = "these are labels at 100 Hz: keep every second one, starting with the first"
    raise InputError(f"{ids[first]}: {found[first]} labels for {lengths[first]} samples, expected {expected[first]}"
                     f"{_and_others(len(wrong))}; {hint}")


def _frames(lengths: np.ndarray, grid: FrameGrid) -> np.ndarray:
    """(N,) int64 frames of utterances of `lengths (N,)` samples."""
    different, place = np.unique(lengths, return_inverse=True)
    return np.array([grid.frames(int(n)) for n in different], np.int64)[place]


def _histogram(units: Units, stream: int) -> np.ndarray:
    classes, labels = units.classes[stream], units.streams[stream]
    where = f"{units.folder}: stream {stream}" if len(units.classes) > 1 else str(units.folder)
    if classes < 2:
        raise InputError(f"{where}: {classes} class; predicting it teaches nothing, at least 2 are needed")
    counts = np.bincount(labels, minlength=classes)
    if len(counts) > classes:
        beyond = int(np.flatnonzero(labels >= classes)[0])
        owner = units.ids[int(np.searchsorted(units.offsets, beyond, side="right")) - 1]
        raise InputError(f"{owner}: label {labels[beyond]} at frame {beyond} of {where}, which has {classes} classes"
                         f"{_and_others(int(counts[classes:].sum()), 'labels')}; make the units again")
    unused = np.flatnonzero(counts == 0)
    fitted = bool(units.meta.get("fitted", True))  # nobody promises that random or imported codes are all of use
    if not fitted and classes - len(unused) < 2:
        raise InputError(f"{where}: {classes - len(unused)} of {classes} classes in use; predicting one teaches "
                         "nothing: are these the features that the centroids were made of?")
    if fitted and len(unused):
        raise InputError(f"{where}: class {unused[0]} of {classes} never occurs{_and_others(len(unused), 'classes')}; "
                         "fit the teacher again on these recordings or with fewer clusters")
    return counts


def _and_others(count: int, what: str = "utterances") -> str:
    return f" (and {count - 1} more {what} like it)" if count > 1 else ""
