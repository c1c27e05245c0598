"""How much disk the stages of a pretraining take, at most: while they are done, and before what they need no more is
removed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from upstream.disk import folder_bytes
from upstream.frames import CONV_GRID, SAMPLE_RATE, frame_counts
from upstream.pretrain import contrastive_prediction, masked_prediction
from upstream.pretrain_recipe import Round, TeacherRecipe
from upstream.teacher.importing import import_centroids
from upstream.teacher.kept_sample import STRETCH_SECONDS
from upstream.teacher.quantiser import RANDOM_DIMENSIONS
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units
from upstream.training.recipe import TrainingRecipe

ADAM = 3  # times the weights: they and both moments
FLOAT, LABEL, OFFSET = 4, 2, 8  # bytes of a number, of a frame's unit, of where an utterance begins
NAMED = 300  # of a tensor's name and shape in a file
LOGGED = 2000  # of what is logged at a time, in metrics.jsonl and for TensorBoard
JSON, COUNTED = 50_000, 32  # of a stage's other files; of a class in them, for they hold histograms


def most_bytes(kind: str, round_: Round | None, manifest: Path | None, lengths: np.ndarray | None,
               dim: int | None) -> int | None:
    """What a stage takes; None where nobody knows, since a folder's recordings have not been counted yet.

    Args:
        kind: `corpus`, or the stage of a round.
        manifest: of the recordings, where there is one.
        lengths: (N,) samples of the recordings, where there is a manifest.
        dim: numbers of a frame that the round's teacher reads; None where that is not known.
    """
    if round_ is None:
        return None if manifest is None else 2 * manifest.stat().st_size + JSON  # the ids held out stand there again
    classes = _classes(round_, dim)
    papers = JSON + COUNTED * sum(classes)
    if kind == "encoder":
        return papers + _training_bytes(round_, classes)
    if kind == "units":
        return None if lengths is None or manifest is None else \
            papers + 2 * (_units_bytes(lengths, len(classes)) + manifest.stat().st_size)  # ids; ranks write parts first
    if kind == "teacher":
        return None if dim is None else \
            papers + _teacher_bytes(round_.teacher, classes, dim) + _sample_bytes(round_.teacher, lengths, dim)
    return papers


def _training_bytes(round_: Round, classes: tuple[int, ...]) -> int:
    """Of an encoder and the heads that it is trained with."""
    with torch.device("meta"):
        model = masked_prediction(round_, classes) if round_.has_teacher else contrastive_prediction(round_)
    return training_bytes(model, round_.training)


def training_bytes(model: nn.Module, recipe: TrainingRecipe) -> int:
    """A model as it is saved at the end of its training, the checkpoints that stay, and one: it is written before the
    oldest is removed. Logs as well."""
    weights = sum(tensor.nbytes + NAMED for tensor in model.state_dict().values())
    return weights * (1 + ADAM * min(_kept(recipe) + 1, recipe.updates)) + LOGGED * _logged(recipe)


def _kept(recipe: TrainingRecipe) -> int:
    for_ever = recipe.updates // recipe.keep_every if recipe.keep_every else 0
    return recipe.keep_checkpoints + for_ever + recipe.keep_best


def _logged(recipe: TrainingRecipe) -> int:
    return 2 + recipe.updates // recipe.log_every + recipe.updates // recipe.validate_every


def _units_bytes(lengths: np.ndarray, streams: int) -> int:
    return LABEL * int(frame_counts(lengths, CONV_GRID).sum()) * streams + OFFSET * len(lengths)


def _teacher_bytes(recipe: TeacherRecipe, classes: tuple[int, ...], dim: int) -> int:
    """Codebooks, and a projection to so many dimensions before them."""
    if recipe.imported is not None and Path(recipe.imported).is_dir():
        return folder_bytes(Path(recipe.imported))
    rows = RANDOM_DIMENSIONS * len(classes) if recipe.kind == "random" else recipe.pca or dim * recipe.whiten
    return FLOAT * dim * (sum(classes) + rows + 1)


def _sample_bytes(recipe: TeacherRecipe, lengths: np.ndarray | None, dim: int) -> int:
    """Of a long sample, which is kept until the teacher is there; of recordings that nobody has counted as of many."""
    frames, seconds = recipe.sample_frames, math.inf
    if lengths is not None:
        frames, seconds = min(frames, int(frame_counts(lengths, CONV_GRID).sum())), float(lengths.sum()) / SAMPLE_RATE
    fits = recipe.imported is None and recipe.kind != "random"
    return (FLOAT * frames * dim + JSON) * (fits and seconds >= STRETCH_SECONDS)


def _classes(round_: Round, dim: int | None) -> tuple[int, ...]:
    """K of each stream of labels; none where there is no teacher."""
    teacher = round_.teacher
    if not round_.has_teacher:
        return ()
    if teacher.units is not None:
        return Units.load(Path(teacher.units)).classes
    if teacher.imported is None:
        return teacher.numbers
    path = Path(teacher.imported)
    return (Teacher.load(path) if path.is_dir() else import_centroids(path, {"dim": dim})).classes
