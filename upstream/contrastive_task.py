"""Contrastive prediction (wav2vec 2.0) as a training task: crops, masks and negatives in, loss and validation out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from upstream.device import sent
from upstream.model.contrastive import ContrastiveLoss, ContrastivePrediction, draw_negatives
from upstream.model.quantiser import GumbelSchedule
from upstream.pretrain_crops import CropReader, Crops
from upstream.pretrain_task import Probe
from upstream.training.loop import EVERY, Loss, Pool
from upstream.training.optimiser import ParameterGroup
from upstream.training.precision import Precision, autocast


@dataclass(frozen=True)
class ContrastiveBatch:
    """One micro-batch: nothing is padded, every row has T frames and the same number of masked ones, N in all.

    Attributes:
        waveforms: (B, S) float32, on the device.
        mask: (B, T) bool, on the host.
        negatives: (N, K) int64, on the host.
        weight: masked frames.
        seconds: of audio.
        ids: of the utterances.
    """

    update: int
    number: int
    waveforms: Tensor
    mask: Tensor
    negatives: Tensor
    weight: float
    seconds: float
    ids: list[str]


class ContrastiveTask:
    """Telling each masked frame's code from those of other masked frames, on the crops and masks of `PretrainTask`.

    Args:
        model: encoder with its quantiser.
        crops: what training and validation hear.
        negatives: of each masked frame.
        gumbel: temperature of the quantiser's noise, which depends on the update and on nothing else.
        probe: called with the encoder at each validation; its numbers are logged with it.
    """

    better = "loss"

    def __init__(self, model: ContrastivePrediction, crops: CropReader, *, negatives: int, gumbel: GumbelSchedule,
                 device: torch.device, precision: Precision, probe: Probe | None = None) -> None:
        self.model = model
        self._crops, self._negatives, self._gumbel = crops, negatives, gumbel
        self._device, self._precision, self._probe = device, precision, probe
        self._valid_batches = [self._batch(crops) for crops in self._crops.validation()]

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([p for p in self.model.parameters() if p.requires_grad])]

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[ContrastiveBatch]]:
        for micro in self._crops.updates(first, share):
            yield [self._batch(crops) for crops in micro]

    def loss(self, batch: ContrastiveBatch) -> Loss:
        out = self.model(batch.waveforms, None, batch.mask, batch.negatives, self._gumbel.at(batch.update))
        return Loss(out.total, _sums(out))

    def validate(self) -> dict[str, Any]:
        """The numbers of training on held-out speakers: the same crops, masks and negatives every time, no noise."""
        self.model.eval()
        pool = Pool()
        for batch in self._valid_batches:
            with torch.inference_mode(), autocast(self._device, self._precision):
                pool.add(_sums(self.model(batch.waveforms, None, batch.mask, batch.negatives)))
        values: dict[str, Any] = pool.take()
        if self._probe is not None:
            values |= self._probe(self.model.encoder)
        return values

    def _batch(self, crops: Crops) -> ContrastiveBatch:
        counts = crops.mask.sum(axis=1).tolist()
        negatives = draw_negatives(self._crops.generators(crops, "negatives"), counts, self._negatives)
        return ContrastiveBatch(crops.update, crops.number, sent(torch.from_numpy(crops.waveforms), self._device),
                                torch.from_numpy(crops.mask), torch.from_numpy(negatives), float(sum(counts)),
                                crops.seconds, crops.ids)


def _sums(out: ContrastiveLoss) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """Loss in nats and accuracy over frames; code entries in use and the share of those that are not, over batches."""
    return {"loss": (out.contrastive * out.count, out.count), "contrastive_accuracy": (out.correct, out.count),
            "code_perplexity": (out.code_perplexity, 1), "diversity": (out.diversity, 1)}
