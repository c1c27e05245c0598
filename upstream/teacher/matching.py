"""The source of frames that a teacher was fitted on, and none other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from upstream.errors import InputError, UsageError
from upstream.features.source import FbankSource, LayerSource, MfccSource, Source
from upstream.teacher.teacher import Teacher

if TYPE_CHECKING:
    from upstream.model.encoder import Encoder


def matching_source(teacher: Teacher, encoder: Encoder | None = None, layer: int | None = None,
                    device: torch.device | str = "cpu") -> Source:
    """What the teacher reads.

    Args:
        encoder: where it reads a layer.
        layer: for a check; None takes the teacher's.

    Raises:
        UsageError: an encoder is needed or is not, or the features are of a kind that there is not.
        InputError: the teacher was fitted on another encoder, on another layer or in another way.
    """
    features = teacher.features
    if features["name"] != "layer":
        if encoder is not None or layer is not None:
            raise UsageError(f"the teacher reads {features['name']}, not an encoder; leave out --encoder and --layer")
        source = named_source(features["name"], bool(features.get("stacked")))
        teacher.check(source)
        return source
    if encoder is None:
        raise UsageError(f"the teacher reads layer {features['layer']} of an encoder; name it with --encoder")
    if layer is not None and layer != features["layer"]:
        raise InputError(f"the teacher was fitted on layer {features['layer']}, not on layer {layer}; leave out "
                         "--layer, or fit a teacher on that layer")
    from upstream.model.saving import encoder_hash

    found = encoder_hash(encoder)
    if found != features["encoder"]:
        raise InputError(f"the teacher was fitted on encoder {features['encoder'][:12]}, this one is {found[:12]}; "
                         "give it that one, or fit a teacher on this one")
    made = LayerSource(encoder, features["layer"], device, precision=features["precision"],
                       window_seconds=features.get("window_seconds", 0.0))
    teacher.check(made)
    return made


def named_source(name: str, stacked: bool = False) -> Source:
    """MFCCs or filterbanks by name. Raises UsageError for another one."""
    if name == "mfcc":
        return MfccSource()
    if name == "fbank":
        return FbankSource(stacked)
    raise UsageError(f"features {name!r}: expected mfcc, fbank or layer")
