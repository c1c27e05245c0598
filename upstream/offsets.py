"""Where utterances begin in the rows of all of them, one after another."""

from __future__ import annotations

import numpy as np


def are_offsets(offsets: np.ndarray, count: int, rows: int) -> bool:
    """Whether `offsets` (count + 1,) part so many rows among so many utterances: integers that never fall."""
    if offsets.shape != (count + 1,) or offsets.dtype.kind not in "iu":
        return False
    return bool(offsets[0] == 0 and offsets[-1] == rows and (np.diff(offsets.astype(np.int64)) >= 0).all())
