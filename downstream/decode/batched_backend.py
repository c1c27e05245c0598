"""The few operations that numpy and torch name differently. The search is written once, over either.

numpy is for the CPU: an operation on a few thousand numbers costs it a fifth of what it costs torch.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

Array = Any  # a numpy array or a tensor


class Backend(Protocol):
    """Integers are int64, numbers float64."""

    def array(self, values: np.ndarray, /) -> Array:
        """An array of the backend with these values."""

    def numpy(self, values: Array, /) -> np.ndarray:
        """The other way."""

    def arange(self, n: int, /) -> Array:
        """0 to n - 1."""

    def full(self, n: int, value: int, /) -> Array:
        """n integers."""

    def where(self, mask: Array, yes: Array, no: Array, /) -> Array:
        """Either's values."""

    def concatenate(self, arrays: list[Array], /) -> Array:
        """One after another."""

    def nonzero(self, mask: Array, /) -> Array:
        """Where it is true, rising."""

    def repeat(self, values: Array, counts: Array, /) -> Array:
        """Each value as often as its count says."""

    def count(self, values: Array, size: int, /) -> Array:
        """How often each of 0 to size - 1 occurs."""

    def highest(self, groups: Array, values: Array, size: int, /) -> Array:
        """The highest of the values, which are at least 0, of each group; 0 for none."""

    def sums(self, groups: Array, values: Array, size: int, /) -> Array:
        """The sum of each group."""

    def order(self, values: Array, /) -> Array:
        """What sorts them, equal ones in the order in which they stand."""

    def search(self, rising: Array, values: Array, /) -> Array:
        """Where the first number is that is not below each value; there is one."""

    def integers(self, values: Array, /) -> Array:
        """As int64."""

    def bits(self, values: Array, /) -> Array:
        """The bits of float64 numbers as int64: of two that are not negative, the larger has the larger ones."""

    def exp(self, values: Array, /) -> Array:
        """Of float32 or float64, as float64."""

    def log(self, values: Array, /) -> Array:
        """Natural logarithm."""


class NumpyBackend:
    """`Backend` over numpy."""

    where = staticmethod(np.where)
    concatenate = staticmethod(np.concatenate)
    nonzero = staticmethod(np.flatnonzero)
    repeat = staticmethod(np.repeat)
    arange = staticmethod(np.arange)
    log = staticmethod(np.log)
    search = staticmethod(np.searchsorted)

    def array(self, values: np.ndarray) -> Array:
        return values

    def numpy(self, values: Array) -> np.ndarray:
        return values

    def full(self, n: int, value: int) -> Array:
        return np.full(n, value, np.int64)

    def count(self, values: Array, size: int) -> Array:
        return np.bincount(values, minlength=size)

    def highest(self, groups: Array, values: Array, size: int) -> Array:
        found = np.zeros(size)
        np.maximum.at(found, groups, values)
        return found

    def sums(self, groups: Array, values: Array, size: int) -> Array:
        return np.bincount(groups, values, minlength=size)

    def order(self, values: Array) -> Array:
        return np.argsort(values, kind="stable")

    def integers(self, values: Array) -> Array:
        return values.astype(np.int64)

    def bits(self, values: Array) -> Array:
        return values.view(np.int64)

    def exp(self, values: Array) -> Array:
        return np.exp(values.astype(np.float64))


class TorchBackend:
    """`Backend` over torch, on any device."""

    where = staticmethod(torch.where)
    concatenate = staticmethod(torch.cat)
    repeat = staticmethod(torch.repeat_interleave)
    log = staticmethod(torch.log)
    search = staticmethod(torch.searchsorted)

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def array(self, values: np.ndarray) -> Array:
        return torch.from_numpy(values).to(self.device)

    def numpy(self, values: Array) -> np.ndarray:
        return values.cpu().numpy()

    def arange(self, n: int) -> Array:
        return torch.arange(n, device=self.device)

    def full(self, n: int, value: int) -> Array:
        return torch.full((n,), value, device=self.device)

    def nonzero(self, mask: Array) -> Array:
        return mask.nonzero().squeeze(1)

    def count(self, values: Array, size: int) -> Array:
        return torch.bincount(values, minlength=size)

    def highest(self, groups: Array, values: Array, size: int) -> Array:
        return values.new_zeros(size).scatter_reduce_(0, groups, values, "amax")

    def sums(self, groups: Array, values: Array, size: int) -> Array:
        return values.new_zeros(size).index_add_(0, groups, values)

    def order(self, values: Array) -> Array:
        return torch.argsort(values, stable=True)

    def integers(self, values: Array) -> Array:
        return values.long()

    def bits(self, values: Array) -> Array:
        return values.view(torch.int64)

    def exp(self, values: Array) -> Array:
        return torch.exp(values.double())
