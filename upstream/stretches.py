"""Long work on many recordings in stretches, each finished in a folder of its own: a kill costs no more than one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from upstream.frames import SAMPLE_RATE


def stretches(lengths: np.ndarray, seconds: float, within: range | None = None) -> list[range]:
    """Utterances in their order, in stretches of so many seconds or of one utterance; none is empty.

    Where a stretch ends depends on the utterances before it alone, so ranks of another number have most of the same.

    Args:
        lengths: (N,) samples of all utterances.
        within: those that are wanted; None for all.
    """
    wanted = range(len(lengths)) if within is None else within
    numbers = (np.cumsum(lengths) // int(seconds * SAMPLE_RATE))[wanted.start:wanted.stop]
    ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(wanted)]
    return [wanted[start:end] for start, end in zip([0, *ends], ends) if end > start]


def stretch_folder(folder: Path, rows: range) -> Path:
    """Where in the folder of the whole a stretch is finished."""
    return folder / f".part-{rows.start}-{rows.stop}"


def remove_stretches(folder: Path) -> None:
    """Remove all stretches in the folder of the whole, those, too, that a killed process left of something else, and
    the parts of ranks that older versions left."""
    for part in [*folder.glob(".part-*"), *folder.glob(".rank*")]:
        if re.fullmatch(r"\.(part-\d+-\d+|rank\d+)", part.name) and part.is_dir():
            shutil.rmtree(part)
