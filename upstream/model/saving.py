"""Encoders on disk: a folder that `transformers` can load when the front end is convolutional.

    config.json          what `transformers.HubertConfig` reads
    model.safetensors    float32 weights under the names of `transformers.HubertModel`
    head.safetensors     weights that are not the encoder's (prediction heads), if any
    hubertkit.json       the encoder's configuration, versions, and whatever the caller records; written last
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from upstream.errors import FormatError, UsageError
from upstream.frames import CONV_GRID
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.stage import write_json, writing

FORMAT_VERSION = 1

# The positional convolution's weight norm: our plain parameters, and torch's parametrisation as transformers saves it.
_CONV = "encoder.pos_conv_embed.conv."
_RENAMED = {
    _CONV + "weight_g": _CONV + "parametrizations.weight.original0",
    _CONV + "weight_v": _CONV + "parametrizations.weight.original1",
}


def save_encoder(
    encoder: Encoder, folder: Path, extra: dict[str, Any], head: dict[str, Tensor] | None = None
) -> None:
    """Write an encoder to `folder`, each file under a temporary name first.

    Args:
        extra: what else belongs to it, JSON values (recipe, round, label classes); keys of its own in hubertkit.json.
        head: tensors of a head, to head.safetensors.

    Raises:
        UsageError: `extra` uses a key that is ours.
    """
    conv = encoder.config.frontend == "conv"
    described = {
        "format": FORMAT_VERSION,
        "encoder": encoder.config.to_dict(),
        "transformers_loads_it": conv,
        "hash": encoder_hash(encoder),
        "has_head": head is not None,
        "versions": {"torch": torch.__version__},
    }
    taken = sorted(set(described) & set(extra))
    if taken:
        raise UsageError(f"{folder}: the key {taken[0]!r} of hubertkit.json is written by hubertkit itself")
    folder = Path(folder)
    _write_tensors(folder / "model.safetensors", _named_for_saving(encoder))
    if head is not None:
        _write_tensors(folder / "head.safetensors", head)
    else:
        (folder / "head.safetensors").unlink(missing_ok=True)
    write_json(folder / "config.json", _transformers_config(encoder.config))
    write_json(folder / "hubertkit.json", {**described, **extra})


def load_encoder(folder: Path, device: str | torch.device | None = None) -> Encoder:
    """Read an encoder that `save_encoder` wrote, in evaluation mode.

    Raises:
        UsageError: no such encoder.
        FormatError: a broken file, another format version, or weights that do not fit the configuration.
    """
    folder = Path(folder)
    described = read_description(folder)
    try:
        config = EncoderConfig.from_dict(described["encoder"])
    except (KeyError, TypeError, UsageError) as error:
        raise FormatError(f"{folder / 'hubertkit.json'}: {error}") from error
    with torch.device("meta"):
        encoder = Encoder(config)
    names = {saved: ours for ours, saved in _RENAMED.items()}
    tensors = {names.get(name, name): tensor for name, tensor in read_tensors(folder / "model.safetensors").items()}
    try:
        encoder.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise FormatError(f"{folder / 'model.safetensors'}: does not fit hubertkit.json beside it: {reason}") from error
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    return encoder.to(device or "cpu").eval()


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of an encoder folder's hubertkit.json.

    Raises:
        UsageError: the folder holds none.
        FormatError: it is not JSON, or of another version.
    """
    path = Path(folder) / "hubertkit.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no encoder: hubertkit.json is missing")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        version = described["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a description of an encoder ({error!r})") from error
    if version != FORMAT_VERSION:
        raise FormatError(f"{path}: format {version}; this version of hubertkit reads {FORMAT_VERSION}")
    return described


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the host.

    Raises:
        UsageError: no such file.
        FormatError: a broken file.
    """
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"{path}: not a safetensors file, or cut short ({error})") from error


def encoder_hash(encoder: Encoder | Path) -> str:
    """sha256 (hex) over the names, shapes and float32 values of an encoder's weights, or of a saved encoder's."""
    if isinstance(encoder, Encoder):
        tensors = _named_for_saving(encoder)
    else:
        tensors = read_tensors(Path(encoder) / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _named_for_saving(encoder: Encoder) -> dict[str, Tensor]:
    return {_RENAMED.get(name, name): _plain(tensor) for name, tensor in encoder.state_dict().items()}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    with writing(path) as temporary:
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})


def _transformers_config(config: EncoderConfig) -> dict[str, Any]:
    """Fields of `transformers.HubertConfig`; a front end that it does not know gets a `model_type` that it refuses."""
    if config.frontend != "conv":
        return {"model_type": f"hubertkit-{config.frontend}", **config.to_dict()}
    layers = len(CONV_GRID.kernels)
    return {
        "architectures": ["HubertModel"],
        "model_type": "hubert",
        "dtype": "float32",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "hidden_act": "gelu",
        "hidden_dropout": config.dropout,
        "activation_dropout": config.activation_dropout,
        "attention_dropout": config.attention_dropout,
        "feat_proj_layer_norm": True,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": config.layerdrop,
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": "gelu",
        "conv_dim": [config.conv_dim] * layers,
        "conv_kernel": list(CONV_GRID.kernels),
        "conv_stride": list(CONV_GRID.strides),
        "num_feat_extract_layers": layers,
        "conv_bias": config.conv_bias,
        "num_conv_pos_embeddings": config.positional_kernel,
        "num_conv_pos_embedding_groups": config.positional_groups,
        "do_stable_layer_norm": config.pre_norm,
        "initializer_range": 0.02,
        "apply_spec_augment": True,
        "mask_time_prob": 0.05,
        "mask_time_length": 10,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
