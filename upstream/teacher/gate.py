"""The gate between units and training: labels that do not fit the audio are refused before a single update.

Months have been lost to empty dictionaries, to labels of other audio and to labels at another rate; here each of these
is an error that names the check, the first utterance or class that fails, and how to pass all the same.

    rate      as many labels a second as the encoder has frames
    coverage  every utterance has labels
    counts    one for each frame
    range     none beyond the classes
    unused    every class of a fitted teacher occurs
    share     no class has more than `most_share` of the frames
    teacher   all labels are of one teacher, and of the one that was expected

The last three can be overruled: such labels teach little, but one can train on them. The others cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from upstream.errors import InputError
from upstream.frames import CONV_GRID, KALDI_GRID, FrameGrid, frame_counts
from upstream.teacher.units import Units

OVERRULABLE = ("unused", "share", "teacher")
LABELS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class GateRules:
    """What the gate asks for beyond labels that fit."""

    most_share: float = 0.8  # of frames in one class: a teacher that calls nearly everything alike teaches nothing
    overrule: tuple[str, ...] = ()  # checks that are passed over, of `unused`, `share` and `teacher`

    def __post_init__(self) -> None:
        if not 0 < self.most_share <= 1:
            raise ValueError(f"gate: most_share={self.most_share}, must lie in (0, 1]")
        unknown = [name for name in self.overrule if name not in OVERRULABLE]
        if unknown:
            raise ValueError(f"gate: overrule={unknown[0]}, must be one of {', '.join(OVERRULABLE)}")


class HasIdsAndLengths(Protocol):
    """What the gate asks of a manifest."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def lengths(self) -> np.ndarray: ...


def check_units(units: Units, manifest: HasIdsAndLengths, grid: FrameGrid = CONV_GRID, rules: GateRules | None = None,
                teacher_hash: str | None = None) -> list[np.ndarray]:
    """Check that units fit the recordings, and count the classes.

    Every utterance of the manifest must have exactly one label for each frame of the grid; each stream must have at
    least two classes, use all of them somewhere, and hold no label beyond. Units may hold other utterances too, in any
    order.

    Args:
        teacher_hash: of the teacher that must have made them; None asks for no particular one.

    Returns:
        For each stream (K,) int64: how often each class occurs in the whole store.

    Raises:
        InputError: naming the check, the first utterance that does not fit and how many do not.
    """
    rules = rules or GateRules()
    check_coverage(units, manifest, grid)
    if teacher_hash is not None and units.teacher_hash != teacher_hash and "teacher" not in rules.overrule:
        raise InputError(f"{units.folder}: units of {_teacher(units)}, expected those of teacher {teacher_hash[:12]}; "
                         f"make them again{_overruling('teacher')}")
    return [_histogram(units, stream, rules) for stream in range(len(units.classes))]


def check_coverage(units: Units, manifest: HasIdsAndLengths, grid: FrameGrid = CONV_GRID) -> None:
    """The checks `rate`, `coverage` and `counts` alone. Raises InputError naming the first utterance that fails."""
    if abs(units.rate - grid.rate) > 1e-6:
        raise InputError(f"{units.folder}: units at {units.rate:g} Hz, the encoder has {grid.rate:g} frames a "
                         f"second; make them again at that rate{_final('rate')}")
    ids = manifest.ids
    missing = [i for i in ids if i not in units]
    if missing:
        raise InputError(f"{missing[0]}: no units in {units.folder}{_and_others(len(missing))}"
                         f"{_other_manifest(units, manifest)}; make the units again for all utterances of the manifest"
                         f"{_final('coverage')}")
    _check_counts(units, ids, manifest, grid)


def check_same_teacher(train: Units, valid: Units, rules: GateRules | None = None) -> None:
    """The check `teacher` for units in two folders: both of one teacher, with the same classes and rate.

    Raises:
        InputError: they differ, or nobody knows which teacher made them.
    """
    if (train.classes, train.rate) != (valid.classes, valid.rate):
        raise InputError(f"{valid.folder}: {list(valid.classes)} classes at {valid.rate:g} Hz, {train.folder} has "
                         f"{list(train.classes)} at {train.rate:g} Hz; label both with one teacher{_final('teacher')}")
    if (train.teacher_hash is None or train.teacher_hash != valid.teacher_hash) and \
            "teacher" not in (rules or GateRules()).overrule:
        raise InputError(f"{valid.folder}: units of {_teacher(valid)}, those of {train.folder} are of "
                         f"{_teacher(train)}: class 7 of one is not class 7 of the other; label both with one teacher"
                         f"{_overruling('teacher')}")


def _check_counts(units: Units, ids: list[str], manifest: HasIdsAndLengths, grid: FrameGrid) -> None:
    places = np.fromiter((units.place(i) for i in ids), np.int64, len(ids))
    lengths = manifest.lengths
    found, expected = np.diff(units.offsets)[places], frame_counts(lengths, grid)
    wrong = np.flatnonzero(found != expected)
    if not len(wrong):
        return
    first = int(wrong[0])
    hint = f"the units are of other audio{_other_manifest(units, manifest)}; make them again"
    if found[first] == frame_counts(lengths[first:first + 1], KALDI_GRID)[0]:
        hint = "these are labels at 100 Hz: keep every second one, starting with the first"
    raise InputError(f"{ids[first]}: {found[first]} labels for {lengths[first]} samples, expected {expected[first]}"
                     f"{_and_others(len(wrong))}; {hint}{_final('counts')}")


def _histogram(units: Units, stream: int, rules: GateRules) -> np.ndarray:
    classes, labels = units.classes[stream], units.streams[stream]
    where = f"{units.folder}: stream {stream}" if len(units.classes) > 1 else str(units.folder)
    if classes < 2:
        raise InputError(f"{where}: {classes} class; predicting it teaches nothing, at least 2 are needed"
                         f"{_final('range')}")
    counts = np.zeros(1 << 16, np.int64)
    for block in _blocks(labels):
        counts += np.bincount(block, minlength=len(counts))
    beyond = int(counts[classes:].sum())
    counts = counts[:classes]
    if beyond:
        _refuse_beyond(units, stream, where, beyond)
    unused, fitted = np.flatnonzero(counts == 0), bool(units.meta.get("fitted", True))
    # Nobody promises that random or imported codes are all of use.
    if classes - len(unused) < 2 and (not fitted or "unused" in rules.overrule):
        raise InputError(f"{where}: {classes - len(unused)} of {classes} classes in use; predicting one teaches "
                         f"nothing: are these the features that the centroids were made of?{_final('unused')}")
    if fitted and len(unused) and "unused" not in rules.overrule:
        raise InputError(f"{where}: class {unused[0]} of {classes} never occurs{_and_others(len(unused), 'classes')}; "
                         f"fit the teacher again on these recordings or with fewer clusters{_overruling('unused')}")
    top, total = int(counts.argmax()), int(counts.sum())
    if counts[top] > rules.most_share * total and "share" not in rules.overrule:
        raise InputError(f"{where}: class {top} has {counts[top] / total:.1%} of the frames, at most "
                         f"{rules.most_share:.0%} are expected; is most of the audio silence? Cut it out with "
                         f"`hubertkit corpus segment`, or fit the teacher again{_overruling('share')}")
    return counts


def _refuse_beyond(units: Units, stream: int, where: str, count: int) -> None:
    labels, classes, first = units.streams[stream], units.classes[stream], 0
    for block in _blocks(labels):
        high = np.flatnonzero(block >= classes)
        if len(high):
            first += int(high[0])
            break
        first += len(block)
    owner = units.ids[int(np.searchsorted(units.offsets, first, side="right")) - 1]
    raise InputError(f"{owner}: label {labels[first]} at frame {first} of {where}, which has {classes} classes"
                     f"{_and_others(count, 'labels')}; make the units again{_final('range')}")


def _blocks(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of a memory-mapped stream: 60,000 hours are 11 billion labels."""
    for first in range(0, len(labels), LABELS_AT_ONCE):
        yield labels[first:first + LABELS_AT_ONCE]


def _teacher(units: Units) -> str:
    return f"teacher {units.teacher_hash[:12]}" if units.teacher_hash else "an unknown teacher"


def _other_manifest(units: Units, manifest: HasIdsAndLengths) -> str:
    """Why ids or counts do not fit, where the units say what they were made of."""
    ours = getattr(manifest, "hash", None)
    if ours is None or units.manifest_hash is None or units.manifest_hash == ours:
        return ""
    return f", which were made of manifest {units.manifest_hash[:12]} and not of this one, {ours[:12]}"


def _overruling(check: str) -> str:
    return f"; this is gate check `{check}`, and gate.overrule=[{check}] trains all the same"


def _final(check: str) -> str:
    return f"; this is gate check `{check}`, which cannot be overruled"


def _and_others(count: int, what: str = "utterances") -> str:
    return f" (and {count - 1} more {what} like it)" if count > 1 else ""
