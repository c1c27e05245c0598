"""Checkpoints: weights, optimiser state and the place in the run, in one safetensors file that is safe to load.

A checkpoint counts once its small JSON beside it is there: that file is written last and holds the hash of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from upstream import ranks
from upstream.errors import FormatError
from upstream.progress import say
from upstream.stage import file_hash, read_json, write_json, writing
from upstream.training.sharding import like, whole


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest `last`, those after a multiple of `every` updates, and the best."""

    last: int = 2
    every: int = 0  # 0: none
    best: bool = False


def training_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds, on the CPU, sharded tensors put together. All ranks must ask; the first has it."""
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    found |= {f"optimiser.{i}.{name}": value  # by parameter number; a parameter that was never updated has none
              for i, p in enumerate(_parameters(optimiser)) for name, value in optimiser.state.get(p, {}).items()}
    state = {}
    for name, value in found.items():
        complete = whole(value.detach())
        if ranks.first():
            state[name] = complete.contiguous().cpu()
    return state


def save_checkpoint(folder: Path, update: int, state: dict[str, Tensor], extra: dict[str, Any], keep: Keep,
                    is_best: bool = False) -> Path:
    """Write the checkpoint of one update atomically and remove those that need not stay.

    Args:
        state: of `training_state`.
        extra: plain values to get back on loading: what the loop needs to go on.
        is_best: no checkpoint of this folder had a better validation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"update-{update:08d}.safetensors"
    with writing(path) as temporary:
        save_file(state, temporary)
        digest = file_hash(temporary)
    write_json(path.with_suffix(".json"), {"update": update, "sha256": digest, "best": is_best, "extra": extra})
    _remove_old(folder, keep)
    return path


def best_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was the best when it was saved, if one is kept."""
    best = [path for path in _complete(folder) if read_json(path.with_suffix(".json")).get("best")]
    return best[-1] if best else None


def _remove_old(folder: Path, keep: Keep) -> None:
    found = _complete(folder)
    best = best_checkpoint(folder) if keep.best else None
    for path in found[:-keep.last]:
        update = int(path.stem.removeprefix("update-"))
        if path == best or (keep.every and update % keep.every == 0):
            continue
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def load_checkpoint(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
    """Restore the newest checkpoint that is whole; a damaged one is named and the one before it is used.

    Returns:
        The update it was made after (0 where there is none), and its `extra`.
    """
    for path in reversed(_complete(folder)):
        record = read_json(path.with_suffix(".json"))
        if file_hash(path) != record["sha256"]:
            say(f"warning: {path} is damaged (its hash differs); using the checkpoint before it")
            continue
        tensors = load_file(path)
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        laid_out = model.state_dict()
        model.load_state_dict({k: like(v, laid_out[k]) if k in laid_out else v for k, v in weights.items()})
        _restore_optimiser(optimiser, tensors, path)
        return int(record["update"]), record["extra"]
    return 0, {}


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("update-*.safetensors") if p.with_suffix(".json").is_file())


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    parameters = _parameters(optimiser)
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part != "optimiser":
            continue
        number, _, field = rest.partition(".")
        if int(number) >= len(parameters):
            raise FormatError(f"{path}: state of parameter {number}, the model has {len(parameters)}; another recipe?")
        parameter = parameters[int(number)]
        if value.dim() and value.shape != parameter.shape:
            raise FormatError(f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}")
        optimiser.state[parameter][field] = like(value, parameter)  # `step` too: the fused update wants it there
