"""Subsets of a manifest by hours, each within the next: 10 minutes within 1 hour within 10 hours, as in Libri-light.

The utterances are put in an order that depends on the seed, the ids and the speakers alone; a subset is how far the
hours go in it. So smaller ones lie within larger ones, and the order of the manifest plays no part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.keyed import keyed_int

By = Literal["speaker", "evenly", "utterance"]
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(h|min)?")


@dataclass(frozen=True)
class Split:
    """Subsets, smallest first, and what can be used beside the largest.

    Attributes:
        subsets: int64 indices into the manifest, ascending.
        rest: likewise; none of the speakers of any subset where the split was made by speaker.
    """

    subsets: list[np.ndarray]
    rest: np.ndarray


def split(manifest: Manifest, hours: Sequence[float], by: By = "speaker", seed: int = 0,
          transcribed: bool = False) -> Split:
    """Draw nested subsets of at most so many hours each, less than one utterance below.

    Args:
        hours: ascending.
        by: `speaker`: one speaker after the other, so that few speakers have much each, and whoever speaks in a subset
            is not in the rest (what the last of them says beyond the hours is in neither). `evenly`: the same time of
            every speaker. `utterance`: utterances, whoever speaks.
        seed: of the order.
        transcribed: draw only utterances with a transcript; others may be in the rest.

    Raises:
        UsageError: no hours, or they do not ascend.
        InputError: less audio than asked for, an amount that not even one utterance fits into, or an utterance without
            a speaker where speakers count.
    """
    if not hours or min(hours) <= 0 or any(a >= b for a, b in pairwise(hours)):
        raise UsageError(f"hours {', '.join(f'{h:g}' for h in hours) or '(none)'}: must be above 0 and ascend")
    ids = manifest.ids
    speakers = _speakers(manifest, ids, by)
    seconds = manifest.lengths / 16_000
    drawn = np.flatnonzero(list(map(bool, manifest.texts))) if transcribed else np.arange(len(ids))
    owners = np.unique(speakers[drawn], return_inverse=True)[1]  # some may have no transcript at all
    order = drawn[_order([ids[i] for i in drawn], owners, seconds[drawn], by, seed)]
    reached = np.cumsum(seconds[order])
    most = float(reached[-1]) if len(reached) else 0.0
    if hours[-1] * 3600 > most + 1e-6:
        raise InputError(f"{manifest.source}: {most / 3600:.3g} h{' with transcripts' * transcribed}, {hours[-1]:g} h "
                         "are asked for")
    subsets = []
    for amount in hours:
        count = int(np.searchsorted(reached, amount * 3600 + 1e-6, side="right"))
        if not count:
            raise InputError(f"{manifest.source}: no utterance fits into {amount:g} h: {ids[order[0]]}, the first, has "
                             f"{seconds[order[0]]:.1f} s; ask for more")
        subsets.append(np.sort(order[:count]))
    left = np.ones(len(ids), bool)
    left[subsets[-1]] = False
    if by == "speaker":
        left &= ~np.isin(speakers, np.unique(speakers[subsets[-1]]))
    return Split(subsets, np.flatnonzero(left))


def parse_amounts(text: str) -> list[tuple[str, float]]:
    """`10min,1h,10` as names and hours: ("10min", 1 / 6), ("1h", 1.0), ("10h", 10.0). Raises UsageError."""
    found = []
    for word in text.split(","):
        match = _AMOUNT.fullmatch(word.strip())
        if match is None:
            raise UsageError(f"hours {word.strip()!r}: expected numbers such as 1, 0.5h or 10min, with commas between")
        unit = match[2] or "h"
        found.append((f"{match[1]}{unit}", float(match[1]) / (60 if unit == "min" else 1)))
    return found


def _speakers(manifest: Manifest, ids: list[str], by: By) -> np.ndarray:
    """(N,) int64, a number for each speaker in the order of their names; zeros where speakers do not count."""
    if by == "utterance":
        return np.zeros(len(ids), np.int64)
    names = manifest.speakers
    unknown = next((i for i, name in zip(ids, names) if name is None), None)
    if unknown is not None:
        raise InputError(f"{unknown}: its speaker is unknown; split by utterance (--by utterance), or give a manifest "
                         "with speakers")
    return np.unique(np.array(names, object).astype(str), return_inverse=True)[1].astype(np.int64)


def _order(ids: list[str], speakers: np.ndarray, seconds: np.ndarray, by: By, seed: int) -> np.ndarray:
    """(N,) int64: in which order utterances are taken."""
    drawn = np.fromiter((keyed_int(seed, "split", i) for i in ids), np.int64, len(ids))
    by_speaker = np.lexsort((drawn, speakers))
    if by != "utterance":
        # A speaker is drawn by the first of their drawn utterances: no matter what other speakers there are.
        first = np.concatenate([[True], np.diff(speakers[by_speaker]) > 0]) if len(ids) else np.zeros(0, bool)
        rank = drawn[by_speaker[first]][speakers]
    if by == "speaker":
        return np.lexsort((drawn, speakers, rank))
    if by == "utterance":
        return by_speaker
    told = np.cumsum(seconds[by_speaker])
    before = told - seconds[by_speaker]
    before -= np.repeat(before[first], np.diff(np.append(np.flatnonzero(first), len(ids))))
    spoken = np.empty(len(ids))
    spoken[by_speaker] = before  # seconds of the same speaker that come earlier
    return np.lexsort((rank, np.round(spoken, 6)))
