"""The source of frames that a teacher was fitted on, and none other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from upstream.errors import InputError, UsageError
from upstream.features.centred import with_cmn
from upstream.features.mix import MixSource
from upstream.features.source import FbankSource, LayerSource, MfccSource, Source
from upstream.teacher.teacher import Teacher

if TYPE_CHECKING:
    from upstream.model.encoder import Encoder


def matching_source(teacher: Teacher, encoders: Sequence[Encoder] = (), layer: int | None = None,
                    device: torch.device | str = "cpu") -> Source:
    """What the teacher reads.

    Args:
        encoders: those that it reads layers of, in any order.
        layer: for a check; None takes the teacher's.

    Raises:
        UsageError: an encoder is needed or is not, or the features are of a kind that there is not.
        InputError: the teacher was fitted on another encoder, on another layer or in another way.
    """
    features = teacher.features
    if features["name"] not in ("layer", "mix"):
        if encoders or layer is not None:
            raise UsageError(f"the teacher reads {features['name']}, not an encoder; leave out encoders and layer "
                             "(--encoder, --layer)")
        source = with_cmn(named_source(features["name"], bool(features.get("stacked"))), bool(features.get("cmn")))
        teacher.check(source)
        return source
    names = features["encoder"].split("+")
    if len(encoders) != len(names):
        whose = "an encoder" if len(names) == 1 else f"{len(names)} encoders"
        raise UsageError(f"the teacher reads layer {features['layer']} of {whose}; give "
                         f"{'it' if len(names) == 1 else 'each of them'} (--encoder)")
    if layer is not None and layer != features["layer"]:
        raise InputError(f"the teacher was fitted on layer {features['layer']}, not on layer {layer}; leave the "
                         "layer out (--layer), or fit a teacher on that one")
    from upstream.model.saving import encoder_hash

    found = {encoder_hash(encoder): encoder for encoder in encoders}
    for name in names:
        if name not in found:
            others = ", ".join(known[:12] for known in found if known not in names)
            raise InputError(f"the teacher was fitted on encoder {name[:12]}, this one is {others or 'given twice'}; "
                             "give it that one, or fit a teacher on this one")
    options = {"precision": features["precision"], "window_seconds": features.get("window_seconds", 0.0)}
    made: Source
    if features["name"] == "layer":
        made = LayerSource(found[names[0]], features["layer"], device, **options)
    else:
        layers = features["layer"] if len(names) > 1 else [features["layer"]]
        made = MixSource([LayerSource(found[name], own, device, **options) for name, own in zip(names, layers)])
    made = with_cmn(made, bool(features.get("cmn")))
    teacher.check(made)
    return made


def named_source(name: str, stacked: bool = False) -> Source:
    """MFCCs or filterbanks by name. Raises UsageError for another one."""
    if name == "mfcc":
        return MfccSource()
    if name == "fbank":
        return FbankSource(stacked)
    raise UsageError(f"features {name!r}: expected mfcc, fbank or layer")
