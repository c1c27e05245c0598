"""Recognisers on disk: an encoder folder with a CTC head and `vocab.json`; and their emissions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.emissions import Emissions, EmissionsWriter, holds, join
from downstream.heads.ctc import Recogniser
from downstream.heads.recipe import HeadRecipe
from downstream.text.vocabulary import BLANK, Vocabulary, named_blank
from upstream.ahead import ahead
from upstream.audio.caching import AudioCache
from upstream.audio.manifest import Manifest
from upstream.device import best_device, sent
from upstream.disk import content_hash, path_given
from upstream.errors import FormatError, InputError, UsageError
from upstream.features.long_recordings import is_long
from upstream.frames import SAMPLE_RATE, FrameGrid
from upstream.model import Encoder, prepared, read_description
from upstream.model.formats import Checkpoint, CtcHead
from upstream.model.formats.checkpoint import refuse_rest, take
from upstream.model.formats.tensors import as_saved
from upstream.model.saving import encoder_hash, read_checkpoint_folder, save_encoder, tensors_hash
from upstream.progress import progress, say
from upstream.stretches import remove_stretches, stretch_folder, stretches
from upstream.training.precision import autocast

STRETCH_SECONDS = 36_000.0  # of audio whose emissions are in memory at a time, 115 MB with 32 symbols at 50 Hz, and
STRETCH_VALUES = 1 << 26  # no more values than these, 128 MiB, where there are thousands of symbols
_LINEAR = ("head.weight", "head.bias")  # of a recogniser's parameters


def save_recogniser(model: Recogniser, vocabulary: Vocabulary, folder: Path, extra: dict[str, Any]) -> None:
    """Write a recogniser: the encoder's files with the head, and `vocab.json`.

    With the conv front end the linear head stands in model.safetensors, and `transformers.AutoModelForCTC` and
    `AutoProcessor` load the folder; otherwise it is head.safetensors (`weight (V, D)`, `bias (V,)`). Of another head
    that file holds all weights, hubertkit.json its settings (`head_settings`) and, where it hears several layers, what
    each counts (`layer_weights`: softmaxed, by the layer's number).

    Raises:
        InputError: a blank that is not to be told by its name, and would be another symbol when the folder is read.
    """
    named = named_blank(vocabulary.symbols)
    if named != vocabulary.blank:
        read = "and none would be" if named is None else f"and {vocabulary.symbols[named]!r} would be"
        raise InputError(f"{folder}: the blank is {vocabulary.symbols[vocabulary.blank]!r}, {read} when vocab.json is "
                         f"read again; call the blank {BLANK}, and no other symbol")
    under = {name: as_saved(tensor) for name, tensor in model.over_encoder().items() if name not in _LINEAR}
    head = CtcHead(as_saved(model.head.weight), as_saved(model.head.bias), vocabulary.symbols, vocabulary.blank,
                   model.recipe.settings(), under)
    shares = {"layer_weights": model.mix.shares()} if len(model.mix.layers) > 1 else {}
    save_encoder(model.encoder, Path(folder), extra={"head": "ctc", **shares, **extra}, ctc=head)


def heard_pause(folder: Path) -> float | None:
    """Seconds of the longest pause between two letters that a recogniser heard within an utterance of dev when it was
    fine-tuned (`save_recogniser`'s extra `longest_pause`); None where nothing says so."""
    if not (Path(folder) / "hubertkit.json").is_file():
        return None
    found = read_description(folder).get("longest_pause")
    return float(found) if isinstance(found, int | float) and 0 <= found < math.inf else None


def load_recogniser(folder: Path) -> tuple[Recogniser, Vocabulary]:
    """Read a recogniser that `save_recogniser` wrote, in evaluation mode.

    Raises:
        UsageError: no such folder, or an encoder without a recogniser's head.
        FormatError: the head and the vocabulary do not fit each other.
    """
    folder = path_given(folder, "folder")
    if not (folder / "vocab.json").is_file():
        read_description(folder)
        raise UsageError(f"{folder}: an encoder without vocab.json is no recogniser; fine-tune it first "
                         f"(hubertkit finetune RECIPE encoder={folder} ...)")
    found = read_checkpoint_folder(folder)
    vocabulary, head = _vocabulary(folder / "vocab.json", found), found.ctc
    if head is None:
        wanted = (len(vocabulary.symbols), found.config.width)
        raise FormatError(f"{folder}: vocab.json wants a head of shape {wanted}, and neither model.safetensors nor "
                          "head.safetensors has one")
    recipe = _head_recipe(head, found, folder / "hubertkit.json")
    wanted = (len(vocabulary.symbols), recipe.width_over(found.config.width))
    if tuple(head.weight.shape) != wanted or tuple(head.bias.shape) != wanted[:1]:
        name = "head.safetensors" if head.settings or found.config.frontend != "conv" else "model.safetensors"
        raise FormatError(f"{folder / name}: a head with weight {tuple(head.weight.shape)} and bias "
                          f"{tuple(head.bias.shape)}; vocab.json and the encoder want {wanted} and {wanted[:1]}")
    return recogniser_of(found.encoder(), head, folder / "head.safetensors"), vocabulary


def _head_recipe(head: CtcHead, found: Checkpoint, where: Path) -> HeadRecipe:
    """Raises FormatError where the settings of a head make none, or it is to hear a layer that is not there."""
    try:
        recipe = HeadRecipe(**head.settings)
        recipe.layers_read(found.config.layers)
    except (TypeError, ValueError, UsageError) as error:
        raise FormatError(f"{where}: head_settings: {error}; fine-tune again, or use the version of hubertkit that "
                          "wrote it") from error
    return recipe


def _vocabulary(path: Path, found: Checkpoint) -> Vocabulary:
    """The symbols of a recogniser. With the conv front end config.json says which is the blank, as transformers has it;
    otherwise its name does."""
    if found.config.frontend != "conv" or found.ctc is None or found.ctc.symbols is None or found.ctc.settings:
        return Vocabulary.load(path)
    try:
        return Vocabulary(found.ctc.symbols, found.ctc.blank)
    except InputError as error:
        raise FormatError(f"{path}: {error}") from error


def recogniser_of(encoder: Encoder, head: CtcHead, where: str | Path = "the head") -> Recogniser:
    """An encoder under a given head, in evaluation mode. Raises FormatError naming `where` for weights that are
    missing, left over, or of another shape than the head's settings say."""
    model = Recogniser(encoder, len(head.weight), recipe=HeadRecipe(**head.settings))
    own, found = model.over_encoder(), {"head.weight": head.weight, "head.bias": head.bias, **head.under}
    weights = take({name: tuple(p.shape) for name, p in own.items()}, found, lambda name: name, where)
    refuse_rest(found, where)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return model.eval()


def compute_emissions(folder: Path, manifest: Manifest, out: Path, device: torch.device | str | None = None) -> str:
    """Emissions of a recogniser for every utterance of a manifest, in its order, into `out`; gives their hash.

    Computed in float32 on a device, by default the GPU if there is one. An utterance too short for a frame gets none,
    with a warning. Large corpora are done in stretches, in folders of their own in `out`, and then put together: those
    that were done before a kill are kept. While they are put together they take twice the room.
    """
    model, vocabulary = load_recogniser(folder)
    out, device = Path(out), torch.device(device or best_device())
    model.to(device)
    grid = model.encoder.config.grid
    warn_of_scraps(manifest, grid)
    meta = {"manifest_hash": manifest.hash, "recogniser_hash": recogniser_hash(model)}
    found = emission_stretches(manifest, len(vocabulary.symbols), grid.rate)
    places = {rows: stretch_folder(out, rows) if len(found) > 1 else out for rows in found}
    ids = manifest.ids  # a list that is made at each call
    left = found if len(found) == 1 else [
        rows for rows in found if not holds(places[rows], ids[rows.start:rows.stop], vocabulary.symbols, meta)]
    done = 0
    with progress(f"emissions {out.name}", sum(map(len, left))) as report:
        for rows in left:
            part, emitted = manifest.select(rows), dict[int, np.ndarray]()
            with EmissionsWriter(places[rows], vocabulary.symbols, vocabulary.blank, grid.rate, meta) as writer:
                for index, logprobs in emit(model, part, AudioCache(part), device):
                    emitted[index] = logprobs.numpy().astype(np.float16)
                    done += 1
                    report(done)
                for index, utterance in enumerate(part.ids):
                    writer.add(utterance, emitted[index])
    if len(found) > 1:
        join(list(places.values()), out)
    remove_stretches(out)
    return Emissions.load(out).hash


def emission_stretches(manifest: Manifest, symbols: int, rate: float) -> list[range]:
    """The stretches, at least one, in which emissions of so many symbols at `rate` Hz are computed."""
    return stretches(manifest.lengths, min(STRETCH_SECONDS, STRETCH_VALUES / (symbols * rate))) or [range(0)]


def emit(model: Recogniser, manifest: Manifest, audio: AudioCache, device: torch.device | str,
         precision: str = "float32", seconds: float = 120.0) -> Iterator[tuple[int, Tensor]]:
    """(index, (T, V) float32 log-probabilities on the host) of every utterance, longest first.

    T is 0 for an utterance that is too short for a frame.

    Args:
        device: where the model is.
        precision: `float32`, or `bf16` for a quick look.
        seconds: of audio in a batch, padding included. Padding changes nothing in what an utterance gets.
    """
    device = torch.device(device)
    order = np.argsort(-manifest.lengths, kind="stable")
    scraps = too_short(manifest, model.encoder.config.grid)
    order = order[~np.isin(order, scraps)]
    config = model.encoder.config
    batches = _batches(order, manifest.lengths, seconds)
    read = ahead(lambda indices: pad([prepared(audio.wave(int(i)), config) for i in indices]), batches)
    for indices, (waveforms, lengths) in zip(batches, read):
        logprobs, frames = _emitted(model, sent(waveforms, device), lengths, precision)
        for row, index in enumerate(indices):
            yield int(index), logprobs[row, :int(frames[row])]
    for index in scraps:
        yield index, torch.zeros(0, model.head.out_features)


def _emitted(model: Recogniser, waveforms: Tensor, lengths: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """(B, T, V) log-probabilities of a batch on the host, and (B,) frames; the model is in its mode again."""
    modes = [(part, part.training) for part in model.modules()]  # a frozen encoder's may differ from the head's
    model.eval()
    try:
        # not inference_mode, whose tensors nothing could learn from
        with torch.no_grad(), autocast(waveforms.device, precision):
            if len(waveforms) == 1 and is_long(waveforms.shape[1]):
                logprobs = model.of_long(waveforms[0])
                frames = torch.tensor([logprobs.shape[1]])
            else:
                logprobs, frames = model(waveforms, lengths)
        return logprobs.cpu(), frames
    finally:
        for part, training in modes:
            part.training = training


def _batches(order: np.ndarray, lengths: np.ndarray, seconds: float) -> list[np.ndarray]:
    """Utterances in this order, of which the first of a batch is the longest, as batches of so many seconds."""
    batches = []
    while len(order):
        rows = max(1, int(seconds * SAMPLE_RATE // max(1, lengths[order[0]])))
        batches.append(order[:rows])
        order = order[rows:]
    return batches


def too_short(manifest: Manifest, grid: FrameGrid) -> list[int]:
    """Indices of the utterances that are too short for a frame."""
    return np.flatnonzero(manifest.lengths < grid.least_samples).tolist()


def warn_of_scraps(manifest: Manifest, grid: FrameGrid) -> None:
    """Say how many utterances are too short for a frame, and the first of them; nothing if there are none."""
    scraps = too_short(manifest, grid)
    if scraps:
        say(f"warning: {len(scraps)} of {len(manifest)} utterances are too short for a frame ({grid.least_samples} "
            f"samples at 16 kHz) and get no text, first {manifest.ids[scraps[0]]}")


def pad(waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Waveforms of several lengths as (B, S) float32 with zeros at the end, and their lengths (B,) int64."""
    lengths = [len(w) for w in waves]
    batch = np.zeros((len(waves), max(lengths)), np.float32)
    for row, wave in zip(batch, waves):
        row[:len(wave)] = wave
    return torch.from_numpy(batch), torch.tensor(lengths)


def recogniser_hash(model: Recogniser) -> str:
    """sha256 (hex) over all weights and, of another head than the linear one, its settings."""
    head: dict[str, Any] = {name: tensor.tolist() for name, tensor in model.head.state_dict().items()}
    if settings := model.recipe.settings():
        under = {name: p for name, p in model.over_encoder().items() if name not in _LINEAR}
        head |= {"settings": settings, "under": tensors_hash(under)}
    return content_hash([encoder_hash(model.encoder), head])
