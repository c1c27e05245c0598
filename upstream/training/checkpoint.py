"""Checkpoints: weights, optimiser state and the place in the run, in one safetensors file that is safe to load.

A checkpoint counts once its small JSON beside it is there: that file is written last and holds the hash of the other
and one of itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from upstream import ranks
from upstream.disk import content_hash, file_hash, read_json, write_json, writing
from upstream.errors import FormatError, UsageError
from upstream.progress import say
from upstream.stage import changes
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
                    is_best: bool = False, settings: Mapping[str, Any] | None = None) -> Path:
    """Write the checkpoint of one update atomically and remove those that need not stay.

    Args:
        state: of `training_state`.
        extra: plain values to get back on loading: what the loop needs to go on.
        is_best: no checkpoint of this folder had a better validation.
        settings: what of a recipe the weights depend on: compared on loading.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"update-{update:08d}.safetensors"
    with writing(path) as temporary:
        save_file(state, temporary)
        digest = file_hash(temporary)
    record = {"update": update, "sha256": digest, "best": is_best, "extra": extra, "settings": dict(settings or {})}
    write_json(path.with_suffix(".json"), {**record, "record_sha256": content_hash(record)})
    _remove_old(folder, keep, update)
    return path


def best_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was the best when it was saved, if one is kept."""
    best = [path for path in _complete(folder) if (_record(path) or {}).get("best")]
    return best[-1] if best else None


def load_best(folder: Path, model: nn.Module) -> tuple[int, dict[str, Any]] | None:
    """Give a model the weights of the best checkpoint that is kept, in place; its update and its `extra`.

    None, and the model stays as it is, where none was ever the best or it is damaged, which is said.
    """
    path = best_checkpoint(folder)
    record = None if path is None else _record(path)
    if path is None or record is None:
        return None
    if file_hash(path) != record["sha256"]:
        say(f"warning: {path}, the best checkpoint, is damaged (its hash is not what was saved); the last weights stay")
        return None
    _restore_weights(model, _weights_in(load_file(path)), path)
    return int(record["update"]), record["extra"]


def _remove_old(folder: Path, keep: Keep, newest: int) -> None:
    for path in _complete(folder):
        if _update(path) > newest:  # damaged: loading began before it
            _remove(path)
    best = best_checkpoint(folder) if keep.best else None
    for path in _complete(folder)[:-keep.last]:
        if path != best and not (keep.every and _update(path) % keep.every == 0):
            _remove(path)


def _remove(path: Path) -> None:
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def load_checkpoint(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer,
                    settings: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Restore the newest checkpoint that is whole; a damaged one is named and the one before it is used.

    Args:
        settings: of this recipe; those that a checkpoint was saved with must be the same.

    Returns:
        The update it was made after (0 where there is none), and its `extra`.

    Raises:
        UsageError: the checkpoint is of another recipe, naming the values that differ.
        FormatError: it is of another model, naming the tensors that differ.
    """
    if ranks.first():
        _remove_unfinished(folder)
    found = _complete(folder)
    for path in reversed(found):
        record = _record(path)
        if record is None or file_hash(path) != record["sha256"]:
            say(f"warning: {path} is damaged (its {'record' if record is None else 'hash'} is not what was saved); "
                "using the checkpoint before it")
            continue
        _check_recipe(path, record.get("settings"), settings)
        tensors = load_file(path)
        _restore_weights(model, _weights_in(tensors), path)
        _restore_optimiser(optimiser, tensors, path)
        return int(record["update"]), record["extra"]
    if found:
        say(f"warning: no checkpoint in {folder} is whole; beginning anew")
    return 0, {}


def _remove_unfinished(folder: Path) -> None:
    """What a process that was killed was writing; nobody else writes here, for the run is locked."""
    complete = set(_complete(folder))
    for path in [*folder.glob(".update-*.tmp"), *folder.glob("update-*.safetensors")]:
        if path not in complete:
            path.unlink(missing_ok=True)


def _record(path: Path) -> dict[str, Any] | None:
    """What stands beside a checkpoint; None if that is damaged."""
    try:
        record = read_json(path.with_suffix(".json"))
    except FormatError:
        return None
    if not isinstance(record, dict) or not {"update", "sha256", "extra"} <= set(record):
        return None
    digest = record.pop("record_sha256", None)  # older checkpoints have none
    return record if record["update"] == _update(path) and digest in (None, content_hash(record)) else None


def _update(path: Path) -> int:
    return int(path.stem.removeprefix("update-"))


def _check_recipe(path: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    if not before or now is None:  # saved before there was such a record, or nobody asks
        return
    differ = changes({"version": 1, "settings": before, "inputs": {}},
                     {"version": 1, "settings": json.loads(json.dumps(now)), "inputs": {}})
    if differ:
        raise UsageError(f"{path} is of another recipe ({differ}); use that recipe to go on from it, or give this one "
                         "a folder of its own")


def _weights_in(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}


def _restore_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    laid_out = model.state_dict()
    differ = [f"{name} {_shape(weights.get(name))} -> {_shape(laid_out.get(name))}"
              for name in sorted(weights.keys() | laid_out.keys())
              if _shape(weights.get(name)) != _shape(laid_out.get(name))]
    if differ:
        raise FormatError(f"{path} is of another model: {'; '.join(differ[:4])}"
                          f"{f'; and {len(differ) - 4} more' if len(differ) > 4 else ''}; use the recipe that made it, "
                          "or give this one a folder of its own")
    model.load_state_dict({k: like(v, laid_out[k]) for k, v in weights.items()})


def _shape(tensor: Tensor | None) -> str:
    return "(none)" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"


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
