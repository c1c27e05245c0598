"""How good units are, without alignments: what can be asked of them where nobody has said which phone is where.

    stability   do frames keep their labels when noise is added, or the recording plays faster or slower?
    runs        do neighbouring frames agree, and for how long?
    speakers    how much do the units say about who speaks? Good units say little.

Each comes with what chance would give, since one class that covers everything is perfectly stable, steady and silent
about speakers. None of them replaces phones: they tell good from bad among teachers with the same number of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from upstream.audio.speed import FASTEST, SLOWEST, length_at, played
from upstream.errors import InputError, UsageError
from upstream.features.source import Source
from upstream.features.streaming import Read
from upstream.frames import CONV_GRID, FrameGrid
from upstream.keyed import keyed
from upstream.places import places
from upstream.teacher.quality import figures
from upstream.teacher.quantiser import Quantiser
from upstream.teacher.sampling import Progress, Recordings
from upstream.teacher.units import Units

_PERMUTATIONS = 10
_ROUNDING = 1e-9  # of shares of information
MOST_DB = 200.0  # noise beyond hides all, or is lost in rounding; far beyond its power is no number


@dataclass(frozen=True)
class Stability:
    """How far two labellings of the same frames agree.

    Attributes:
        agreement: share of frames with the same label.
        by_chance: what two independent labellings with these frequencies would agree in.
        kappa: (agreement - by_chance) / (1 - by_chance), Cohen's; 0 where chance explains everything.
        frames: compared.
    """

    agreement: float
    by_chance: float
    kappa: float
    frames: int


@dataclass(frozen=True)
class Runs:
    """How labels follow each other within utterances; frames.

    Attributes:
        neighbours: share of neighbouring frames with the same label; `by_chance` of frames drawn at random.
        mean, median: lengths of runs of equal labels.
        single: share of runs that are one frame long.
        per_second: runs, which is the rate of collapsed units (Hz).
    """

    neighbours: float
    by_chance: float
    mean: float
    median: float
    single: float
    per_second: float


@dataclass(frozen=True)
class SpeakerInformation:
    """Mutual information of speaker and unit over the entropy of speakers: 0 says nothing, 1 gives the speaker away.

    Attributes:
        by_chance: the same with speakers dealt out to utterances at random, the mean of ten deals: small counts, and
            what the utterances say, look like information too.
        excess: (normalised - by_chance) / (1 - by_chance), as kappa: 1 gives the speaker away, however few utterances.
        speakers, frames: compared.
    """

    normalised: float
    by_chance: float
    excess: float
    speakers: int
    frames: int


@dataclass(frozen=True)
class Change:
    """What is done to a waveform: white noise at a ratio in dB of the utterance's own power, or another speed.

    `Change("speed", 1.1)` plays faster by a tenth; the pitch rises as well, as with a tape.
    """

    kind: Literal["noise", "speed"]
    amount: float

    def __post_init__(self) -> None:
        if self.kind == "speed" and not SLOWEST <= self.amount <= FASTEST:
            raise UsageError(f"speed {self.amount}: expected {SLOWEST:g} to {FASTEST:g}")
        if self.kind == "noise" and not -MOST_DB <= self.amount <= MOST_DB:
            raise UsageError(f"snr {self.amount}: expected {-MOST_DB:g} to {MOST_DB:g} dB")

    def length(self, samples: int) -> int:
        """Samples afterwards."""
        return length_at(samples, self.amount) if self.kind == "speed" else samples

    def apply(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(S,) float32 to (length(S),) float32."""
        if self.kind == "speed":
            return played(wave, self.amount)
        power = float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0
        deviation = np.sqrt(power / 10 ** (self.amount / 10))
        return (wave + deviation * rng.standard_normal(len(wave))).astype(np.float32)

    def frames_before(self, samples: int, grid: FrameGrid = CONV_GRID) -> np.ndarray:
        """For each frame of the changed waveform of an utterance of `samples`, the one that was at its centre before.

        Returns:
            (frames of length(samples),) int64; where it lies beyond the first or last, that one. None of an utterance
            that had no frame.
        """
        if not grid.frames(samples):
            return np.zeros(0, np.int64)
        count = grid.frames(self.length(samples))
        if self.kind == "noise":
            return np.arange(count)
        centres = (np.arange(count) * grid.hop + grid.receptive_field / 2) * self.amount
        before = np.floor((centres - grid.receptive_field / 2) / grid.hop + 0.5).astype(np.int64)
        return np.clip(before, 0, grid.frames(samples) - 1)


def label_stability(units: Units, quantiser: Quantiser, source: Source, manifest: Recordings, change: Change, *,
                    read: Read, seed: int = 0, indices: Sequence[int] | np.ndarray | None = None, stream: int = 0,
                    progress: Progress | None = None) -> Stability:
    """Label changed recordings and compare with the units that they have.

    Args:
        units: of the same teacher.
        quantiser: of that teacher.
        source: the features that it reads.
        indices: utterances of the manifest, or a mask over all; None for all.
        read: gives the waveform of an index.

    Raises:
        InputError: an utterance has no units, or no frame is left to compare.
    """
    chosen = np.arange(len(manifest)) if indices is None else places(indices, len(manifest))
    changed = ChangedRecordings(manifest, change, read, seed)
    quantiser = quantiser.to(source.device)
    pairs = []
    for done, (index, frames) in enumerate(source.stream(changed, chosen, changed.read), 1):
        before = np.asarray(units.labels(changed.ids[index], stream))
        place = change.frames_before(int(manifest.lengths[index]))
        if len(place):  # played slowly, an utterance without a frame may have one
            pairs.append((before[place], quantiser.labels(frames)[stream].cpu().numpy()))
        if progress is not None:
            progress(done, len(chosen))
    return stability(pairs, units.classes[stream])


class ChangedRecordings:
    """A manifest's recordings after a change; noise is drawn from the seed and the utterance's id."""

    def __init__(self, manifest: Recordings, change: Change, read: Read, seed: int) -> None:
        self.ids = manifest.ids
        self.lengths = np.array([change.length(int(n)) for n in manifest.lengths], np.int64)
        self._change, self._read, self._seed = change, read, seed

    def read(self, index: int) -> np.ndarray:
        """(length,) float32."""
        return self._change.apply(self._read(index), keyed(self._seed, "proxy noise", self.ids[index]))


def stability(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> Stability:
    """Agreement of pairs of labels (T,) of the same frames, all in [0, classes). Raises InputError without frames."""
    same = frames = 0
    counts = np.zeros((2, classes), np.int64)
    for first, second in pairs:
        same += int((first == second).sum())
        frames += len(first)
        counts += [np.bincount(labels, minlength=classes) for labels in (first, second)]
    if not frames:
        raise InputError("no frames to compare: are the utterances shorter than a frame?")
    agreement, by_chance = same / frames, float((counts[0] / frames) @ (counts[1] / frames))
    return Stability(agreement, by_chance, (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0, frames)


def runs(sequences: Iterable[np.ndarray], classes: int, rate: float = CONV_GRID.rate) -> Runs:
    """How labels follow each other; sequences (T,) integers in [0, classes). Raises InputError without labels."""
    same = pairs = 0
    counts = np.zeros(classes, np.int64)
    lengths: list[np.ndarray] = []
    for labels in sequences:
        labels = np.asarray(labels)
        if not len(labels):
            continue
        starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]]))
        lengths.append(np.diff(np.concatenate([starts, [len(labels)]])))
        same += len(labels) - len(starts)
        pairs += len(labels) - 1
        counts += np.bincount(labels, minlength=classes)
    if not lengths:
        raise InputError("no labels: are the utterances shorter than a frame?")
    every = np.concatenate(lengths)
    shares = counts / counts.sum()
    return Runs(neighbours=same / pairs if pairs else 0.0, by_chance=float(shares @ shares), mean=float(every.mean()),
                median=float(np.median(every)), single=float((every == 1).mean()),
                per_second=float(rate / every.mean()))


def speaker_information(labels: Callable[[str], np.ndarray], ids: Sequence[str], speakers: Sequence[str | None],
                        classes: int, seed: int = 0) -> SpeakerInformation | None:
    """What units say about speakers.

    Args:
        labels: gives the labels (T,) of an utterance.
        ids, speakers: of each utterance; those whose speaker is unknown are left out.

    Returns:
        None where there are fewer than two speakers to tell apart, or where no two utterances share one: dealt out at
        random, speakers then have other names and nothing else has changed.
    """
    known = [(i, s) for i, s in zip(ids, speakers) if s is not None]
    names, owner = np.unique(np.array([s for _, s in known], dtype=str), return_inverse=True)
    deals = [owner, *(keyed(seed, "speakers dealt", n).permutation(owner) for n in range(_PERMUTATIONS))]
    tables = np.zeros((len(deals), len(names), classes), np.int64)
    for place, (utterance_id, _) in enumerate(known):
        histogram = np.bincount(labels(utterance_id), minlength=classes)
        for table, deal in zip(tables, deals):
            table[deal[place]] += histogram
    if len(names) < 2 or len(names) == len(known) or not tables[0].sum(1).astype(bool).sum() > 1:
        return None
    found, *chance = (figures(table).pnmi for table in tables)  # I / H of the rows, here speakers
    by_chance = float(np.mean(chance))
    excess = (found - by_chance) / (1 - by_chance) if by_chance < 1 - _ROUNDING else 0.0
    return SpeakerInformation(found, by_chance, excess, len(names), int(tables[0].sum()))
