"""What a fine-tuning recipe may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from downstream.heads.recipe import HeadRecipe
from upstream.audio.caching import CacheRecipe
from upstream.audio.speed import FASTEST, SLOWEST
from upstream.model.config import EncoderConfig
from upstream.training.loop import TrainingRecipe

SHIPPED = Path(__file__).with_name("recipes")
SCRATCH = "scratch"
CHANGEABLE = {"dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop", "feature_grad_mult"}


@dataclass(frozen=True)
class SpecMaskRecipe:
    """Masking of the encoder's input in fine-tuning, as SpecAugment (wav2vec 2.0 paper, section 4.3).

    A share is the chance that a span starts, times the span: fairseq's mask_prob and mask_channel_prob.
    """

    time_share: float = 0.5  # of frames, where spans do not overlap
    time_span: int = 10  # frames
    channel_share: float = 0.25  # of channels, likewise
    channel_span: int = 64  # channels

    def __post_init__(self) -> None:
        if min(self.time_share, self.channel_share) < 0 or min(self.time_span, self.channel_span) < 1:
            raise ValueError("mask: shares must be at least 0 and spans at least 1")
        if self.time_share >= self.time_span or self.channel_share >= self.channel_span:
            raise ValueError("mask: a share is the chance that a span starts, times the span, so below the span")


@dataclass(frozen=True)
class FinetuneRecipe:
    """A recogniser: which encoder, how it learns, on what."""

    data: str = ""  # manifest with transcripts; must be given
    dev: str | None = None  # manifest with transcripts for validation
    # What it writes: A to Z and the apostrophe, or the characters of the training transcripts, of any language.
    symbols: Literal["english", "data"] = "english"
    encoder: str = SCRATCH  # an encoder folder, or `scratch`: random weights of the shape below
    architecture: EncoderConfig = field(default_factory=EncoderConfig)  # of an encoder from scratch
    changes: dict[str, Any] = field(default_factory=dict)  # dropouts, layerdrop, feature_grad_mult in place of its own
    seed: int = 0  # of every draw: weights, order, masks, speeds
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU if there is one
    frozen: bool = False  # train the head alone
    freeze_updates: int = 0  # train the head alone for so many updates first; not from scratch
    fresh_layers: int = 0  # last blocks of a pretrained encoder that start from random weights, with its final norm
    train_frontend: bool | None = None  # not said: a pretrained conv front end stays as it is, a light one learns
    head_scale: float = 1.0  # rate of the head over the schedule's
    encoder_scale: float = 1.0  # rate of the encoder over the schedule's
    head_dropout: float = 0.0  # on what the head hears of the encoder
    head: HeadRecipe = field(default_factory=HeadRecipe)
    keep_head: bool = False  # start from the head of `encoder`, too: of a recogniser with a `head` of that kind
    mask: SpecMaskRecipe = field(default_factory=SpecMaskRecipe)
    speeds: list[float] = field(default_factory=lambda: [1.0])  # an utterance is heard at one of them, drawn every time
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    cache: CacheRecipe = field(default_factory=CacheRecipe)
    validation_seconds: float = 600.0  # audio of dev in a validation, at most (unless all utterances are longer)

    def __post_init__(self) -> None:
        if self.freeze_updates < 0 or min(self.head_scale, self.encoder_scale) < 0:
            raise ValueError("freeze_updates, head_scale and encoder_scale must be at least 0")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout={self.head_dropout}, must lie in [0, 1)")
        if self.fresh_layers < 0:
            raise ValueError(f"fresh_layers={self.fresh_layers}, must be at least 0")
        if not self.validation_seconds > 0:
            raise ValueError(f"validation_seconds={self.validation_seconds:g}, must be above 0")
        if not self.training.accumulate:
            raise ValueError("training.micro_batch_seconds=auto is for pretraining; give a number of seconds")
        if self.training.shard:
            raise ValueError("training.shard=true is for pretraining; leave it out")
        if not self.speeds or not all(SLOWEST <= speed <= FASTEST for speed in self.speeds):
            raise ValueError(f"speeds={self.speeds}: give at least one, each from {SLOWEST:g} to {FASTEST:g}")
        unknown = set(self.changes) - CHANGEABLE
        if unknown:
            raise ValueError(f"changes.{min(unknown)}: only dropouts, layerdrop and feature_grad_mult of an "
                             "encoder may change; its shape belongs to its weights")

    def frontend_learns(self, config: EncoderConfig) -> bool:
        """Whether the front end of an encoder of this configuration learns, once the encoder does.

        That of the waveform is the costly part and general, and fairseq leaves it as it was pretrained; two small
        convolutions on filterbanks are neither.
        """
        if self.encoder == SCRATCH:
            return True
        return config.frontend == "light" if self.train_frontend is None else self.train_frontend
