"""Batch plans: which utterances, and which part of each, form which micro-batch of which update.

A plan is a pure function of the lengths, the seed and the epoch, so it does not depend on workers, ranks or on where a
run was resumed. It sees lengths only and reads no audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """

    update: int
    number: int
    rows: np.ndarray
    starts: np.ndarray
    frames: np.ndarray


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
                             "raise training.batch_seconds or lower training.crop_seconds")
        if not (self.lengths >= self.least_frames).any():
            raise InputError(f"no utterance has the {self.least_frames} frames that training needs at least; "
                             "lower training.least_seconds or bring longer recordings")

    @property
    def left_out(self) -> int:
        """Utterances too short to be used."""
        return int((self.lengths < self.least_frames).sum())

    def epoch(self, epoch: int) -> list[list[tuple[np.ndarray, np.ndarray, int]]]:
        """The updates of one epoch, each a list of micro-batches (rows, starts, frames of every row)."""
        rows, starts, frames = self._crops(epoch)
        rng = keyed(self.seed, "batches", epoch)
        order = rng.permutation(len(rows))
        order = order[np.argsort(-frames[order], kind="stable")]
        groups = [order[first:last] for first, last in self._cuts(frames[order])]
        groups = [groups[i] for i in rng.permutation(len(groups))]
        micro = [(rows[g], starts[g], int(frames[g].min())) for g in groups]
        full = max(1, len(micro) // self.accumulate)
        return [micro[u * self.accumulate:(u + 1) * self.accumulate] for u in range(full)]

    def from_update(self, update: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of `update` (from 1) and of all updates after it, without end."""
        updates = len(self.epoch(0))  # the same in every epoch: it depends on lengths only
        while True:
            epoch, place = divmod(update - 1, updates)
            for micro in self.epoch(epoch)[place:]:
                yield [MicroBatch(update, i, rows, starts, np.full(len(rows), frames))
                       for i, (rows, starts, frames) in enumerate(micro)]
                update += 1

    def discarded(self, epoch: int = 0) -> float:
        """Share of the usable frames that an epoch does not see because rows are cut to the shortest or left over."""
        usable = self.lengths[self.lengths >= self.least_frames].sum()
        seen = np.zeros(int(self.lengths.sum()), bool)
        base = np.concatenate([[0], np.cumsum(self.lengths)])
        for update in self.epoch(epoch):
            for rows, starts, frames in update:
                for row, start in zip(rows, starts):
                    seen[base[row] + start:base[row] + start + frames] = True
        return 1 - float(seen.sum()) / float(usable)

    def _crops(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, start and frames of every crop of an epoch, vectorised over utterances."""
        usable = np.flatnonzero(self.lengths >= self.least_frames)
        lengths = self.lengths[usable]
        counts = np.maximum(1, np.round(lengths / self.crop_frames)).astype(np.int64)
        rows = np.repeat(usable, counts)
        number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        size = np.minimum(np.repeat(lengths, counts), self.crop_frames)
        slack = np.repeat(lengths - counts * np.minimum(lengths, self.crop_frames), counts)
        repeated = np.repeat(counts, counts)
        # Where there is room, one keyed draw a crop splits it into gaps before the crops (sorted, so crops do not
        # overlap); where there is none, the crops are spread evenly and overlap.
        draws = keyed(self.seed, "crops", epoch).random(len(rows))
        draws = draws[np.lexsort((draws, rows))]
        loose = number * size + np.floor(draws * (slack + 1)).astype(np.int64)
        tight = np.floor(number * (size + slack / np.maximum(1, repeated - 1))).astype(np.int64)
        starts = np.where(slack >= 0, loose, tight)
        return rows, starts, size

    def _cuts(self, frames: np.ndarray) -> Iterator[tuple[int, int]]:
        """Consecutive groups of rows (longest first) that fit a micro-batch."""
        first = 0
        while first < len(frames):
            last = min(len(frames), first + max(1, self.micro_frames // int(frames[first])))
            yield first, last
            first = last


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
                yield [MicroBatch(update, i, rows, np.zeros(len(rows), np.int64), self.lengths[rows])
                       for i, rows in enumerate(micro)]
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
