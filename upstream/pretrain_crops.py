"""What every pretraining objective hears: crops of the same recordings under the same masks, so that they compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from upstream.ahead import side_by_side
from upstream.audio.batches import CropPlan, MicroBatch, crop_frames
from upstream.audio.caching import AudioCache
from upstream.audio.manifest import Manifest
from upstream.audio.mixing import Mixing, mix
from upstream.audio.speed import played
from upstream.errors import InputError
from upstream.frames import SAMPLE_RATE, frame_counts
from upstream.keyed import keyed, keyed_int
from upstream.model import prepared
from upstream.model.config import EncoderConfig
from upstream.model.masking import SpanMask, batch_masks
from upstream.progress import say
from upstream.training.loop import EVERY, TrainingRecipe
from upstream.training.recipe import AUTO

VALIDATION_SECONDS = 600.0  # audio in a validation, at most
VALIDATION_BATCH_SECONDS = 87.5  # at once, at most: rows are cut to the shortest, so large ones would hear little


@dataclass(frozen=True)
class Crops:
    """One micro-batch on the host: nothing is padded, every row has T frames and the same number of masked ones.

    Attributes:
        waveforms: (B, S) float32.
        mask: (B, T) bool.
        ids: utterance of each row.
        indices: (B,) int64, its place in the manifest.
        starts: (B,) int64, first frame of the crop.
        firsts: (B,) int64, the first sample of the recording that it is made of.
        speed: how fast it is played: sample n of the crop is what the recording has at `firsts + n * speed`.
        seconds: of audio.
        held_out: whether this is for validation, whose draws are others.
        copy: of the same crops in this update, from 0.
    """

    update: int
    number: int
    waveforms: np.ndarray
    mask: np.ndarray
    ids: list[str]
    indices: np.ndarray
    starts: np.ndarray
    firsts: np.ndarray
    speed: float
    seconds: float
    held_out: bool
    copy: int = 0


def least_frames(config: EncoderConfig, recipe: TrainingRecipe, mask: SpanMask) -> int:
    """Frames of the shortest recording: as the recipe asks, and more than a mask could hide from end to end."""
    return max(crop_frames(config.grid, recipe.least_seconds), mask.least_frames)


def plan_crops(lengths: np.ndarray, config: EncoderConfig, recipe: TrainingRecipe, mask: SpanMask, together: float,
               accumulate: int, seed: int) -> CropPlan:
    """Which crops of recordings of `lengths` (N,) samples come together.

    Args:
        together: seconds of a micro-batch, at most.

    Raises InputError where no recording is long enough, or a micro-batch cannot hold a crop.
    """
    grid, longest = config.grid, crop_frames(config.grid, recipe.crop_seconds)
    # Seconds of a batch are counted in hops; a crop reaches a little beyond its last one. At 40 ms it may have a
    # frame more than hops, the last not whole: as many crops go into a batch as their seconds say.
    most = max(int(together * grid.rate), int(together / recipe.crop_seconds) * longest)
    return CropPlan(frame_counts(lengths, grid), longest, least_frames(config, recipe, mask), most, accumulate, seed)


def update_seconds(lengths: np.ndarray | None, config: EncoderConfig, recipe: TrainingRecipe, mask: SpanMask) -> float:
    """Audio of an update, on average: less than `batch_seconds` by what micro-batches of whole rows leave empty, some
    8 % with BASE on LibriSpeech. It is `batch_seconds` as long as nobody knows micro-batches (`auto`).

    Args:
        lengths: (N,) samples of the recordings; None where they are not known: as if all filled their crops.
    """
    if recipe.micro_batch_seconds == AUTO:
        return float(recipe.batch_seconds)
    if lengths is None:
        rows = max(1, int(recipe.micro_batch_seconds / recipe.crop_seconds))
        lengths = np.full(rows, config.grid.samples(crop_frames(config.grid, recipe.crop_seconds)))
    try:
        plan = plan_crops(lengths, config, recipe, mask, recipe.micro_batch_seconds, recipe.accumulate, 0)
    except InputError:  # the training will say so
        return float(recipe.batch_seconds)
    return recipe.accumulate * plan.mean_frames / config.grid.rate


class CropReader:
    """Crops of training utterances without end, and those of a validation.

    Args:
        manifest: all utterances; `train` and `valid` are indices into it (disjoint speakers).
        config: of the encoder: its frames, and how it wants waveforms.
        mixing: what is laid over training crops; never over those of a validation.
        noise: recordings that `mixing` takes noise from.
        speeds: the crops of a micro-batch are played at one of them; those of a validation are as they are.
        audio: what reads the manifest's recordings; a cache of its own if not given.
    """

    def __init__(self, manifest: Manifest, train: np.ndarray, valid: np.ndarray, config: EncoderConfig,
                 recipe: TrainingRecipe, mask: SpanMask, seed: int, mixing: Mixing | None = None,
                 noise: AudioCache | None = None, audio: AudioCache | None = None,
                 speeds: Sequence[float] = (1.0,)) -> None:
        self.ids = manifest.ids
        self._manifest, self._audio = manifest, audio or AudioCache(manifest)
        self._train, self._valid, self._config, self._recipe = train, valid, config, recipe
        self._mask, self._seed, self._mixing, self._noise = mask, seed, mixing or Mixing(), noise
        self._speeds = tuple(speeds)
        self._plan = self._crops(train, recipe.micro_batch_seconds, recipe.accumulate, seed)
        if self._plan.left_out:
            least = max(recipe.least_seconds, config.grid.samples(mask.least_frames) / SAMPLE_RATE)
            say(f"{self._plan.left_out} of {len(train)} recordings are under {least:g} s and left out")

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[Crops]]:
        """From update `first` on, the micro-batches of each that lie in `share`."""
        for micro in self._plan.from_update(first):
            yield [self._read(m, self._train, held_out=False) for m in micro[share]]

    def validation(self) -> Iterator[Crops]:
        """The same crops and masks every time; none where nothing is held out, and none, with a warning, where no
        held-out recording is long enough."""
        if not len(self._valid):
            return
        if not (frame_counts(self._manifest.lengths[self._valid], self._config.grid) >= self._least).any():
            say("warning: no held-out recording is long enough to validate on; raise valid_share or lower "
                "training.least_seconds or mask.span")
            return
        together = max(self._recipe.crop_seconds, min(self._recipe.micro_batch_seconds, VALIDATION_BATCH_SECONDS))
        plan = self._crops(self._valid, together, 1, keyed_int(self._seed, "validation"))
        seconds = 0.0
        for [micro], _ in zip(plan.from_update(1), plan.epoch(0)):
            crops = self._read(micro, self._valid, held_out=True)
            seconds += crops.seconds
            yield crops
            if seconds >= VALIDATION_SECONDS:
                return

    def generators(self, crops: Crops, purpose: str) -> list[np.random.Generator]:
        """For each row a generator keyed by the update, the utterance and the crop."""
        return self._generators(purpose, crops.update, crops.ids, crops.starts, crops.held_out, crops.copy)

    def _generators(self, purpose: str, update: int, ids: list[str], starts: np.ndarray, held_out: bool,
                    copy: int) -> list[np.random.Generator]:
        purpose = f"validation {purpose}" if held_out else purpose
        again = [copy] if copy else []
        return [keyed(self._seed, purpose, update, utterance, int(start), *again)
                for utterance, start in zip(ids, starts)]

    def _crops(self, subset: np.ndarray, together: float, accumulate: int, seed: int) -> CropPlan:
        return plan_crops(self._manifest.lengths[subset], self._config, self._recipe, self._mask, together, accumulate,
                          seed)

    @property
    def _least(self) -> int:
        return least_frames(self._config, self._recipe, self._mask)

    def _played(self, micro: MicroBatch, indices: np.ndarray) -> tuple[int, float]:
        """Frames of each crop of a micro-batch, and the speed at which all of them are played.

        The faster, the fewer frames a recording has: where it is hardly longer than its crop, so are the others of its
        micro-batch, and all are cut. With a speed for each crop only slow ones would fit.
        """
        frames = int(micro.frames[0])
        if self._speeds == (1.0,):
            return frames, 1.0
        shortest = int(self._manifest.lengths[indices].min())
        lengths = {speed: min(frames, self._config.grid.frames(int(shortest / speed))) for speed in self._speeds}
        least = min(self._least, frames)  # crops may be shorter than the shortest recording that is wanted
        fitting = [speed for speed in self._speeds if lengths[speed] >= least] or [1.0]
        speed = fitting[keyed(self._seed, "speed", micro.update, micro.number).integers(len(fitting))]
        return lengths.get(speed, frames), speed

    def _crop(self, index: int, first: int, samples: int) -> np.ndarray:
        if self._config.normalize:  # over the whole recording
            return prepared(self._audio.wave(index), self._config)[first:first + samples]
        return self._audio.part(index, first, samples)

    def _read(self, micro: MicroBatch, subset: np.ndarray, held_out: bool) -> Crops:
        grid, indices = self._config.grid, subset[micro.rows]
        frames, speed = (int(micro.frames[0]), 1.0) if held_out else self._played(micro, indices)
        waveforms = np.zeros((len(indices), grid.samples(frames)), np.float32)
        firsts = np.array([grid.crop_start(int(start)) for start in micro.starts], np.int64)
        needed = math.ceil(waveforms.shape[1] * speed)  # samples of a recording
        if speed != 1:
            firsts = np.minimum(firsts, np.maximum(0, self._manifest.lengths[indices] - needed))

        def fill(place: int) -> None:
            crop = played(self._crop(int(indices[place]), int(firsts[place]), needed), speed)[:waveforms.shape[1]]
            waveforms[place, :len(crop)] = crop

        side_by_side(fill, range(len(indices)))
        ids = [self.ids[int(i)] for i in indices]
        if self._mixing.share and not held_out:
            waveforms = mix(waveforms, ids, micro.starts, micro.update, self._mixing, self._seed, self._noise,
                            micro.copy)
        rngs = self._generators("mask", micro.update, ids, micro.starts, held_out, micro.copy)
        mask = batch_masks(rngs, [frames] * len(indices), self._mask)
        return Crops(micro.update, micro.number, waveforms, mask, ids, indices, micro.starts, firsts, speed,
                     len(indices) * frames / grid.rate, held_out, micro.copy)
