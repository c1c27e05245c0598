"""Tiny encoders, and the numbers fairseq gave for two of them (tests/oracles/hubert)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from upstream.model import Encoder, EncoderConfig, MaskedPrediction

ORACLES = Path(__file__).parents[2] / "oracles"
NO_DROPOUT: dict[str, Any] = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "input_dropout": 0.0,
    "layerdrop": 0.0,
}
RENAMED = (
    (r"^(feature_extractor\.conv_layers\.\d)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj", "feature_projection.projection"),
    (r"^mask_emb", "masked_spec_embed"),
    (r"pos_conv\.0", "pos_conv_embed.conv"),
    (r"self_attn_layer_norm", "layer_norm"),
    (r"self_attn", "attention"),
    (r"fc1", "feed_forward.intermediate_dense"),
    (r"fc2", "feed_forward.output_dense"),
)


@dataclass(frozen=True)
class Fairseq:
    """One of fairseq's two tiny models: weights, inputs and outputs."""

    config: EncoderConfig
    weights: dict[str, torch.Tensor]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    criterion: dict[str, Any]
    init_statistics: dict[str, Any]

    @staticmethod
    def our_name(name: str) -> str:
        """A fairseq parameter name in ours."""
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        return name

    @property
    def waveforms(self) -> torch.Tensor:
        return torch.from_numpy(self.inputs["source_normalized" if self.config.normalize else "source_raw"])

    @property
    def lengths(self) -> torch.Tensor:
        return torch.from_numpy(self.inputs["lengths"])

    def encoder(self) -> Encoder:
        encoder = Encoder(self.config)
        heads = ("final_proj", "label_embs_concat")
        encoder.load_state_dict({self.our_name(k): v for k, v in self.weights.items() if not k.startswith(heads)})
        return encoder.eval()

    def prediction(self, **settings: Any) -> MaskedPrediction:
        """Both label sets with their four special rows: 29 and 44 classes."""
        model = MaskedPrediction(self.encoder(), (29, 44), 24, **settings)
        tables = self.weights["label_embs_concat"].split([29, 44])
        projection = model.projections["4"][0]
        with torch.no_grad():
            projection.weight.copy_(self.weights["final_proj.weight"])
            projection.bias.copy_(self.weights["final_proj.bias"])
            for table, values in zip(model.tables, tables):
                table.embeddings.copy_(values)
        return model


@pytest.fixture(scope="session", params=["base", "large"])
def fairseq(request: pytest.FixtureRequest) -> Fairseq:
    large = request.param == "large"
    folder = ORACLES / "hubert" / request.param
    config = EncoderConfig(
        conv_dim=32,
        conv_bias=large,
        conv_norm="layer" if large else "group",
        normalize=large,
        width=48,
        layers=4,
        heads=4,
        ffn=96,
        pre_norm=large,
        positional_kernel=16,
        positional_groups=4,
        feature_grad_mult=1.0 if large else 0.1,
        **NO_DROPOUT,
    )
    return Fairseq(
        config=config,
        weights=load_file(folder / "untied.safetensors"),
        inputs=dict(np.load(ORACLES / "hubert" / "inputs.npz")),
        outputs=dict(np.load(folder / "outputs.npz")),
        criterion=json.loads((folder / "criterion.json").read_text()),
        init_statistics=json.loads((folder / "init_statistics.json").read_text()),
    )


def tiny_config(**settings: Any) -> EncoderConfig:
    """Three small layers without any dropout."""
    small = {"conv_dim": 16, "width": 24, "layers": 3, "heads": 4, "ffn": 32}
    return EncoderConfig(**{**small, "positional_kernel": 8, "positional_groups": 4, **NO_DROPOUT, **settings})


@pytest.fixture(scope="session")
def tiny():
    """`tiny(**settings)`: an initialised small encoder in evaluation mode."""

    def make(seed: int = 0, **settings: Any) -> Encoder:
        return Encoder(tiny_config(**settings)).initialise(seed).eval()

    return make
