"""What a recogniser's training trains: whole utterances in batches, the CTC loss, and a validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.decode.alphabet import alphabet
from downstream.decode.greedy import greedy
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe, SpecMaskRecipe
from downstream.finetune_start import encoded
from downstream.heads.ctc import Recogniser, ctc_loss, least_frames
from downstream.phrases import longest_pause
from downstream.recogniser import emit, pad, warn_of_scraps
from downstream.score.rates import score
from downstream.text.vocabulary import Vocabulary, composed
from upstream.ahead import side_by_side
from upstream.audio.batches import MicroBatch, UtterancePlan
from upstream.audio.manifest import Manifest
from upstream.audio.speed import length_at, played
from upstream.device import sent
from upstream.errors import InputError
from upstream.frames import SAMPLE_RATE, FrameGrid
from upstream.keyed import keyed
from upstream.model import prepared
from upstream.model.config import EncoderConfig
from upstream.model.global_norm import measure_global_norm
from upstream.model.masking import SpanMask, span_mask
from upstream.places import spread
from upstream.progress import say
from upstream.training.loop import EVERY, Loss
from upstream.training.optimiser import ParameterGroup


@dataclass(frozen=True)
class RecogniserBatch:
    """Whole utterances, padded with zeros.

    Attributes:
        waveforms: (B, S) float32, on the device.
        lengths: (B,) int64 samples, on the host.
        mask, channel_mask: (B, T) and (B, D) bool, on the host, or None.
        targets: one (U,) int64 tensor an utterance, on the host.
        weight: utterances.
        seconds: of audio, padding not counted.
        ids: of the utterances.
    """

    update: int
    number: int
    waveforms: Tensor
    lengths: Tensor
    mask: Tensor | None
    channel_mask: Tensor | None
    targets: list[Tensor]
    weight: float
    seconds: float
    ids: list[str]


class RecogniserTask:
    """CTC training on whole utterances with masked inputs; validation is greedy WER and CER on dev.

    Attributes:
        model: the recogniser.
        kept: indices of the utterances that are used; those with no text, or with more symbols than frames, are
            counted and left out.
    """

    better = "cer"  # greedy word error rates stay at 100 for long, where a model that writes nothing has as many errors
    hears_whole_utterances = True

    def __init__(self, model: Recogniser, vocabulary: Vocabulary, manifest: Manifest, dev: Manifest | None,
                 recipe: FinetuneRecipe, device: torch.device) -> None:
        self.model = model
        self._vocabulary, self._recipe, self._device = vocabulary, recipe, device
        self._grid = model.encoder.config.grid
        self._audio, self._ids = recipe.cache.open(manifest), manifest.ids
        self._targets = encoded(manifest, vocabulary, recipe)
        self.kept = self._usable(manifest)
        self._warn_of_narrow_masks()
        if recipe.encoder == SCRATCH:
            measure_global_norm(model.encoder, self._audio.wave, self.kept, recipe.seed)
        self._plan = _plan(manifest.lengths[self.kept], self._grid, recipe)
        self._dev = None if dev is None else _up_to(dev, recipe.validation_seconds)
        self._dev_audio = None if self._dev is None else recipe.cache.open(self._dev)
        if self._dev is not None:
            warn_of_scraps(self._dev, self._grid)

    def groups(self) -> list[ParameterGroup]:
        """Head and encoder with rates of their own; the encoder waits for `freeze_updates`."""
        recipe = self._recipe
        groups = [ParameterGroup(list(self.model.over_encoder().values()), recipe.head_scale)]
        if recipe.frozen:
            self.model.encoder.requires_grad_(False)
            return groups
        self._hold_frontend()
        learned = [p for p in self.model.encoder.parameters() if p.requires_grad]
        start = 1 if recipe.encoder == SCRATCH else recipe.freeze_updates + 1
        return [*groups, ParameterGroup(learned, recipe.encoder_scale, from_update=start)]

    def updates(self, first: int, share: slice = EVERY) -> Iterator[list[RecogniserBatch]]:
        for micro in self._plan.from_update(first):
            yield [self._batch(m) for m in micro[share]]

    def loss(self, batch: RecogniserBatch) -> Loss:
        if self._frozen_at(batch.update):
            self.model.encoder.eval()  # a frozen encoder is read as it will be used: no dropout, no layerdrop
            self.model.encoder.requires_grad_(False)
        elif not self._recipe.frozen:
            self._thaw()
        logprobs, frames = self.model(batch.waveforms, batch.lengths, batch.mask, batch.channel_mask)
        loss = ctc_loss(logprobs, frames, batch.targets, self._vocabulary.blank)
        return Loss(loss, {"loss": (loss.detach() * batch.weight, batch.weight)})

    def validate(self) -> dict[str, Any]:
        """Greedy WER and CER in percent on dev, the share of frames whose best symbol is the blank, and the seconds of
        the longest pause within an utterance, by which `transcribe` parts recordings."""
        if self._dev is None or self._dev_audio is None:
            return {}
        self.model.eval()
        ids: list[str] = self._dev.ids
        hypotheses, blanks, frames, pause = {}, 0, 0, 0.0
        columns = alphabet(self._vocabulary.symbols, self._vocabulary.blank)
        emitted = emit(self.model, self._dev, self._dev_audio, self._device, self._recipe.training.precision)
        for index, logprobs in emitted:
            values = logprobs.numpy()
            hypotheses[ids[index]] = greedy(values, self._vocabulary.symbols, self._vocabulary.blank,
                                            self._grid.rate).text
            blanks += int((values.argmax(-1) == self._vocabulary.blank).sum())
            frames += len(values)
            pause = max(pause, longest_pause(values, columns, self._grid.rate)) if len(values) else pause
        # "": nothing is said. Accents are parts of their letters, as in what is written
        found = score({i: composed(t or "") for i, t in zip(ids, self._dev.texts)}, hypotheses)
        return {"wer": round(found.wer, 2), "cer": round(found.cer, 2),
                "blank_share": round(blanks / max(1, frames), 3), "longest_pause": round(pause, 2)}

    def _frozen_at(self, update: int) -> bool:
        return self._recipe.frozen or (self._recipe.encoder != SCRATCH and update <= self._recipe.freeze_updates)

    def _thaw(self) -> None:
        if self._recipe.freeze_updates:
            self.model.encoder.requires_grad_(True)
            self._hold_frontend()

    def _hold_frontend(self) -> None:
        if not self._recipe.frontend_learns(self.model.encoder.config):
            self.model.encoder.feature_extractor.requires_grad_(False)

    def _warn_of_narrow_masks(self) -> None:
        mask, width = self._recipe.mask, self.model.encoder.config.width
        if mask.channel_share and not self._recipe.frozen and width < (least := least_channels(mask)):
            say(f"warning: no channels are masked: mask.channel_span={mask.channel_span} wants {least} of them, and "
                f"the encoder has {width}; lower it")

    def _usable(self, manifest: Manifest) -> np.ndarray:
        fastest = max(self._recipe.speeds)
        found = [i for i, n in enumerate(manifest.lengths) if len(self._targets[i])
                 and least_frames(self._targets[i]) <= self._grid.frames(length_at(int(n), fastest))]
        if not found:
            raise InputError("no utterance has a transcript that fits its audio; is `text` filled in the manifest?")
        if len(found) < len(manifest):
            say(f"warning: {len(manifest) - len(found)} of {len(manifest)} utterances left out: no transcript, or more "
                "symbols than frames")
        return np.array(found, np.int64)

    def _batch(self, micro: MicroBatch) -> RecogniserBatch:
        indices = [int(i) for i in self.kept[micro.rows]]
        config = self.model.encoder.config
        waveforms, lengths = pad(side_by_side(lambda i: prepared(self._heard(i, micro), config), indices))
        mask, channels = self._masks(micro, indices, [self._grid.frames(n) for n in lengths.tolist()])
        targets = [torch.tensor(self._targets[i].tolist()) for i in indices]
        return RecogniserBatch(micro.update, micro.number, sent(waveforms, self._device), lengths, mask, channels,
                               targets, float(len(indices)), float(lengths.sum()) / 16_000,
                               [self._ids[i] for i in indices])

    def _drawn(self, purpose: str, micro: MicroBatch, index: int) -> np.random.Generator:
        """For an utterance in this update, and anew each time that it comes in it."""
        again = [micro.copy] if micro.copy else []
        return keyed(self._recipe.seed, purpose, micro.update, self._ids[index], *again)

    def _heard(self, index: int, micro: MicroBatch) -> np.ndarray:
        """An utterance at the speed that it is heard at in this update."""
        speeds = self._recipe.speeds
        if len(speeds) == 1:
            return played(self._audio.wave(index), speeds[0])
        drawn = self._drawn("speed", micro, index).integers(len(speeds))
        return played(self._audio.wave(index), speeds[drawn])

    def _masks(self, micro: MicroBatch, indices: list[int],
               frames: list[int]) -> tuple[Tensor | None, Tensor | None]:
        recipe = self._recipe.mask
        if self._frozen_at(micro.update):
            return None, None

        def draw(purpose: str, sizes: list[int], share: float, span: int, least: int) -> Tensor | None:
            if share == 0:
                return None
            masks, settings = np.zeros((len(sizes), max(sizes)), bool), SpanMask(share, span, 0)
            for row, size, i in zip(masks, sizes, indices):
                if size >= max(least, settings.least_frames):  # a shorter row might be hidden from end to end
                    row[:size] = span_mask(self._drawn(purpose, micro, i), size, settings)
            return torch.from_numpy(masks)

        width = self.model.encoder.config.width
        return (draw("time mask", frames, recipe.time_share, recipe.time_span, 2 * recipe.time_span + 1),
                draw("channel mask", [width] * len(indices), recipe.channel_share, recipe.channel_span, 0))


def update_seconds(lengths: np.ndarray, config: EncoderConfig, recipe: FinetuneRecipe) -> float:
    """Audio of an update, on average over an epoch, padding not counted: less than `batch_seconds` by what whole
    utterances leave empty, and more where one alone is longer than a micro-batch.

    Args:
        lengths: (N,) samples of the utterances, all of them taken to be usable.
    """
    if not len(lengths):
        return float(recipe.training.batch_seconds)
    updates = _plan(lengths, config.grid, recipe).epoch(0)
    heard = sum(int(lengths[rows].sum()) for update in updates for rows in update)
    return heard / len(updates) / SAMPLE_RATE * float(np.mean([1 / speed for speed in recipe.speeds]))


def _plan(lengths: np.ndarray, grid: FrameGrid, recipe: FinetuneRecipe) -> UtterancePlan:
    """Which utterances of (N,) samples come together."""
    longest = [length_at(int(n), min(recipe.speeds)) for n in lengths]  # must fit as well
    return UtterancePlan(np.array([grid.frames(n) for n in longest], np.int64),
                         int(recipe.training.micro_batch_seconds * grid.rate), recipe.training.accumulate, recipe.seed)


def _up_to(manifest: Manifest, seconds: float) -> Manifest:
    """At most `seconds` of audio, in utterances of all lengths that fit into them; the shortest, if none does."""
    if manifest.seconds <= seconds:
        return manifest
    lengths, most = np.asarray(manifest.lengths), seconds * SAMPLE_RATE
    fitting = np.flatnonzero(lengths <= most)
    if not len(fitting):
        return manifest.select([int(lengths.argmin())])
    count = max(1, min(len(fitting), int(len(fitting) * most / max(1, lengths[fitting].sum()))))
    while lengths[chosen := fitting[spread(lengths[fitting], count)]].sum() > most:
        count -= 1  # they are about as long as asked, and one alone fits
    return manifest.select(chosen)


def least_channels(mask: SpecMaskRecipe) -> int:
    """Of an encoder whose channels can be masked without hiding all of them."""
    return SpanMask(mask.channel_share, mask.channel_span, 0).least_frames
