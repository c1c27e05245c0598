"""Which device a rank computes on, how arrays get there, and when it is done."""

from __future__ import annotations

import torch
from torch import Tensor

from upstream.errors import UsageError


def best_device() -> torch.device:
    """This rank's GPU if there is one. It has its number, for other threads of a process begin with the first GPU.

    Where there is one, cuDNN's TF32 is off from then on in the whole process.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False  # or convolutions in float32 would keep three digits, and products seven
    return torch.device("cuda", torch.cuda.current_device())


def chosen_device(wanted: str) -> torch.device:
    """The device that a recipe asks for: `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: a GPU, and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise UsageError(f"device=cuda: torch {torch.__version__} finds no GPU here ({built}); see whether nvidia-smi "
                         "lists one and CUDA_VISIBLE_DEVICES hides it, or use device=auto or device=cpu")
    return torch.device("cpu") if wanted == "cpu" else best_device()


def named_device(device: torch.device | str | None) -> torch.device:
    """The device that a program asks for, as torch names it; None and `auto` are the GPU, where there is one.

    Raises:
        UsageError: a GPU, and there is none; a device that torch does not know.
    """
    if device is None or device == "auto":
        return best_device()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device}: no device of torch; give cpu, cuda, or None for the GPU where there is "
                         "one") from error
    if found.type == "cuda":
        chosen_device("cuda")
    return found


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device. The host does not wait until a GPU has done what it was given before, as it
    would in `Tensor.to`."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def finish(device: torch.device) -> None:
    """Wait until a device has done what it was given, as before a look at the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize()
