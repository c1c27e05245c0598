"""Initial weights, drawn as fairseq draws them; each parameter from a generator of its own.

A parameter's generator depends on the seed and the parameter's name only, so neither the order in which modules are
made nor a module added later changes the others. Without these distributions pretraining goes worse (masked accuracy
overtakes unmasked accuracy early) and half precision overflows sooner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from upstream.keyed import keyed_torch
from upstream.model.transformer import Attention, PositionalConvolution, Transformer

BLOCK_STD = 0.02  # of every linear map inside the Transformer, as in BERT


@torch.no_grad()
def initialise(model: nn.Module, seed: int, prefix: str = "") -> None:
    """Fill every parameter of `model` in place.

    Convolutions: Kaiming normal over the fan-in (bias as torch). Positional convolution: normal with
    std sqrt(4 / (kernel * width)), bias 0; the several ones of data2vec: torch's default. Linear maps and embeddings
    inside a Transformer: normal with std 0.02, bias 0; linear maps outside: torch's default, uniform within
    1 / sqrt(fan-in). Norms: 1 and 0; what scales WavLM's gates: 1. Other bare parameters and embeddings (mask vector,
    label tables): uniform on [0, 1). `prefix` goes before the parameters' names.
    """
    inside = {id(part) for module in model.modules() if isinstance(module, Transformer) for part in module.modules()}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix + path, recurse=False):
            _fill(module, name.rpartition(".")[2], parameter, id(module) in inside, keyed_torch(seed, "init", name))
        if isinstance(module, PositionalConvolution):
            module.weight_g.copy_(module.weight_v.norm(dim=(0, 1), keepdim=True))


def _fill(module: nn.Module, name: str, parameter: Tensor, in_transformer: bool, generator: torch.Generator) -> None:
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        drawn = torch.full(parameter.shape, float(name == "weight"))
    elif isinstance(module, nn.Conv1d) and name == "weight" and not in_transformer:
        drawn = _normal(parameter, math.sqrt(2 / _fan_in(module)), generator)
    elif isinstance(module, PositionalConvolution):
        width, _, kernel = module.weight_v.shape
        std = math.sqrt(4 / (kernel * width)) if name == "weight_v" else 0.0  # weight_g follows from weight_v
        drawn = _normal(parameter, std, generator)
    elif isinstance(module, Attention):
        drawn = torch.ones(parameter.shape)
    elif isinstance(module, (nn.Linear, nn.Embedding)) and in_transformer:
        drawn = _normal(parameter, BLOCK_STD if name == "weight" else 0.0, generator)
    elif isinstance(module, (nn.Linear, nn.Conv1d)):
        bound = 1 / math.sqrt(_fan_in(module))
        drawn = (torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound
    else:
        drawn = torch.rand(parameter.shape, generator=generator)
    parameter.copy_(drawn)


def _fan_in(module: nn.Linear | nn.Conv1d) -> int:
    return math.prod(module.weight.shape[1:])


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return torch.randn(parameter.shape, generator=generator) * std
