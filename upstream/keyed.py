"""All randomness: every draw is a pure function of a key, so nothing depends on what was drawn before it.

    keyed(seed, "crop", update, utterance_id) -> a numpy generator that is the same on every machine and rank
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Key = int | str


def keyed_int(seed: int, purpose: str, *key: Key) -> int:
    """An integer in [0, 2**63) that depends on all its arguments and on nothing else.

    Strings and integers, numpy's as Python's, are hashed with their type and length, so ("a", "bc") and ("ab", "c")
    differ.
    """
    return int.from_bytes(_digest(seed, purpose, *key)[:8], "little") >> 1


def keyed(seed: int, purpose: str, *key: Key) -> np.random.Generator:
    """A numpy generator (Philox) for one purpose and place; two calls with the same arguments draw the same numbers."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, purpose, *key), "little")))


def keyed_torch(seed: int, purpose: str, *key: Key) -> torch.Generator:
    """The same for torch, on the CPU."""
    generator = torch.Generator()
    generator.manual_seed(keyed_int(seed, purpose, *key))
    return generator


def _digest(*parts: Key) -> bytes:
    text = "\x1f".join(f"{'i' if isinstance(p, int | np.integer) else 's'}{len(str(p))}:{p}" for p in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
