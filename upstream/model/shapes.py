"""The published encoders, by name.

    Encoder(SHAPES["hubert-large"])
    replace(SHAPES["hubert-base"], layers=6)    a variant (`dataclasses.replace`)

Sizes and the dropouts of pretraining are those of fairseq's recipes (examples/hubert/config/pretrain,
examples/wav2vec/config/pretraining, examples/data2vec/config/audio/pretraining). WavLM's sizes are those of its
released models; its dropouts here are HuBERT's of that size.
"""

from __future__ import annotations

from dataclasses import replace

from upstream.model.config import EncoderConfig

_BASE = EncoderConfig()
_LARGE = EncoderConfig(
    conv_norm="layer",
    normalize=True,
    width=1024,
    layers=24,
    heads=16,
    ffn=4096,
    pre_norm=True,
    dropout=0.0,
    attention_dropout=0.0,
    input_dropout=0.0,
    layerdrop=0.0,
    feature_grad_mult=1.0,
)

SHAPES: dict[str, EncoderConfig] = {
    "hubert-base": _BASE,
    "hubert-large": _LARGE,
    "hubert-xlarge": replace(_LARGE, width=1280, layers=48, ffn=5120),
    "wav2vec2-base": replace(_BASE, family="wav2vec2"),
    "wav2vec2-large": replace(_LARGE, family="wav2vec2", conv_bias=True),  # LV-60k and XLSR-53
    "wavlm-base": replace(_BASE, family="wavlm", relative_buckets=320, relative_distance=800),
    "wavlm-large": replace(_LARGE, family="wavlm", relative_buckets=320, relative_distance=800),
    "data2vec-base": replace(
        _BASE,
        family="data2vec",
        conv_norm="layer",
        normalize=True,
        positional_kernel=19,
        positional_depth=5,
        input_dropout=0.0,
        feature_grad_mult=1.0,
    ),
}
