"""Recogniser training: an encoder, pretrained or from scratch, learns to write characters by CTC.

    hubertkit finetune RECIPE --out DIR data=train.arrow dev=dev.arrow encoder=round2/encoder
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.decode.alphabet import alphabet
from downstream.decode.greedy import greedy
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe, SpecMaskRecipe
from downstream.finetune_start import check_layers, check_start, encoded, warn_of_dev
from downstream.heads.ctc import Recogniser, ctc_loss, least_frames
from downstream.kept_head import check_head, take_head
from downstream.phrases import longest_pause
from downstream.recogniser import emit, pad, recogniser_hash, save_recogniser, warn_of_scraps
from downstream.score.rates import score
from downstream.text.symbols import remarks
from downstream.text.vocabulary import Vocabulary, composed
from upstream import ranks
from upstream.ahead import side_by_side
from upstream.audio.batches import MicroBatch, UtterancePlan
from upstream.audio.manifest import Manifest
from upstream.audio.speed import length_at, played
from upstream.device import chosen_device, sent
from upstream.disk import content_hash, path_given
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE, FrameGrid
from upstream.keyed import keyed, keyed_torch
from upstream.locks import locked
from upstream.model import prepared
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.model.global_norm import measure_global_norm
from upstream.model.loading import load_encoder
from upstream.model.masking import LIGHT_MASK, SpanMask, span_mask
from upstream.model.saving import encoder_hash
from upstream.places import spread
from upstream.progress import say
from upstream.recipe import as_settings, check_recipe, refine
from upstream.stage import run_stage
from upstream.training.checkpoint import load_best
from upstream.training.loop import EVERY, Loss, train, weights_settings
from upstream.training.optimiser import ParameterGroup
from upstream.training.recipe import without_pretraining


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


def finetune(recipe: FinetuneRecipe, out: Path, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Train a recogniser into `out`: an encoder folder with a head and `vocab.json`.

    Raises:
        BusyError: another process works in `out`.
        Others: as `recogniser_stage`, before anything is made.
    """
    check_recipe(recipe, FinetuneRecipe)
    out = path_given(out, "out")
    given = _given(recipe, out, say)  # before the lock, which is a file in the folder
    with locked(out):
        return _stage(recipe, out, say, given)


def recogniser_stage(recipe: FinetuneRecipe, out: Path, say: Callable[[str], None] = say) -> dict[str, Any]:
    """As `finetune`, as a stage of a run whose folder the caller holds.

    Raises:
        UsageError: no data, a manifest that is not there, or `out` is the folder of the encoder.
        InputError: no transcripts, a dev utterance without one, a character outside the vocabulary, dev utterances
            among the training's. Dev speakers among the training's are a warning.
        Both: a head that cannot be kept (`kept_head.check_head`).
    """
    return _stage(recipe, out, say, _given(recipe, out, say))


@dataclass(frozen=True)
class _Given:
    """What a training is given, and the hashes of that which its weights depend on."""

    manifest: Manifest
    dev: Manifest | None
    vocabulary: Vocabulary
    inputs: dict[str, str]


def _given(recipe: FinetuneRecipe, out: Path, say: Callable[[str], None]) -> _Given:
    manifest, dev, vocabulary = check_start(recipe, out)
    if dev is not None:
        warn_of_dev(manifest, dev, vocabulary, say)
    return _Given(manifest, dev, vocabulary, {"data": manifest.hash, "dev": dev.hash if dev else "none",
                                              **_source(recipe), **check_head(recipe, vocabulary)})


def _stage(recipe: FinetuneRecipe, out: Path, say: Callable[[str], None], given: _Given) -> dict[str, Any]:
    manifest, dev, vocabulary = given.manifest, given.dev, given.vocabulary

    def work(folder: Path) -> dict[str, Any]:
        device = chosen_device(recipe.device)
        if recipe.symbols == "data":
            for line in remarks(manifest.texts, vocabulary):
                say(line)
        model = build_recogniser(recipe, vocabulary).to(device)
        task = RecogniserTask(model, vocabulary, manifest, dev, recipe, device)
        final = train(task, without_pretraining(recipe.training), folder, seed=recipe.seed, device=device,
                      what=f"fine-tuning {folder.name}")
        if recipe.training.keep_best:
            final |= ranks.alone(lambda: _take_best(task.model, folder, say))
        if ranks.first():
            if shares := task.model.mix.shares():
                say(f"{folder.name}: shares of the layers: " + ", ".join(f"{k} {v:.3f}" for k, v in shares.items()))
            found = {name: value for name, value in final.items() if name in ("longest_pause", "best_update")}
            save_recogniser(task.model, vocabulary, folder, {"from": recipe.encoder, "data": manifest.hash, **found})
        return {"hash": recogniser_hash(task.model), **final,
                "utterances": len(task.kept), "left_out": len(manifest) - len(task.kept)}

    return run_stage(out, "recogniser", version=1, settings=stage_settings(recipe), inputs=given.inputs, work=work,
                     say=say, together=True)


def _take_best(model: Recogniser, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Give a model the weights with the lowest character error rate on dev, and what was measured of them; neither
    where no validation had one."""
    best = load_best(folder / "checkpoints", model)
    if best is None:
        return {}
    update, validation = best[0], best[1]["validation"]
    say(f"{folder.name}: of all validations that of update {update} was the best, cer {validation['cer']:g}; its "
        "weights are the recogniser")
    return {**validation, "best_update": update}


def stage_settings(recipe: FinetuneRecipe) -> dict[str, Any]:
    """What of a recipe the recogniser's weights depend on, besides its inputs' contents."""
    elsewhere = {"data", "dev", "encoder", "validation_seconds", "cache", "device"}
    if recipe.encoder != SCRATCH:
        elsewhere.add("architecture")  # a pretrained encoder brings its own
    if recipe.encoder == SCRATCH or not recipe.fresh_layers:
        elsewhere.add("fresh_layers")  # what was trained before there was such a setting is not stale
    if recipe.speeds == [1.0]:
        elsewhere.add("speeds")  # likewise
    if recipe.symbols == "english":
        elsewhere.add("symbols")  # likewise; those of the data stand with it
    if not recipe.head.settings():
        elsewhere.add("head")  # likewise
    if not recipe.keep_head:
        elsewhere.add("keep_head")  # likewise
    settings = {k: v for k, v in as_settings(recipe).items() if k not in elsewhere}
    if "head" in settings:
        settings["head"] = recipe.head.settings()
    settings["train_frontend"] = bool(recipe.train_frontend)  # that of a light one stands with its encoder (`_source`)
    architecture = settings.get("architecture", {})
    if architecture.get("stride_ms") == EncoderConfig().stride_ms:
        del architecture["stride_ms"]
    if architecture.get("frontend") == "light" and recipe.mask.time_share and not recipe.frozen:
        architecture["frontend"] = LIGHT_MASK
    training = weights_settings(without_pretraining(recipe.training))
    if recipe.training.keep_best:  # whose weights these are follows from when was looked, and at what
        settings["validation_seconds"] = recipe.validation_seconds
        training |= {"keep_best": RecogniserTask.better, "validate_every": recipe.training.validate_every}
    return {**settings, "training": training}


def build_recogniser(recipe: FinetuneRecipe, vocabulary: Vocabulary) -> Recogniser:
    """The encoder of the recipe, its dropouts changed, under a fresh head or the one that is kept."""
    if recipe.encoder == SCRATCH:
        config = refine(recipe.architecture, recipe.changes, "changes")
        encoder = Encoder(config).initialise(recipe.seed)
    else:
        pretrained = load_encoder(recipe.encoder)
        config = refine(pretrained.config, recipe.changes, "changes")
        if recipe.train_frontend and config.feature_grad_mult == 0:  # fairseq's recognisers have it so
            config = replace(config, feature_grad_mult=1.0)
        encoder = with_config(pretrained, config)
        freshen(encoder, recipe.fresh_layers, recipe.seed)
    recogniser = Recogniser(encoder, len(vocabulary.symbols), recipe.head_dropout, recipe.head)
    recogniser.initialise_head(keyed_torch(recipe.seed, "ctc head"))
    if recipe.keep_head:
        take_head(recogniser, recipe, vocabulary)
    return recogniser


def freshen(encoder: Encoder, layers: int, seed: int) -> None:
    """Draw the weights of the last `layers` blocks anew, in place, and those of the norm over the encoder's output.

    The last layers of a pretrained encoder have specialised in what it was trained to predict, and few labels take long
    to talk them out of it (Pasad et al. 2021, "Layer-wise analysis of a self-supervised speech representation model";
    for text Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning").

    Raises:
        UsageError: more blocks than there are.
    """
    if not layers:
        return
    blocks = encoder.encoder.layers
    if layers > len(blocks):
        raise UsageError(f"fresh_layers={layers}: this encoder has {len(blocks)} layers")
    drawn = Encoder(encoder.config).initialise(seed).encoder
    for block, other in zip(list(blocks)[-layers:], list(drawn.layers)[-layers:]):
        block.load_state_dict(other.state_dict())
    if encoder.config.pre_norm:  # after the last block; in post-norm models it is at the start
        encoder.encoder.layer_norm.load_state_dict(drawn.layer_norm.state_dict())


def with_config(encoder: Encoder, config: EncoderConfig) -> Encoder:
    """The same weights under a configuration that differs in dropouts only."""
    changed = Encoder(config)
    changed.load_state_dict(encoder.state_dict())
    return changed


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
        if mask.channel_share and not self._recipe.frozen and width < (least := _least_channels(mask)):
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


def _least_channels(mask: SpecMaskRecipe) -> int:
    """Of an encoder whose channels can be masked without hiding all of them."""
    return SpanMask(mask.channel_share, mask.channel_span, 0).least_frames


def _narrow(recipe: FinetuneRecipe, width: int) -> dict[str, str]:
    """What a key says of channel masks of half the width and more, which once were left out."""
    mask = recipe.mask
    wide = not mask.channel_share or recipe.frozen or width > 2 * mask.channel_span
    return {} if wide or width < _least_channels(mask) else {"channel_masks": "of any span"}


def _source(recipe: FinetuneRecipe) -> dict[str, str]:
    """Hash of the weights to start from; of an encoder from elsewhere, whose configuration may be mended under the same
    weights, also of that."""
    if recipe.encoder == SCRATCH:
        check_layers(recipe, recipe.architecture.layers)
        return {"encoder": SCRATCH, **_narrow(recipe, recipe.architecture.width)}
    encoder = load_encoder(recipe.encoder)
    check_layers(recipe, encoder.config.layers)
    found = {"encoder": encoder_hash(encoder), **_narrow(recipe, encoder.config.width)}
    learns = recipe.frontend_learns(encoder.config)
    if encoder.config.frontend == "light" and not recipe.frozen:
        found["front_end"] = f"{LIGHT_MASK}, {'learns' if learns else 'stays'}"
    elif learns and encoder.config.feature_grad_mult == 0 and not recipe.frozen:
        found["front_end"] = "learns"  # once it did not
    if not (Path(recipe.encoder) / "stage.json").is_file():  # that of a stage follows from its weights
        found["encoder_shape"] = content_hash(encoder.config.to_dict())
    return found
