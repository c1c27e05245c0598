"""How much units say about phones: the "metrics of target quality" of Hsu et al. 2021 (purities and PNMI).

Our rule: at 50 Hz, each frame counts once, its phone is the one at the frame's centre, all kinds of silence are one
class, and utterances without an alignment are left out. All figures are also given for the frames of speech alone,
because the share of silence differs from corpus to corpus. `reference_pairs` gives fairseq's rule instead.

Purities rise with the number of classes by themselves: compare at equal numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from upstream.errors import InputError
from upstream.frames import CONV_GRID
from upstream.teacher.alignments import SILENCE, AlignmentFile, phones_at_frames, warn_of_pauses, warn_of_words
from upstream.teacher.units import Units


@dataclass(frozen=True)
class Figures:
    """What a table of phones against clusters says; 0 log 0 = 0, entropies in nats.

    Attributes:
        phone_purity: share of frames that carry the commonest phone of their cluster.
        cluster_purity: share of frames that carry the commonest cluster of their phone.
        pnmi: mutual information over the entropy of phones; 0 where there is one phone only.
        frames: compared.
    """

    phone_purity: float
    cluster_purity: float
    pnmi: float
    mutual_information: float
    phone_entropy: float
    cluster_entropy: float
    frames: int


@dataclass(frozen=True)
class Quality:
    """Figures of units, with silence as one class and without silence, and what else shows a bad teacher.

    Attributes:
        overall, speech: figures of all frames, and of those whose phone is not silence (None if there are none).
        phones: names of the rows of `table`, `SIL` first if it is there.
        table: (phones, classes) int64, frames.
        dead: classes that no compared frame carries.
        phone_run, cluster_run: mean frames for which a phone, a cluster stays the same.
        utterances, missing: compared; without an alignment.
        rate: frames a second (Hz).
    """

    overall: Figures
    speech: Figures | None
    phones: tuple[str, ...]
    table: np.ndarray
    dead: tuple[int, ...]
    phone_run: float
    cluster_run: float
    utterances: int
    missing: int
    rate: float = CONV_GRID.rate

    @property
    def units_per_second(self) -> float:
        """Runs of equal labels in a second of speech and silence: the rate of collapsed units (Hz)."""
        return self.rate / self.cluster_run if self.cluster_run else 0.0

    @property
    def phone_purity(self) -> float:
        return self.overall.phone_purity

    @property
    def cluster_purity(self) -> float:
        return self.overall.cluster_purity

    @property
    def pnmi(self) -> float:
        return self.overall.pnmi

    @property
    def frames(self) -> int:
        return self.overall.frames

    def as_json(self) -> dict[str, Any]:
        """All figures as plain values, without the table."""
        return {**asdict(self.overall), "without_silence": asdict(self.speech) if self.speech else None,
                "phones": list(self.phones), "classes": self.table.shape[1], "dead_classes": list(self.dead),
                "phone_run_frames": self.phone_run, "cluster_run_frames": self.cluster_run,
                "units_per_second": self.units_per_second, "utterances": self.utterances,
                "utterances_without_alignment": self.missing}


class HasIds(Protocol):
    """What is asked of a manifest here."""

    @property
    def ids(self) -> list[str]: ...


def quality(units: Units, alignments: Mapping[str, AlignmentFile], manifest: HasIds | None = None, stream: int = 0,
            progress: Callable[[float, float], None] | None = None) -> Quality:
    """Compare stored units with phone alignments.

    Args:
        units: at 50 Hz.
        alignments: {utterance id: file}, as `find_alignments` gives them. Labels that look like words are warned of.
        manifest: look at its utterances only.
        stream: which labels.

    Raises:
        InputError: no utterance has both units and an alignment, or an alignment is longer than its recording.
    """
    return quality_of_streams(units, alignments, manifest, [stream], progress)[0]


def quality_of_streams(units: Units, alignments: Mapping[str, AlignmentFile], manifest: HasIds | None = None,
                       streams: Sequence[int] | None = None,
                       progress: Callable[[float, float], None] | None = None) -> list[Quality]:
    """As `quality`, of several streams, or all, against the same phones: alignments are read once."""
    ids = units.ids if manifest is None else manifest.ids
    both = [i for i in ids if i in alignments and i in units]
    if not both:
        example = f" (units of {ids[0]}, alignment of {next(iter(alignments))})" if ids and alignments else ""
        raise InputError(f"{units.folder}: no utterance has both units and an alignment{example}; "
                         "files must be named for the utterances: ID.TextGrid or ID.ctm")
    wanted = range(len(units.classes)) if streams is None else streams
    phones: list[np.ndarray] = []
    labels: list[list[np.ndarray]] = [[] for _ in wanted]
    for done, utterance_id in enumerate(both, 1):
        for of_stream, stream in zip(labels, wanted):
            of_stream.append(np.asarray(units.labels(utterance_id, stream)))
        phones.append(phones_at_frames(alignments[utterance_id], len(labels[0][-1]), whole=True))
        if progress is not None:
            progress(done, len(both))
    found = [quality_of_utterances(phones, of_stream, units.classes[stream], len(ids) - len(both), units.rate)
             for of_stream, stream in zip(labels, wanted)]
    warn_of_words(found[0].phones)
    warn_of_pauses(phones)
    return found


def quality_of_utterances(phones: list[np.ndarray], labels: list[np.ndarray], clusters: int,
                          missing: int = 0, rate: float = CONV_GRID.rate) -> Quality:
    """As `quality`, for phones and labels of the same frames, `rate` a second, an array (T,) for each utterance."""
    all_phones = np.concatenate(phones) if phones else np.empty(0, "<U1")
    all_labels = np.concatenate(labels) if labels else np.empty(0, np.int64)
    names, table = count_pairs(all_phones, all_labels, clusters)
    spoken = np.array([name != SILENCE for name in names], bool)
    return Quality(
        overall=figures(table),
        speech=figures(table[spoken]) if table[spoken].sum() else None,
        phones=names, table=table, dead=tuple(np.flatnonzero(table.sum(0) == 0).tolist()),
        phone_run=mean_run(phones), cluster_run=mean_run(labels), utterances=len(phones), missing=missing,
        rate=rate)


def quality_of_frames(phones: np.ndarray, labels: np.ndarray, clusters: int) -> Quality:
    """As `quality`, for the frames of one long utterance.

    Args:
        phones: (n,) strings.
        labels: (n,) integers in [0, clusters).
    """
    return quality_of_utterances([phones], [labels], clusters)


def count_pairs(phones: np.ndarray, labels: np.ndarray, clusters: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Phones in alphabetical order, silence first, and (phones, clusters) int64: frames of each pair.

    Raises InputError where the two do not fit each other, or a label is not in [0, clusters).
    """
    if phones.shape != labels.shape:
        raise InputError(f"{len(phones)} phones for {len(labels)} labels; both must be of the same frames")
    if len(labels) and not (labels.min() >= 0 and labels.max() < clusters):
        raise InputError(f"labels from {labels.min()} to {labels.max()}; expected [0, {clusters})")
    names, rows = np.unique(phones, return_inverse=True)
    order = np.argsort(names != SILENCE, kind="stable")
    counts = np.bincount(rows.astype(np.int64) * clusters + labels.astype(np.int64), minlength=len(names) * clusters)
    return tuple(names[order].tolist()), counts.reshape(len(names), clusters)[order]


def figures(table: np.ndarray) -> Figures:
    """Purities and information of a (phones, clusters) table of frames."""
    total = int(table.sum())
    if not total:
        raise InputError("no frames to compare: are the utterances shorter than a frame?")
    joint = table / total
    phone, cluster = joint.sum(1), joint.sum(0)
    phone_entropy, cluster_entropy = _entropy(phone), _entropy(cluster)
    information = max(0.0, phone_entropy + cluster_entropy - _entropy(joint))
    return Figures(phone_purity=float(joint.max(0).sum()), cluster_purity=float(joint.max(1).sum()),
                   pnmi=information / phone_entropy if phone_entropy > 0 else 0.0, mutual_information=information,
                   phone_entropy=phone_entropy, cluster_entropy=cluster_entropy, frames=total)


def mean_run(sequences: Iterable[np.ndarray]) -> float:
    """Mean length of runs of equal labels, none of which spans two sequences; 0 where there are no labels."""
    frames = runs = 0
    for sequence in sequences:
        frames += len(sequence)
        runs += int((sequence[1:] != sequence[:-1]).sum()) + 1 if len(sequence) else 0
    return frames / runs if runs else 0.0


def reference_pairs(phones: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], upsample: int = 2,
                    pad: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames as fairseq's `measure_teacher_quality.py` pairs them, for comparison with figures made by it.

    Labels are lengthened by `pad` copies of the first and the last, each is repeated `upsample` times (2: from 50 Hz to
    the phones' 100 Hz), both sequences are cut to the shorter. Utterances without labels are left out. fairseq adds
    1e-8 inside its logarithms, so its figures differ from ours by about as much.

    Args:
        phones: {id: (frames,) strings without stress digits}.
        labels: {id: (T,) integers}.

    Returns:
        What `quality_of_utterances` takes.
    """
    pairs = []
    for utterance_id, truth in phones.items():
        if utterance_id in labels and len(labels[utterance_id]):
            long = np.pad(labels[utterance_id], pad, mode="edge").repeat(upsample)
            shorter = min(len(truth), len(long))
            pairs.append((truth[:shorter], long[:shorter]))
    return [p for p, _ in pairs], [c for _, c in pairs]


def _entropy(probabilities: np.ndarray) -> float:
    """Nats."""
    positive = probabilities[probabilities > 0]
    return float(max(0.0, -(positive * np.log(positive)).sum()))
