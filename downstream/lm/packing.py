"""N-grams as fixed-width byte strings, which compare as their word ids do, first word first."""

from __future__ import annotations

import numpy as np


def width_of(words: int) -> int:
    """Bytes that an id of so many words takes, 1 to 4."""
    return max(1, ((words - 1).bit_length() + 7) // 8)


def pack(ids: np.ndarray, width: int) -> np.ndarray:
    """Ids (n, k) as (n,) strings of k * width bytes."""
    ids = np.ascontiguousarray(ids, ">u4")
    parts = ids.view(np.uint8).reshape(*ids.shape, 4)[..., 4 - width:]
    return np.ascontiguousarray(parts).reshape(-1).view(f"S{ids.shape[1] * width}")


def unpack(keys: np.ndarray, width: int) -> np.ndarray:
    """Strings (n,) as ids (n, k) int64."""
    parts = _bytes(keys).reshape(len(keys), keys.dtype.itemsize // width, width)
    ids = np.zeros((*parts.shape[:2], 4), np.uint8)
    ids[..., 4 - width:] = parts
    return ids.view(">u4")[..., 0].astype(np.int64)


def first_words(keys: np.ndarray, count: int, width: int) -> np.ndarray:
    """The first `count` words of each n-gram, packed."""
    return np.ascontiguousarray(_bytes(keys)[:, :count * width]).reshape(-1).view(f"S{count * width}")


def words_in_common(keys: np.ndarray, before: np.ndarray, width: int) -> np.ndarray:
    """(n,) how many first words an n-gram shares with the one before it; the first one with `before` (0 or 1 of them).

    No two that follow each other may be equal.
    """
    found = np.zeros(len(keys), np.int64)
    both = _bytes(np.concatenate([before, keys]))
    differs = both[1:] != both[:-1]
    found[1 - len(before):] = differs.argmax(1) // width
    return found


def _bytes(keys: np.ndarray) -> np.ndarray:
    keys = np.ascontiguousarray(keys)
    return keys.view(np.uint8).reshape(len(keys), keys.dtype.itemsize)
