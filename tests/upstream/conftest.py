"""Recordings that need no files: a stand-in for a manifest and its audio. And one thread for small problems."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch


@dataclass
class FakeRecordings:
    """Harmonic noises of given lengths, with what features and teachers ask of a manifest."""

    waves: list[np.ndarray]
    ids: list[str]
    hash: str = "fake"
    asked: list[int] = field(default_factory=list)  # what was read, in order

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(w) for w in self.waves], np.int64)

    @property
    def speakers(self) -> list[str | None]:
        return [None] * len(self.waves)

    def __len__(self) -> int:
        return len(self.waves)

    def read(self, index: int) -> np.ndarray:
        self.asked.append(index)
        return self.waves[index].copy()


@pytest.fixture(scope="session")
def recordings() -> Callable[[Sequence[int]], FakeRecordings]:
    def make(lengths: Sequence[int], seed: int = 0) -> FakeRecordings:
        rng = np.random.default_rng(seed)
        waves = []
        for n in lengths:
            pitch = np.cumsum(2 * np.pi * (120 + 60 * np.sin(np.arange(n) / 3000 + rng.uniform(0, 6))) / 16_000)
            voice = sum(np.sin(k * pitch) / k for k in range(1, 8)) * np.clip(np.sin(np.arange(n) / 1500), 0, 1)
            waves.append((0.1 * voice + rng.normal(0, 0.01, n)).astype(np.float32))
        return FakeRecordings(waves, [f"u{i}" for i in range(len(waves))])

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other make small problems ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
