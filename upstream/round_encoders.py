"""Encoders that rounds start from and that teachers read: those of other rounds, and any from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from upstream.disk import content_hash
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.model.loading import load_encoder
from upstream.model.saving import encoder_hash
from upstream.pretrain_recipe import SWITCHES
from upstream.progress import say


@dataclass(frozen=True)
class EncoderFile:
    """An encoder somewhere, not in memory.

    Attributes:
        source: whatever `load_encoder` reads.
        hash: of its weights: the same in whatever format they lie.
        shape: hash of its configuration, as far as that changes what it gives; None for an encoder of this run, whose
            configuration its weights follow from.
    """

    source: str
    hash: str
    shape: str | None = None

    def load(self, device: torch.device | str = "cpu") -> Encoder:
        """The encoder in float32 and in evaluation mode."""
        return load_encoder(self.source, device)


def read_outside(sources: Sequence[str]) -> tuple[dict[str, EncoderFile], dict[str, EncoderConfig]]:
    """What encoders from elsewhere are, by source; one is in memory at a time. Raises as `load_encoder`."""
    files, configs = {}, {}
    for source in sources:
        say(f"reading {source}")
        encoder = load_encoder(source)
        shape = {k: v for k, v in encoder.config.to_dict().items() if k not in SWITCHES}
        files[source] = EncoderFile(source, encoder_hash(encoder), content_hash(shape))
        configs[source] = encoder.config
    return files, configs


def start_from(encoder: Encoder, init: EncoderFile | None) -> None:
    """Give an encoder the weights of another one of its shape; nothing for None.

    A recogniser's checkpoint may hold no mask vector, which then reads as zeros: the one that was drawn stays.
    """
    if init is None:
        return
    weights = init.load().state_dict()
    if not bool(weights["masked_spec_embed"].any()):
        weights["masked_spec_embed"] = encoder.masked_spec_embed.detach()
    encoder.load_state_dict(weights)
