"""Masked prediction as a training task: crops, masks and labels in, loss and validation out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upstream.audio.batches import CropPlan, MicroBatch, crop_frames
from upstream.audio.manifest import Manifest
from upstream.audio.reading import AudioCache
from upstream.errors import InputError
from upstream.keyed import keyed, keyed_int
from upstream.model import prepared
from upstream.model.encoder import Encoder
from upstream.model.masked_prediction import MaskedPrediction
from upstream.model.masking import SpanMask, batch_masks
from upstream.progress import say
from upstream.teacher.units import Units
from upstream.training.loop import EVERY, Loss, Pool, TrainingRecipe
from upstream.training.optimiser import ParameterGroup
from upstream.training.precision import autocast

VALIDATION_SECONDS = 600.0  # audio in a validation, at most
Probe = Callable[[Encoder], dict[str, float]]


@dataclass(frozen=True)
class PretrainBatch:
    """One micro-batch: nothing is padded, every row has T frames and the same number of masked ones.

    Attributes:
        waveforms: (B, S) float32, on the device.
        mask: (B, T) bool, on the host, where the masked frames are looked up without waiting for the device.
        labels: (B, T, streams) int64, on the host.
        weight: masked frames.
        seconds: of audio.
        ids: of the utterances.
    """

    update: int
    number: int
    waveforms: Tensor
    mask: Tensor
    labels: Tensor
    weight: float
    seconds: float
    ids: list[str]


class PretrainTask:
    """Masked prediction of units on random crops.

    Args:
        model: encoder with its prediction heads.
        manifest: all utterances; `train` and `valid` are indices into it (disjoint speakers).
        units: labels of every utterance, checked by the gate.
        probe: called with the encoder at each validation; its numbers are logged with it.
    """

    better = "loss"

    def __init__(self, model: MaskedPrediction, manifest: Manifest, units: Units, train: np.ndarray, valid: np.ndarray,
                 recipe: TrainingRecipe, mask: SpanMask, *, seed: int, device: torch.device,
                 probe: Probe | None = None) -> None:
        self.model = model
        self._grid = model.encoder.config.grid
        self._manifest, self._units, self._audio = manifest, units, AudioCache(manifest)
        self._ids, self._streams = manifest.ids, len(units.classes)
        self._mask, self._seed, self._device, self._precision = mask, seed, device, recipe.precision
        self._probe = probe
        self._train, self._valid = train, valid
        self._plan = self._crops(train, recipe, recipe.accumulate, seed)
        if self._plan.left_out:
            say(f"{self._plan.left_out} of {len(train)} recordings are under {recipe.least_seconds:g} s and left out")
        self._valid_batches = list(self._validation(valid, recipe))

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([p for p in self.model.parameters() if p.requires_grad])]

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[PretrainBatch]]:
        for micro in self._plan.from_update(first):
            yield [self._batch(m, self._train, "mask") for m in micro[share]]

    def loss(self, batch: PretrainBatch) -> Loss:
        out = self.model(batch.waveforms, None, batch.mask, batch.labels)
        return Loss(out.total, {"loss": (out.masked_loss * batch.weight, batch.weight),
                                "masked_accuracy": (out.masked_correct.sum(), self._streams * out.masked_count)})

    def validate(self) -> dict[str, Any]:
        """Loss in nats and accuracies on held-out speakers, on the same crops and masks every time."""
        self.model.eval()
        pool = Pool()
        for batch in self._valid_batches:
            with torch.inference_mode(), autocast(self._device, self._precision):
                out = self.model(batch.waveforms, None, batch.mask, batch.labels, measure=True)
            pool.add({"loss": (out.masked_loss * batch.weight, batch.weight),
                      "masked_accuracy": (out.masked_correct.sum(), self._streams * out.masked_count),
                      "unmasked_accuracy": (out.unmasked_correct.sum(), self._streams * out.unmasked_count)})
        values: dict[str, Any] = pool.take()
        if self._probe is not None:
            values |= self._probe(self.model.encoder)
        return values

    def _crops(self, subset: np.ndarray, recipe: TrainingRecipe, accumulate: int, seed: int) -> CropPlan:
        lengths = np.array([self._grid.frames(int(n)) for n in self._manifest.lengths[subset]], np.int64)
        # Seconds of a batch are counted in hops; a crop reaches a little beyond its last one.
        micro_frames = int(recipe.micro_batch_seconds * self._grid.rate)
        return CropPlan(lengths, crop_frames(self._grid, recipe.crop_seconds),
                        crop_frames(self._grid, recipe.least_seconds), micro_frames, accumulate, seed)

    def _validation(self, valid: np.ndarray, recipe: TrainingRecipe) -> Iterator[PretrainBatch]:
        least = self._grid.samples(crop_frames(self._grid, recipe.least_seconds))
        if not (self._manifest.lengths[valid] >= least).any():
            say("warning: no held-out recording is long enough to validate on; raise valid_share or lower "
                "training.least_seconds")
            return
        plan = self._crops(valid, recipe, 1, keyed_int(self._seed, "validation"))
        seconds = 0.0
        for [micro], _ in zip(plan.from_update(1), plan.epoch(0)):
            batch = self._batch(micro, valid, "validation mask")
            seconds += batch.seconds
            yield batch
            if seconds >= VALIDATION_SECONDS:
                return

    def _batch(self, micro: MicroBatch, subset: np.ndarray, purpose: str) -> PretrainBatch:
        frames = int(micro.frames[0])
        samples = self._grid.samples(frames)
        waveforms = np.zeros((len(micro.rows), samples), np.float32)
        labels = np.empty((len(micro.rows), frames, len(self._units.classes)), np.int64)
        for i, (row, start) in enumerate(zip(micro.rows, micro.starts)):
            index = int(subset[row])
            first = self._grid.crop_start(int(start))
            crop = prepared(self._audio.wave(index), self.model.encoder.config)[first:first + samples]
            waveforms[i, :len(crop)] = crop
            for stream in range(labels.shape[2]):
                labels[i, :, stream] = self._labels(index, stream, int(start), frames)
        rngs = [keyed(self._seed, purpose, micro.update, self._ids[int(subset[row])], int(start))
                for row, start in zip(micro.rows, micro.starts)]
        mask = batch_masks(rngs, [frames] * len(rngs), self._mask)
        masked = float(mask.sum())
        return PretrainBatch(micro.update, micro.number, torch.from_numpy(waveforms).to(self._device),
                             torch.from_numpy(mask), torch.from_numpy(labels), masked,
                             len(waveforms) * frames / self._grid.rate, [self._ids[int(subset[r])] for r in micro.rows])

    def _labels(self, index: int, stream: int, start: int, frames: int) -> np.ndarray:
        found = self._units.labels(self._ids[index], stream)[start:start + frames]
        if len(found) != frames:
            raise InputError(f"{self._ids[index]}: {len(found)} labels from frame {start}, {frames} expected; "
                             "make the units again")
        return found
