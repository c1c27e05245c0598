"""Encoders that rounds start from and that teachers read: those of other rounds, and any from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from upstream.disk import content_hash
from upstream.errors import UsageError
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.model.loading import load_encoder
from upstream.model.saving import encoder_hash
from upstream.pretrain_recipe import SWITCHES, PretrainRecipe
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


def refuse_own(recipe: PretrainRecipe, out: Path) -> None:
    """Raises UsageError where a round names, as if it came from elsewhere, what the run in `out` makes itself.

    Encoders from elsewhere are looked at before the first round, and loaded when a round wants them: one of this run
    may be another by then, or be put aside. Teachers and units of earlier rounds are let be: they must be there when
    the command is given (after `--until`), and are read again when they are wanted.
    """
    for number, round_ in enumerate(recipe.rounds, 1):
        teacher, key = round_.teacher, f"rounds.{number - 1}"
        for name, source, first in (("init", round_.init, 1), ("teacher.encoder", teacher.encoder, 1),
                                    ("teacher.imported", teacher.imported, number),
                                    ("teacher.units", teacher.units, number)):
            made_in = None if source is None else _round_of(source, out)
            if made_in is None or made_in < first:
                continue
            other = f", or read round {made_in} by {key}.teacher.rounds=[{made_in}]" * (
                name == "teacher.encoder" and made_in < number)
            raise UsageError(f"{key}.{name}={source}: this very run makes it, and may make it anew; copy it out of "
                             f"{out} first and name the copy{other}")


def _round_of(source: str, out: Path) -> int | None:
    """The number of the round of a run in whose folder something lies; None where it lies elsewhere."""
    try:
        below = Path(source).resolve().relative_to(Path(out).resolve())
    except ValueError:
        return None
    found = re.fullmatch(r"round(\d+)", below.parts[0] if below.parts else "")
    return int(found[1]) if found else None


def read_outside(sources: Sequence[str]) -> tuple[dict[str, EncoderFile], dict[str, EncoderConfig]]:
    """What encoders from elsewhere are, by source; one is in memory at a time. Raises as `load_encoder`."""
    files, configs = {}, {}
    for source in sources:
        say(f"reading {source}")
        encoder = load_encoder(source)
        files[source] = EncoderFile(source, encoder_hash(encoder), shape_hash(encoder.config))
        configs[source] = encoder.config
    return files, configs


def shape_hash(config: EncoderConfig) -> str:
    """Of a configuration, as far as it changes what an encoder gives, and how fast."""
    return content_hash({k: v for k, v in config.to_dict().items() if k not in SWITCHES})


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
