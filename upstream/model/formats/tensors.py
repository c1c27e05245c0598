"""safetensors files, read and written whole."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from upstream.disk import writing
from upstream.errors import FormatError, InputError, UsageError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the host.

    Raises:
        UsageError: no such file.
        FormatError: a broken file.
        InputError: one that may not be read.
    """
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    if not os.access(path, os.R_OK):  # safetensors says that there is none
        raise InputError(f"{path}: no permission to read it; its owner can give it (chmod a+r)")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"{path}: not a safetensors file, or cut short ({error})") from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as float32, under a temporary name first."""
    with writing(path) as temporary:
        save_file({name: as_saved(tensor) for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})


def as_saved(tensor: Tensor) -> Tensor:
    """On the host, float32, contiguous."""
    return tensor.detach().to("cpu", torch.float32).contiguous()
