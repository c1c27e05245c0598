"""Batch plans: which utterances, and which part of each, form which micro-batch of which update.

A plan is a pure function of the lengths, the seed and the epoch, so it does not depend on workers, ranks or on where a
run was resumed. It sees lengths only and reads no audio.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from upstream.errors import InputError
from upstream.frames import FrameGrid
from upstream.keyed import keyed


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the encoder at once.

    Attributes:
        update, number: place in the run: the update it belongs to (from 1), and its number within it.
        rows: (B,) int64, index of each row's utterance in the manifest.
        starts: (B,) int64, first encoder frame of each row's crop; crops start on the hop, so label `starts + i` is
            exactly frame i of the crop.
        frames: (B,) int64, encoder frames of each row.
        copy: where an update needs more than a small corpus has, which of the epochs, or of the times that the same
            utterances come, this is, from 0: what comes again must be drawn for anew.
    """

    update: int
    number: int
    rows: np.ndarray
    starts: np.ndarray
    frames: np.ndarray
    copy: int = 0


@dataclass(frozen=True)
class CropPlan:
    """Crops for pretraining: every row of a micro-batch has the same number of frames, so nothing is padded.

    An utterance of n frames gives max(1, round(n / crop_frames)) crops an epoch: without overlap and with random gaps
    where it is longer than its crops together, evenly spread otherwise. Shorter utterances are sorted into
    micro-batches of similar length and cut to the shortest there.

    Attributes:
        lengths: (N,) int64, encoder frames of each utterance.
        crop_frames: the longest crop.
        least_frames: utterances below are left out (counted by `left_out`).
        micro_frames: at most so many frames in a micro-batch.
        accumulate: micro-batches in an update.
        seed: of the run.
    """

    lengths: np.ndarray
    crop_frames: int
    least_frames: int
    micro_frames: int
    accumulate: int
    seed: int

    def __post_init__(self) -> None:
        if self.micro_frames < self.crop_frames:
            raise InputError(f"a micro-batch of {self.micro_frames} frames cannot hold a crop of {self.crop_frames}; "
                             "raise training.micro_batch_seconds or lower training.crop_seconds")
        if not (self.lengths >= self.least_frames).any():
            raise InputError(f"no utterance has the {self.least_frames} frames that training needs at least; "
                             "lower training.least_seconds or mask.span, or bring longer recordings")

    @property
    def left_out(self) -> int:
        """Utterances too short to be used."""
        return int((self.lengths < self.least_frames).sum())

    def epoch(self, epoch: int) -> CropEpoch:
        """The updates of one epoch, each a list of micro-batches (rows, starts, frames of every row)."""
        rows, starts, frames = self._crops(epoch)
        rng = keyed(self.seed, "batches", epoch)
        order = rng.permutation(len(rows)).astype(np.int32)
        order = order[_longest_first(frames[order])]
        bounds = self._bounds(frames[order])
        return CropEpoch(rows, starts, frames, order, bounds, rng.permutation(len(bounds) - 1), self.accumulate)

    def from_update(self, update: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of `update` (from 1) and of all updates after it, without end.

        Where an epoch does not fill an update, the update has those of several epochs.
        """
        together = -(-self.accumulate // self._micro_batches)
        while True:
            epoch, place = divmod(update - 1, self._updates)
            updates: Sequence[list[tuple[np.ndarray, np.ndarray, int]]]
            if together == 1:
                updates = self.epoch(epoch)
            else:
                several = (self.epoch(epoch * together + i)[0] for i in range(together))
                updates = [list(chain.from_iterable(several))[:self.accumulate]]
            for micro in (updates[i] for i in range(place, self._updates)):
                yield [MicroBatch(update, i, rows.astype(np.int64), starts.astype(np.int64),
                                  np.full(len(rows), frames), i // self._micro_batches if together > 1 else 0)
                       for i, (rows, starts, frames) in enumerate(micro)]
                update += 1

    @cached_property
    def _micro_batches(self) -> int:
        """Micro-batches of an epoch: as many in every one, since it depends on lengths only."""
        return len(self._sizes()[1]) - 1

    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the crops of an epoch, longest first, and where micro-batches of these begin and end."""
        _, counts, lengths = self._usable()
        sizes = np.repeat(np.minimum(lengths, self.crop_frames), counts)
        sizes = sizes[_longest_first(sizes)]
        return sizes, self._bounds(sizes)

    @property
    def mean_frames(self) -> float:
        """Frames of a micro-batch: the mean over those of an epoch, which are the same in every one. Most hold a little
        less than they may, for rows are whole and of one length."""
        sizes, bounds = self._sizes()
        return float((np.diff(bounds) * sizes[bounds[1:] - 1]).mean())

    @property
    def _updates(self) -> int:
        """Updates of an epoch."""
        return max(1, self._micro_batches // self.accumulate)

    def discarded(self) -> float:
        """Share of the usable frames that the first epoch misses, as rows are cut to the shortest or left over."""
        usable = self.lengths[self.lengths >= self.least_frames].sum()
        seen = np.zeros(int(self.lengths.sum()), bool)
        base = np.concatenate([[0], np.cumsum(self.lengths)])
        for update in self.epoch(0):
            for rows, starts, frames in update:
                for row, start in zip(rows, starts):
                    seen[base[row] + start:base[row] + start + frames] = True
        return 1 - float(seen.sum()) / float(usable)

    def _usable(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Utterances that are long enough, how many crops each gives, and their lengths; int32."""
        usable = np.flatnonzero(self.lengths >= self.least_frames).astype(np.int32)
        lengths = self.lengths[usable].astype(np.int32)
        counts = lengths / self.crop_frames
        return usable, np.maximum(1, np.round(counts, out=counts), out=counts).astype(np.int32), lengths

    def _crops(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, start and frames of every crop of an epoch, int32, vectorised over utterances."""
        # There may be millions: one array at a time, and in place where that is possible.
        usable, counts, lengths = self._usable()
        rows = np.repeat(usable, counts)
        number = np.arange(len(rows), dtype=np.int32)
        number -= np.repeat(np.cumsum(counts, dtype=np.int32) - counts, counts)
        size = np.minimum(lengths, np.int32(self.crop_frames))
        slack = np.repeat(lengths - counts * size, counts)
        size = np.repeat(size, counts)
        counts = np.repeat(counts, counts)
        del usable, lengths
        # Where there is room, one keyed draw a crop splits it into gaps before the crops (sorted, so crops do not
        # overlap); where there is none, the crops are spread evenly and overlap.
        draws = keyed(self.seed, "crops", epoch).random(len(rows))
        several = np.flatnonzero(counts > 1)
        drawn = draws[several]
        draws[several] = drawn[np.lexsort((drawn, rows[several]))]
        draws *= slack + np.int32(1)
        starts = number * size
        starts += np.floor(draws, out=draws).astype(np.int32)
        del draws
        tight = np.flatnonzero(slack < 0)
        step = size[tight] + slack[tight] / np.maximum(1, counts[tight] - 1)
        starts[tight] = np.floor(number[tight] * step).astype(np.int32)
        return rows, starts, size

    def _bounds(self, frames: np.ndarray) -> np.ndarray:
        """(G + 1,) int64: where consecutive groups of rows (longest first) that fit a micro-batch begin and end."""
        bounds = array("q", [0])
        while bounds[-1] < len(frames):
            bounds.append(min(len(frames), bounds[-1] + max(1, self.micro_frames // int(frames[bounds[-1]]))))
        return np.frombuffer(bounds, np.int64)


class CropEpoch(Sequence[list[tuple[np.ndarray, np.ndarray, int]]]):
    """The updates of an epoch, each a list of micro-batches (rows, starts, frames of every row).

    Millions of utterances are kept as arrays, 16 bytes a crop; an update becomes Python objects when it is asked for.
    """

    def __init__(self, rows: np.ndarray, starts: np.ndarray, frames: np.ndarray, order: np.ndarray, bounds: np.ndarray,
                 groups: np.ndarray, accumulate: int) -> None:
        """`rows`, `starts`, `frames` (crops,): the crops; `order[bounds[g]:bounds[g + 1]]` are those of micro-batch g,
        and `groups` is the order of the micro-batches."""
        self._rows, self._starts, self._frames = rows, starts, frames
        self._order, self._bounds, self._groups, self._accumulate = order, bounds, groups, accumulate

    def __len__(self) -> int:
        return max(1, len(self._groups) // self._accumulate)  # what does not fill an update is left over

    def __getitem__(self, update: Any) -> Any:
        if isinstance(update, slice):
            return [self[i] for i in range(*update.indices(len(self)))]
        if not -len(self) <= update < len(self):
            raise IndexError(f"update {update} of an epoch with {len(self)}")
        first = update % len(self) * self._accumulate
        return [self._micro_batch(int(g)) for g in self._groups[first:first + self._accumulate]]

    def _micro_batch(self, group: int) -> tuple[np.ndarray, np.ndarray, int]:
        crops = self._order[self._bounds[group]:self._bounds[group + 1]]
        return self._rows[crops], self._starts[crops], int(self._frames[crops[-1]])  # the last is the shortest


def _longest_first(frames: np.ndarray) -> np.ndarray:
    """Places of these lengths, longest first, equal ones in their order; 16 bits sort ten times as fast as 64."""
    top = int(frames.max())
    kind = np.uint16 if top < 1 << 16 else np.int32
    return np.argsort((top - frames).astype(kind), kind="stable").astype(np.int32)


def _times(seen: Counter[int], item: int) -> int:
    """How often it was asked for before."""
    seen[item] += 1
    return seen[item] - 1


@dataclass(frozen=True)
class UtterancePlan:
    """Whole utterances for fine-tuning, padded to the longest of their micro-batch; similar lengths go together.

    Attributes:
        lengths: (N,) int64, encoder frames of each utterance.
        batch_frames: at most so many frames in a micro-batch, padding included; a longer utterance goes alone.
        accumulate: micro-batches in an update.
        seed: of the run.
    """

    lengths: np.ndarray
    batch_frames: int
    accumulate: int
    seed: int

    def epoch(self, epoch: int) -> list[list[np.ndarray]]:
        """The updates of one epoch: lists of micro-batches, each the indices of its utterances."""
        rng = keyed(self.seed, "batches", epoch)
        # A little noise on the lengths before sorting, so that an epoch's batches differ from the last epoch's.
        noisy = self.lengths * rng.uniform(0.9, 1.1, len(self.lengths))
        groups = list(self._groups(np.argsort(-noisy, kind="stable")))
        # Neighbours make an update: its ranks are done at the same time, and it is what one large micro-batch would be.
        # A last update that is not full takes more of its neighbours: all have the same number of micro-batches.
        cuts = [min(i, max(0, len(groups) - self.accumulate)) for i in range(0, len(groups), self.accumulate)]
        updates = [[groups[(first + k) % len(groups)] for k in range(self.accumulate)] for first in cuts]
        return [updates[i] for i in rng.permutation(len(updates))]

    def from_update(self, update: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of `update` (from 1) and of all updates after it, without end."""
        epoch, first = 0, 1
        while True:
            updates = self.epoch(epoch)
            for micro in updates[max(0, update - first):]:
                seen: Counter[int] = Counter()
                yield [MicroBatch(update, i, rows, np.zeros(len(rows), np.int64), self.lengths[rows],
                                  _times(seen, int(rows[0]))) for i, rows in enumerate(micro)]
                update += 1
            first += len(updates)
            epoch += 1

    def _groups(self, order: np.ndarray) -> Iterator[np.ndarray]:
        group: list[int] = []
        longest = 0
        for index in order:
            longest = max(longest, int(self.lengths[index]))
            if group and longest * (len(group) + 1) > self.batch_frames:
                yield np.array(group)
                group, longest = [], int(self.lengths[index])
            group.append(int(index))
        if group:
            yield np.array(group)


def crop_frames(grid: FrameGrid, seconds: float) -> int:
    """Frames of the longest crop of at most `seconds`; at least one."""
    return max(1, grid.frames(int(seconds * 16_000)))
