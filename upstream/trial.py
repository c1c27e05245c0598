"""How fast a round would train here, before anything of it is there: a few steps on noise of the recipe's shape."""

from __future__ import annotations

import time

import torch

from upstream.frames import SAMPLE_RATE
from upstream.keyed import keyed, keyed_torch
from upstream.model.encoder import Encoder
from upstream.model.masked_prediction import MaskedPrediction
from upstream.model.masking import batch_masks
from upstream.pretrain_recipe import Round
from upstream.training.precision import autocast
from upstream.training.recipe import AUTO

MOST_SECONDS = 32.0  # of audio in the step: BASE takes five seconds for it on two cores
CLASSES = 100  # a class more or less costs nothing beside the encoder
STEPS = 2  # the first is slower: memory and kernels are found


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
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return rows * recipe.crop_seconds / (time.perf_counter() - began)
