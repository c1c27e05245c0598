"""From audio files to text, with a fine-tuned recogniser and, if there is one, an n-gram language model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from downstream.decode.beam import BeamDecoder
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis
from downstream.recogniser import load_recogniser
from upstream.audio.corpora.single import utterance_of_file
from upstream.audio.reading import read
from upstream.errors import InputError
from upstream.model import prepared
from upstream.training.loop import best_device


@dataclass(frozen=True)
class Settings:
    """How to decode: greedily without a language model, by beam search with one."""

    lm: Path | None = None
    lm_weight: float = BeamDecoder.lm_weight  # natural logarithm
    word_score: float = BeamDecoder.word_score
    beam: int = BeamDecoder.beam


def transcribe(folder: Path, files: list[Path], settings: Settings) -> Iterator[tuple[Path, Hypothesis]]:
    """The text of each file, in the order given; a file is encoded whole.

    Raises:
        UsageError: no recogniser in `folder`, or a file that is not there.
        InputError: a file that is no audio, or too short for a frame.
    """
    utterances = [utterance_of_file(path) for path in files]  # a wrong path is told before the model is loaded
    model, vocabulary = load_recogniser(folder)
    device = best_device()
    model.to(device)
    decoder: GreedyDecoder | BeamDecoder
    if settings.lm is None:
        decoder = GreedyDecoder(vocabulary.symbols, vocabulary.blank)
    else:
        decoder = BeamDecoder(vocabulary.symbols, vocabulary.blank, settings.lm, lm_weight=settings.lm_weight,
                              word_score=settings.word_score, beam=settings.beam)
    decoder.prepare()
    grid = model.encoder.config.grid
    for path, utterance in zip(files, utterances):
        wave = prepared(read(utterance), model.encoder.config)
        if not grid.frames(len(wave)):
            raise InputError(f"{path}: {len(wave)} samples at 16 kHz, too short for a frame of {grid.least_samples}")
        with torch.inference_mode():
            logprobs, _ = model(torch.from_numpy(wave)[None].to(device), None)
        yield path, decoder.decode(str(path), logprobs[0].cpu().numpy(), grid.rate)
