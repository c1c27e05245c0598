"""Recogniser training: an encoder, pretrained or from scratch, learns to write characters by CTC.

    hubertkit finetune RECIPE --out DIR data=train.arrow dev=dev.arrow encoder=round2/encoder
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_start import check_layers, check_start, warn_of_dev
from downstream.finetune_task import RecogniserTask, least_channels
from downstream.heads.ctc import Recogniser
from downstream.kept_head import check_head, take_head
from downstream.recogniser import recogniser_hash, save_recogniser
from downstream.text.symbols import remarks
from downstream.text.vocabulary import Vocabulary
from upstream import ranks
from upstream.audio.manifest import Manifest
from upstream.device import chosen_device
from upstream.disk import content_hash, path_given
from upstream.errors import UsageError
from upstream.keyed import keyed_torch
from upstream.locks import locked
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.model.loading import load_encoder
from upstream.model.masking import LIGHT_MASK
from upstream.model.saving import encoder_hash
from upstream.progress import say
from upstream.recipe import as_settings, check_recipe, refine
from upstream.stage import run_stage
from upstream.training.checkpoint import load_best
from upstream.training.loop import train, weights_settings
from upstream.training.recipe import without_pretraining


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


def _narrow(recipe: FinetuneRecipe, width: int) -> dict[str, str]:
    """What a key says of channel masks of half the width and more, which once were left out."""
    mask = recipe.mask
    wide = not mask.channel_share or recipe.frozen or width > 2 * mask.channel_span
    return {} if wide or width < least_channels(mask) else {"channel_masks": "of any span"}


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
