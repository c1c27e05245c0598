"""Masked prediction as a training task: crops, masks and labels in, loss and validation out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upstream.device import sent
from upstream.errors import InputError
from upstream.frames import SAMPLE_RATE
from upstream.model.encoder import Encoder
from upstream.model.masked_prediction import MaskedPrediction, PredictionLoss, perplexity
from upstream.pretrain_crops import CropReader, Crops
from upstream.teacher.units import Units
from upstream.training.loop import EVERY, Loss, Pool
from upstream.training.optimiser import ParameterGroup
from upstream.training.precision import Precision, autocast

Probe = Callable[[Encoder], dict[str, float]]


@dataclass(frozen=True)
class PretrainBatch:
    """One micro-batch: nothing is padded, every row has T frames and the same number of masked ones.

    Attributes:
        waveforms: (B, S) float32, on the device.
        mask: (B, T) bool, on the host, where the masked frames are looked up without waiting for the device.
        labels: (B, T, streams) int64, on the host.
        weight: frames that the loss is a mean over, the masked ones in most recipes.
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
        crops: what training and validation hear.
        units: labels of every utterance, checked by the gate; those of a crop are of what is underneath when noise is
            laid over it, and of what was said at each time when it is played at another speed.
        probe: called with the encoder at each validation; its numbers are logged with it.
    """

    better = "loss"

    def __init__(self, model: MaskedPrediction, crops: CropReader, units: Units, *, device: torch.device,
                 precision: Precision, probe: Probe | None = None) -> None:
        self.model = model
        self._crops, self._units, self._streams = crops, units, len(units.classes)
        self._device, self._precision, self._probe = device, precision, probe
        self._valid_batches = [self._batch(crops) for crops in self._crops.validation()]

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([p for p in self.model.parameters() if p.requires_grad])]

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[PretrainBatch]]:
        for micro in self._crops.updates(first, share):
            yield [self._batch(crops) for crops in micro]

    def loss(self, batch: PretrainBatch) -> Loss:
        out = self.model(batch.waveforms, None, batch.mask, batch.labels)
        return Loss(out.total, self._sums(out))

    def validate(self) -> dict[str, Any]:
        """Loss in nats and accuracies on held-out speakers, on the same crops and masks every time.

        `loss` is that of masked frames, or of the others where those alone count. `code_perplexity` is the number of
        classes that predictions use, averaged over streams; `label_entropy` what the loss would be of one who knows how
        common each class is and hears nothing.
        """
        self.model.eval()
        pool, usages = Pool(), []
        for batch in self._valid_batches:
            with torch.inference_mode(), autocast(self._device, self._precision):
                out = self.model(batch.waveforms, None, batch.mask, batch.labels, measure=True)
            unmasked = (out.unmasked_correct.sum(), self._streams * out.unmasked_count)
            pool.add({**self._sums(out), "unmasked_accuracy": unmasked})
            usages.append(out.usage)
        values: dict[str, Any] = pool.take()
        if usages:
            of_streams = [torch.stack(batches).sum(0) for batches in zip(*usages)]
            values["code_perplexity"] = sum(perplexity(usage) for usage in of_streams) / self._streams
            values["label_entropy"] = self._label_entropy()
        if self._probe is not None:
            values |= self._probe(self.model.encoder)
        return values

    def _label_entropy(self) -> float:
        """Of the frames whose loss is `loss`."""
        judged = torch.cat([batch.labels[batch.mask if self.model.masked_weight else ~batch.mask]
                            for batch in self._valid_batches])  # (N, streams)
        return sum(math.log(perplexity(torch.bincount(labels))) for labels in judged.unbind(1))

    def _sums(self, out: PredictionLoss) -> dict[str, tuple[Tensor | float, Tensor | float]]:
        masked = out.masked_loss * out.masked_count, out.masked_count
        unmasked = out.unmasked_loss * out.unmasked_count, out.unmasked_count
        sums: dict[str, tuple[Tensor | float, Tensor | float]] = {
            "loss": masked if self.model.masked_weight else unmasked,
            "masked_accuracy": (out.masked_correct.sum(), self._streams * out.masked_count)}
        if self.model.unmasked_weight:
            sums["unmasked_accuracy"] = out.unmasked_correct.sum(), self._streams * out.unmasked_count
            if self.model.masked_weight:
                sums["unmasked_loss"] = unmasked
        return sums

    def _batch(self, crops: Crops) -> PretrainBatch:
        rows, frames = crops.mask.shape
        labels = np.empty((rows, frames, self._streams), np.int64)
        for row, utterance, first in zip(labels, crops.ids, crops.firsts.tolist()):
            for stream in range(self._streams):
                row[:, stream] = self._labels(utterance, stream, first, crops.speed, frames)
        masked = int(crops.mask.sum())
        weight = self.model.weight(masked, crops.mask.size - masked)
        return PretrainBatch(crops.update, crops.number, sent(torch.from_numpy(crops.waveforms), self._device),
                             torch.from_numpy(crops.mask), torch.from_numpy(labels), float(weight), crops.seconds,
                             crops.ids)

    def _labels(self, utterance: str, stream: int, first: int, speed: float, frames: int) -> np.ndarray:
        """(frames,) labels of a crop that begins at a sample of the recording and is played at a speed."""
        # Units have 50 labels a second; an encoder of 25 frames takes every second one, as fairseq does (label_rate).
        step, hop = round(self._units.rate / self.model.encoder.config.grid.rate), SAMPLE_RATE / self._units.rate
        labels = self._units.labels(utterance, stream)
        places = ((first + (step * np.arange(frames) + 0.5) * hop * speed) // hop).astype(np.int64)
        if speed != 1:  # the middle of the last label may lie behind the recording's last one, by less than a label
            places = np.minimum(places, max(len(labels) - 1, places[-1] - 1))
        if places[-1] >= len(labels):
            raise InputError(f"{utterance}: {len(labels)} labels, {places[-1] + 1} expected; make the units again")
        return labels[places]
