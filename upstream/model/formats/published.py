"""What weights alone say about an encoder, for files without a configuration.

The number of attention heads and the place of the norms leave no trace in any shape, so they are told for the sizes
that were published only, and asked for otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from upstream.frames import CONV_GRID

# width, layers, ffn, conv norm -> heads, pre-norm (wav2vec 2.0, HuBERT, XLSR; WavLM has the same sizes)
_PUBLISHED = {
    (768, 12, 3072, "group"): (12, False),
    (1024, 24, 4096, "group"): (16, False),
    (1024, 24, 4096, "layer"): (16, True),
    (1280, 48, 5120, "layer"): (16, True),
    (1920, 48, 7680, "layer"): (16, True),
}

Shape = Callable[[str], tuple[int, ...] | None]


def settings_from_shapes(shape: Shape, conv_norm: str) -> dict[str, Any] | None:
    """Settings of an EncoderConfig, or None if the weights are not those of a convolutional encoder.

    `heads` and `pre_norm` are among them for published sizes only. Waveforms are taken to be standardised for models
    with layer norm in the convolutions, as in all that were published.

    Args:
        shape: gives the shape of a tensor by our name; None if there is no such tensor.
        conv_norm: "group" or "layer".
    """
    conv, positional = shape("feature_extractor.conv_layers.0.conv.weight"), _positional(shape)
    dense = shape("encoder.layers.0.feed_forward.intermediate_dense.weight")
    last = shape(f"feature_extractor.conv_layers.{len(CONV_GRID.kernels) - 1}.conv.weight")
    if conv is None or last is None or dense is None or len(dense) != 2 or positional is None:
        return None
    layers = 0
    while shape(f"encoder.layers.{layers}.final_layer_norm.weight") is not None:
        layers += 1
    ffn, width = dense
    settings: dict[str, Any] = {
        "conv_dim": conv[0], "conv_bias": shape("feature_extractor.conv_layers.0.conv.bias") is not None,
        "conv_norm": conv_norm, "normalize": conv_norm == "layer", "width": width, "layers": layers, "ffn": ffn,
        **positional,
    }
    known = _PUBLISHED.get((width, layers, ffn, conv_norm))
    if known is not None:
        settings["heads"], settings["pre_norm"] = known
    gate = shape("encoder.layers.0.attention.gru_rel_pos_const")
    buckets = shape("encoder.layers.0.attention.rel_attn_embed.weight")
    if gate is not None and buckets is not None:
        settings |= {"family": "wavlm", "relative_buckets": buckets[0], "heads": gate[1]}
    return settings


def _positional(shape: Shape) -> dict[str, int] | None:
    """Kernel, groups and depth of the positional convolution."""
    weight = shape("encoder.pos_conv_embed.conv.weight_v")
    if weight is not None and len(weight) == 3:
        return {"positional_kernel": weight[2], "positional_groups": weight[0] // weight[1]}
    return None
