"""How fast a round would be done here, before anything of it is there: its training by a few steps on noise of the
recipe's shape, its teacher and units by the features of some noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from upstream.frames import CONV_GRID, SAMPLE_RATE, frame_counts
from upstream.keyed import keyed, keyed_torch
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.model.masked_prediction import MaskedPrediction
from upstream.model.masking import batch_masks
from upstream.pretrain_recipe import ProbeRecipe, Round, TeacherRecipe
from upstream.round_teacher import BEST, teacher_source
from upstream.teacher.kmeans import STARTS, fit, levels
from upstream.teacher.sweep import FIT_FRAMES as SWEEP_FRAMES
from upstream.teacher.sweep import ITERATIONS as SWEEP_ITERATIONS
from upstream.training.fitting import is_out_of_memory
from upstream.training.precision import autocast
from upstream.training.recipe import AUTO

MOST_SECONDS = 32.0  # of audio in the step: BASE takes five seconds for it on two cores
CLASSES = 100  # a class more or less costs nothing beside the encoder
STEPS = 2  # the first is slower: memory and kernels are found
UTTERANCES, UTTERANCE_SECONDS = 4, 12.0  # of noise, for features
FIT_FRAMES = 20_000  # of noise, for k-means; the time of more is in proportion to the frames that are gone over


def audio_seconds_per_second(round_: Round, device: torch.device) -> float | None:
    """The rate of forward and backward passes of one process with all its threads, the optimiser apart.

    Decoding, validation and other ranks are not in it, so it is a rough figure. None for a round without a teacher,
    whose objective this is not, and where not even one crop fits into memory.
    """
    if not round_.has_teacher:
        return None
    recipe = round_.training
    whole = recipe.batch_seconds if recipe.micro_batch_seconds == AUTO else recipe.micro_batch_seconds
    rows = max(1, int(min(whole, MOST_SECONDS) / recipe.crop_seconds))
    samples = int(recipe.crop_seconds * SAMPLE_RATE)
    frames = round_.encoder.grid.frames(samples)
    try:
        model = MaskedPrediction(Encoder(round_.encoder), (CLASSES,)).initialise(0).to(device).train()
        waveforms = 0.1 * torch.randn(rows, samples, generator=keyed_torch(0, "trial")).to(device)
        mask = torch.from_numpy(batch_masks([keyed(0, "trial", row) for row in range(rows)], [frames] * rows,
                                            round_.mask))
        labels = torch.zeros(rows, frames, 1, dtype=torch.int64)
        for _ in range(STEPS):
            began = time.perf_counter()
            with autocast(device, recipe.precision):
                loss = model(waveforms, None, mask, labels).total
            loss.backward()
            float(loss.detach())  # waits for a GPU
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return rows * recipe.crop_seconds / (time.perf_counter() - began)


def teacher_seconds(round_: Round, shapes: Sequence[EncoderConfig], lengths: np.ndarray, device: torch.device,
                    probe: ProbeRecipe) -> tuple[float, float] | None:
    """Seconds that a round's teacher and its units would take in one process; decoding is not in it.

    Args:
        shapes: of the encoders that the teacher reads, where it reads layers.
        lengths: (N,) samples of the recordings.
        probe: what a sweep hears that is to pick the layer.

    Returns:
        None for a round that fits no teacher and makes no units, and where memory does not suffice.
    """
    recipe = round_.teacher
    if not round_.has_teacher or round_.has_units_already:
        return None
    rate, dim = _heard(recipe, shapes, device)
    if rate is None:
        return None
    frames = frame_counts(lengths, CONV_GRID)
    total = int(frames.sum())
    drawn = min(recipe.sample_frames, total)
    chance = min(1.0, recipe.sample_within * drawn / max(1, total)) if recipe.sample_within else 1.0  # of an utterance
    # One of which no frame is drawn is not read; few are not.
    read = chance * (1 - (1 - drawn / max(1.0, chance * total)) ** frames)
    seconds, fitting = float(lengths.sum()) / SAMPLE_RATE, 0.0
    if recipe.features == "layer" and recipe.layer == BEST:
        heard = min(probe.seconds, seconds) if probe.manifest is None else probe.seconds
        fitting = _sweep_seconds(recipe, shapes[0], heard, probe.alignments is not None, rate, dim, device)
    if recipe.imported is None and recipe.kind != "random":
        fitting += float((read * lengths).sum()) / SAMPLE_RATE / rate + _fit_seconds(recipe, dim, drawn, device)
    return fitting, seconds / rate


def _sweep_seconds(recipe: TeacherRecipe, shape: EncoderConfig, heard: float, aligned: bool, rate: float, dim: int,
                   device: torch.device) -> float:
    """One pass for all layers, at the rate of the last, and a k-means for each; without alignments a noisy copy of
    every recording is heard, too."""
    each = replace(recipe, clusters=max(recipe.numbers), kind="single", iterations=SWEEP_ITERATIONS, restarts=1)
    frames = min(SWEEP_FRAMES, int(heard * shape.grid.rate))
    return (1 if aligned else 2) * heard / rate + shape.layers * _fit_seconds(each, dim, frames, device)


def _heard(recipe: TeacherRecipe, shapes: Sequence[EncoderConfig], device: torch.device) -> tuple[float | None, int]:
    """Audio seconds a second at which features are made, and how many values a frame has; None: no room."""
    layer = shapes[0].layers if recipe.layer == BEST and shapes else recipe.layer
    noise = keyed(0, "trial").standard_normal((UTTERANCES, int(UTTERANCE_SECONDS * SAMPLE_RATE)), np.float32) * 0.1
    try:
        encoders = [Encoder(shape).initialise(0).eval() for shape in shapes]
        source = teacher_source(recipe, encoders, layer, device)
        for _ in range(STEPS):
            began = time.perf_counter()
            for _, frames in source.stream(_Noise(noise), range(UTTERANCES), lambda index: noise[index]):
                float(frames[0, 0])  # waits for a GPU
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None, 0
    return UTTERANCES * UTTERANCE_SECONDS / (time.perf_counter() - began), int(source.describe()["dim"])


def _fit_seconds(recipe: TeacherRecipe, dim: int, frames: int, device: torch.device) -> float:
    """What k-means takes on so many frames of noise; other kinds of teachers take about as long."""
    seconds = 0.0
    for clusters in recipe.numbers:
        tried = min(frames, max(FIT_FRAMES, 2 * clusters))
        if clusters >= tried:
            continue
        points = torch.randn(tried, dim, generator=keyed_torch(0, "trial")).to(device)
        fit(points, clusters, 0, 1)  # loads what it needs
        began = time.perf_counter()
        fit(points, clusters, 0, recipe.iterations, recipe.restarts)
        taken = time.perf_counter() - began
        seconds += taken * _gone_over(frames, clusters, recipe) / _gone_over(tried, clusters, recipe)
    return seconds


def _gone_over(frames: int, clusters: int, recipe: TeacherRecipe) -> int:
    """Frames that k-means goes over, each as often as it does."""
    coarse, *finer = [(len(part), times) for part, times in levels(torch.empty(frames, 1), clusters, recipe.iterations)]
    return (STARTS if finer else 1) * coarse[0] * coarse[1] + sum(count * times for count, times in finer)


class _Noise:
    def __init__(self, waves: np.ndarray) -> None:
        self.lengths = np.full(len(waves), waves.shape[1])
