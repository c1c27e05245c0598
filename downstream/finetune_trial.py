"""How fast a recogniser of some shape would be trained here, and emit, before there is one: a few steps on noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from downstream.finetune_recipe import FinetuneRecipe
from downstream.heads.ctc import Recogniser, ctc_loss
from downstream.heads.recipe import HeadRecipe
from upstream.frames import SAMPLE_RATE
from upstream.keyed import keyed_torch
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.training.fitting import is_out_of_memory
from upstream.training.precision import autocast
from upstream.trial import MOST_SECONDS, STEPS

FRAMES_A_SYMBOL = 4  # of the targets; a symbol more or less costs nothing beside the encoder


@dataclass(frozen=True)
class Shape:
    """What a recogniser is, its weights apart; `symbols` is the size of its vocabulary, the blank included."""

    encoder: EncoderConfig
    head: HeadRecipe
    symbols: int

    def recogniser(self, dropout: float = 0.0) -> Recogniser:
        """One with random weights.

        Args:
            dropout: on what the head hears of the encoder.
        """
        model = Recogniser(Encoder(self.encoder).initialise(0), self.symbols, dropout, self.head)
        return model.initialise_head(keyed_torch(0, "trial"))


def training_rate(recipe: FinetuneRecipe, shape: Shape, seconds: float, device: torch.device) -> float | None:
    """Audio seconds a second of forward and backward passes of one process with all its threads, the optimiser apart.

    Decoding, validation and other ranks are not in it, so it is a rough figure.

    Args:
        seconds: of an utterance.

    Returns:
        None where not even one utterance fits into memory.
    """
    def step(model: Recogniser, waveforms: torch.Tensor) -> None:
        with autocast(device, recipe.training.precision):
            logprobs, frames = model(waveforms, torch.full((len(waveforms),), waveforms.shape[1]))
            targets = [1 + torch.arange(int(n) // FRAMES_A_SYMBOL) % (shape.symbols - 1) for n in frames]
            loss = ctc_loss(logprobs, frames, targets, 0)
        loss.backward()
        float(loss.detach())  # waits for a GPU

    def ready() -> Recogniser:
        model = shape.recogniser(recipe.head_dropout).to(device).train()
        if recipe.frozen:
            model.encoder.eval().requires_grad_(False)
        elif not recipe.frontend_learns(shape.encoder):
            model.encoder.feature_extractor.requires_grad_(False)
        return model

    return _rate(ready, step, recipe.training.micro_batch_seconds, seconds, device)


def emission_rate(shape: Shape, seconds: float, device: torch.device) -> float | None:
    """Audio seconds a second of forward passes in float32, reading and writing apart; else as `training_rate`."""
    def step(model: Recogniser, waveforms: torch.Tensor) -> None:
        with torch.inference_mode():
            logprobs, _ = model(waveforms, None)
        float(logprobs[0, 0, 0])

    return _rate(lambda: shape.recogniser().to(device).eval(), step, MOST_SECONDS, seconds, device)


def _rate(ready: Callable[[], Recogniser], step: Callable[[Recogniser, torch.Tensor], None], batch_seconds: float,
          seconds: float, device: torch.device) -> float | None:
    seconds = min(max(seconds, 1.0), MOST_SECONDS)
    rows, samples = max(1, int(min(batch_seconds, MOST_SECONDS) / seconds)), int(seconds * SAMPLE_RATE)
    try:
        model = ready()
        waveforms = 0.1 * torch.randn(rows, samples, generator=keyed_torch(0, "trial")).to(device)
        for _ in range(STEPS):
            began = time.perf_counter()
            step(model, waveforms)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return rows * samples / SAMPLE_RATE / (time.perf_counter() - began)
