"""A random sample of the frames of a manifest: what a teacher is fitted on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from upstream import ranks
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.features.source import Source
from upstream.features.streaming import Read
from upstream.frames import CONV_GRID, frame_counts
from upstream.keyed import keyed, keyed_int
from upstream.places import places
from upstream.teacher.kept_sample import KeptSample, sample_key

Progress = Callable[[float, float], None]
FEW_UTTERANCES = 100  # of 45 centroids fitted others' frames 2.8 % worse than of 1740, of 117 0.8 % (docs/training.md)
FEW_SPEAKERS = 20


class Recordings(Protocol):
    """What a teacher asks of a manifest."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def hash(self) -> str: ...
    def __len__(self) -> int: ...


def draw_utterances(manifest: Recordings, indices: np.ndarray, frames: int, seed: int, within: float) -> np.ndarray:
    """Those of some utterances, in their order, that a sample of so many frames is drawn from.

    A million frames of all of 960 hours are three or four of every utterance, so that everything would be read. Of
    utterances that have 20 million they are thirty of every one, and 111 hours are read, whatever the corpus. The order
    in which utterances are drawn takes no account of their lengths, so every frame has the same chance to be in the
    sample. It follows from the seed and the ids: places in the manifest and who else reads do not matter.

    Args:
        within: utterances are drawn until they have so many times `frames`; all where there are no more, and for 0.

    Raises:
        UsageError: between 0 and 1, where there would be too few frames, or below.
    """
    if within != 0 and not within >= 1:
        raise UsageError(f"sample_within={within:g}: must be at least 1, or 0 to draw from all utterances")
    counts = frame_counts(manifest.lengths[indices], CONV_GRID)
    most = within * min(frames, int(counts.sum()))
    if within == 0 or int(counts.sum()) <= most:
        return indices
    ids = manifest.ids
    keys = np.fromiter((keyed_int(seed, "teacher utterances", ids[int(i)]) for i in indices), np.int64, len(indices))
    order = np.argsort(keys, kind="stable")
    enough = int(np.searchsorted(np.cumsum(counts[order]), most)) + 1
    return indices[np.sort(order[:enough])]


def heard_little(manifest: Manifest, indices: np.ndarray, frames: int, seed: int, within: float) -> str | None:
    """In words how little of some utterances a sample of so many frames hears, `7 of 300 utterances, 3 of 40 speakers`;
    None where that is as much as one would wish.

    It is little where `draw_utterances` leaves out utterances and draws fewer than `FEW_UTTERANCES`, or of known
    speakers fewer than `FEW_SPEAKERS` and not even half of them: centroids are those of what they are fitted on.
    """
    total = int(frame_counts(manifest.lengths[indices], CONV_GRID).sum())
    if within == 0 or within * frames * len(indices) > 10 * FEW_UTTERANCES * total:
        return None  # known before a million ids are hashed
    drawn = draw_utterances(manifest, indices, frames, seed, within)
    known = manifest.speakers
    there, heard = ({known[int(i)] for i in chosen} - {None} for chosen in (indices, drawn))
    few_speakers = len(heard) < min(FEW_SPEAKERS, len(there) / 2)
    if len(drawn) == len(indices) or not (len(drawn) < FEW_UTTERANCES or few_speakers):
        return None
    speakers = f", {len(heard)} of {len(there)} speakers" if there else ""
    return f"{len(drawn)} of {len(indices)} utterances{speakers}"


def sample_size(manifest: Recordings, indices: np.ndarray, frames: int) -> int:
    """Frames in the sample of `draw_sample`, known before anything is read."""
    return min(frames, int(frame_counts(manifest.lengths[indices], CONV_GRID).sum()))


def refuse_broken(manifest: Recordings, index: int, *frames: Tensor) -> None:
    """Raises InputError naming an utterance if a value of its frames, (T, d) each, is not finite."""
    if not all(bool(torch.isfinite(found).all()) for found in frames):
        raise InputError(f"{manifest.ids[index]}: features that are not finite; the audio or the encoder is broken")


def draw_sample(source: Source, manifest: Recordings, indices: np.ndarray, frames: int, seed: int, read: Read,
                progress: Progress | None = None, shared: bool = False, keep: Path | None = None) -> Tensor:
    """(n, d) float32 on the host: a random sample of the frames of some utterances, n = frames or all there are.

    Every set of so many frames is equally likely. Which they are is drawn before anything is read, from the lengths
    alone, so only the sample is ever in memory, it does not depend on batches, and utterances without a share are not
    read at all. Several ranks read a part each; the first one gets the sample and the others none of it or, if it is
    `shared`, every rank keeps its own part, which come one after the other in the order of the ranks.

    In a folder `keep`, stretches of a long sample lie until `forget_sample`: after a kill, as many ranks as before go
    on behind them, and the sample is the same to the last bit.

    Raises InputError naming the first utterance, of those that are read, with frames that are not finite, and where an
    utterance is named twice.
    """
    indices = places(indices, len(manifest), once=True)
    ends = np.cumsum([CONV_GRID.frames(int(n)) for n in manifest.lengths[indices]], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    wanted = min(frames, total)
    drawn = np.sort(keyed(seed, "teacher sample").choice(total, wanted, replace=False, shuffle=False))
    bounds = np.concatenate([[0], np.searchsorted(drawn, ends)])  # drawn[bounds[i]:bounds[i + 1]] are of utterance i
    sharing = np.flatnonzero(np.diff(bounds))
    sharing = sharing[ranks.divide(manifest.lengths[indices[sharing]])]
    reading = indices[sharing]
    of_each = [drawn[bounds[place]:bounds[place + 1]] - (ends[place - 1] if place else 0) for place in sharing]
    starts = np.cumsum([0, *map(len, of_each)])
    sample = torch.empty(int(starts[-1]), source.describe()["dim"])
    kept = None if keep is None else KeptSample(keep, sample_key(
        source.describe(), source.device.type, manifest.hash, [reading, *of_each]), manifest.lengths[reading], starts)
    after = 0 if kept is None else kept.restore(sample)
    number_of = {int(index): number for number, index in enumerate(reading)}
    for done, (index, found) in enumerate(source.stream(manifest, reading, read, after), 1):
        number = number_of[index]
        refuse_broken(manifest, index, found)
        sample[starts[number]:starts[number + 1]] = found[torch.from_numpy(of_each[number]).to(found.device)].cpu()
        if kept is not None:
            kept.add(number, sample)
        if progress is not None:
            progress(done, len(reading) - after)
    return sample if shared else ranks.rows_on_first(sample)
