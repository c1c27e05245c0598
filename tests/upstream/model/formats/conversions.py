"""How tests of formats compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upstream.model.formats import Checkpoint

WAVES = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
CLOSE = 1e-4


def difference(found: Any, wanted: Any) -> float:
    """Largest difference over the largest value."""
    found, wanted = torch.as_tensor(found), torch.as_tensor(wanted)
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def filled(model: Any) -> Any:
    """Random values everywhere: biases and norms start at zero and one, where a mistake would not show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def outputs(checkpoint: Checkpoint) -> Tensor:
    """What an encoder makes of two waveforms."""
    with torch.no_grad():
        return checkpoint.encoder()(WAVES).last


def same(a: Any, b: Any) -> bool:
    """Whether two values hold the same: tensors to the last bit, heads part by part."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return same(vars(a), vars(b)) if hasattr(a, "__dict__") and type(a) is type(b) else bool(a == b)


def same_model(a: Checkpoint, b: Checkpoint) -> bool:
    """The same encoder, settings and heads."""
    return all(same(getattr(a, part), getattr(b, part))
               for part in ("config", "tensors", "prediction", "quantiser", "ctc", "others"))
