"""Encoders of transformers with the shape of one of ours, weights copied across; and how far apart two tensors are."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig

CLOSE = 1e-4  # largest difference over the largest value of the tensor
_KINDS = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM", "data2vec": "Data2VecAudio"}
FAMILIES = tuple(_KINDS)
ATTENTIONS = [(family, "eager") for family in FAMILIES] + [
    (family, "sdpa") for family in FAMILIES if family != "wavlm"]  # which has no other there
SEEDS = st.integers(0, 2**16)
SAMPLES = st.integers(2000, 6000)  # six frames or more: with few, attention hardly has a gradient


@st.composite
def configs(draw: st.DrawFn, families: tuple[str, ...]) -> EncoderConfig:
    """Small encoders of any style that the families have, without dropout.

    No parameter is a single number (one head, a kernel of one frame): its gradient can cancel out to rounding.
    """
    family = draw(st.sampled_from(families))
    norm: Any = draw(st.sampled_from(["group", "layer"]))
    of_family: dict[str, Any] = {"conv_norm": norm, "pre_norm": draw(st.booleans())}
    if family == "wavlm":
        buckets = draw(st.integers(4, 32))
        of_family |= {"relative_buckets": buckets, "relative_distance": draw(st.integers(buckets // 4 + 1, 60))}
    if family == "data2vec":
        of_family |= {"conv_norm": "layer", "pre_norm": False, "positional_depth": draw(st.integers(2, 4))}
    return EncoderConfig(
        family=family,  # type: ignore[arg-type]
        conv_dim=draw(st.sampled_from([16, 32])),  # of few channels a layer norm blows up rounding
        conv_bias=draw(st.booleans()),
        width=8 * draw(st.integers(2, 4)),
        layers=draw(st.integers(1, 3)),
        heads=draw(st.sampled_from([2, 4, 8])),
        ffn=draw(st.integers(8, 40)),
        positional_kernel=draw(st.integers(2, 12)),
        positional_groups=draw(st.sampled_from([1, 2, 4])),
        dropout=0.0,
        attention_dropout=0.0,
        input_dropout=0.0,
        layerdrop=0.0,
        feature_grad_mult=1.0,  # neither transformers nor torchaudio's encoders scale a gradient
        **of_family,
    )


def drawn(config: EncoderConfig, seed: int) -> Encoder:
    """An encoder whose weights leave no term of the formulae invisible: no bias 0, no norm 1."""
    return _shaken(Encoder(config).initialise(seed), seed).eval()


def noise(rows: int, samples: int, seed: int) -> Tensor:
    """(rows, samples) float32."""
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def far(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors over the largest value of the second."""
    assert a.shape == b.shape
    return float(((a - b).abs().max() / b.abs().max()).detach())


def pair_with_transformers(data: Any, family: str, attention: str, seed: int) -> tuple[Encoder, Any]:
    """Ours and theirs with the same weights, whichever drew them; `data` of hypothesis."""
    config = data.draw(configs((family,)))
    ours, theirs = drawn(config, seed), transformers_model(config, attention, seed + 1)
    if data.draw(st.booleans()):
        receive(ours, theirs)
    else:
        give(ours, theirs)
    return ours, theirs


def assert_same_backward(ours: Encoder, theirs: nn.Module, *pairs: tuple[Tensor, Tensor]) -> None:
    """Compare gradients of the same random sum over pairs of outputs, ours and theirs."""
    for side in range(2):
        generator = torch.Generator().manual_seed(0)
        sums = [(pair[side] * torch.randn(pair[side].shape, generator=generator)).sum() for pair in pairs]
        torch.stack(sums).sum().backward()
    assert_same_gradients(ours, theirs)


def assert_same_gradients(ours: Encoder, theirs: nn.Module) -> None:
    """Compare the gradients of all parameters that both have and that are not zero in exact arithmetic."""
    found = {their_name(name): parameter.grad for name, parameter in ours.named_parameters()}
    compared = 0
    for name, parameter in theirs.named_parameters():
        gradient = parameter.grad
        if gradient is None or _is_rounding(name, ours.config):
            continue
        # Of biases a sum over all frames, which may cancel: against float64 either side is off by as much.
        assert far(found[name], gradient) < (CLOSE if gradient.dim() > 1 else 10 * CLOSE), name
        compared += 1
    assert compared > 20


def transformers_model(config: EncoderConfig, attention: str = "eager", seed: int = 0) -> Any:
    """The model of transformers that has the shape of a configuration, with weights of its own."""
    import transformers

    kind, deep = _KINDS[config.family], config.family == "data2vec"
    sizes = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "feat_extract_norm": config.conv_norm,
        "conv_dim": [config.conv_dim] * len(CONV_GRID.kernels),
        "conv_bias": config.conv_bias,
        "do_stable_layer_norm": config.pre_norm,
        "num_conv_pos_embeddings": config.positional_depth if deep else config.positional_kernel,
        "num_conv_pos_embedding_groups": config.positional_groups,
        "conv_pos_kernel_size": config.positional_kernel,
        "num_buckets": config.relative_buckets,
        "max_bucket_distance": config.relative_distance,
    }
    made = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation=attention)
    return _shaken(getattr(transformers, f"{kind}Model")(made), seed).eval()


def give(ours: Encoder, theirs: nn.Module) -> None:
    """Copy our weights into one of their models; every tensor of it must be among them."""
    theirs.load_state_dict({their_name(name): tensor for name, tensor in ours.state_dict().items()}, strict=True)


def receive(ours: Encoder, theirs: nn.Module) -> None:
    """Copy the weights of a model of transformers into ours; every tensor of both must find its place."""
    names = {their_name(name): name for name in ours.state_dict()}
    ours.load_state_dict({names[name]: tensor for name, tensor in theirs.state_dict().items()}, strict=True)


def their_name(name: str) -> str:
    """transformers' name of one of our parameters."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(f"conv.{old}", f"conv.parametrizations.weight.{new}")
    return name


def _is_rounding(name: str, config: EncoderConfig) -> bool:
    """Gradients of constants that what comes behind takes away again: of all keys, or before a norm over time."""
    before_norm = config.conv_norm == "group" and name == "feature_extractor.conv_layers.0.conv.bias"
    return name.endswith("k_proj.bias") or before_norm


def _shaken(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model
