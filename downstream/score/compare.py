"""Two systems on the same utterances, each trained once or several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from downstream.score.rates import RATES, UtteranceCounts
from downstream.score.significance import PairedDifference, paired_difference
from upstream.errors import InputError, UsageError


def compare_trainings(first: Sequence[UtteranceCounts], second: Sequence[UtteranceCounts], rate: str, seed: int,
                      speakers: Sequence[str | None] | None = None) -> dict[str, Any]:
    """Difference of two systems that were each trained several times, with the same seeds: of the means of their error
    rates over the trainings.

    Each utterance counts with its errors summed over the trainings of a system. So interval and p-value cover how
    other test utterances, or speakers, would have come out with these very trainings; they do not cover what other
    seeds would have given, however many there are here: for that, look at how the trainings differ among themselves.

    Args:
        first, second: counts of the same utterances, for each training; as many of both systems.
        rate: `wer` or `cer`.
        speakers: of the utterances, in their order.

    Returns:
        As JSON values `difference` in percentage points (negative: the first makes fewer errors), `interval` of 95%,
        both rounded, and `p_value`, which is not: it may be one of many; and where all speakers are known, and two at
        least, `by_speaker`: {`interval`, `p_value`} of whole speakers, which is what says how it would be with others.

    Raises:
        InputError: no trainings, or not as many of both.
        UsageError: another rate.
    """
    if not first or len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} trainings; a paired comparison needs as many of both systems")
    errors, others = summed_errors(first, rate), summed_errors(second, rate)
    sizes = len(first) * sizes_of(first[0], rate)
    found = paired_difference(errors, others, sizes, seed=seed)
    compared = {"difference": round(found.points, 3), **_sure(found)}
    if groups := known_speakers(speakers):
        compared["by_speaker"] = _sure(paired_difference(errors, others, sizes, seed=seed, groups=groups))
    return compared


def known_speakers(speakers: Sequence[str | None] | None) -> list[str] | None:
    """Of whom whole ones can be drawn: the speakers as they are where all are known, and two at least; else None."""
    known = [speaker for speaker in speakers or () if speaker is not None]
    return known if len(known) == len(speakers or ()) and len(set(known)) > 1 else None


def summed_errors(trainings: Sequence[UtteranceCounts], rate: str) -> np.ndarray:
    """(N,) int64: errors of each utterance, in words or characters, over all trainings."""
    return sum((errors_of(counts, rate) for counts in trainings), np.zeros(len(trainings[0].ids), np.int64))


def errors_of(counts: UtteranceCounts, rate: str) -> np.ndarray:
    """(N,) int64: what a rate counts. UsageError where it is neither `wer` nor `cer`."""
    _check_rate(rate)
    return counts.errors if rate == "wer" else counts.character_errors


def sizes_of(counts: UtteranceCounts, rate: str) -> np.ndarray:
    """(N,) int64: what a rate counts errors of, words or characters of the references."""
    _check_rate(rate)
    return counts.words if rate == "wer" else counts.characters


def _check_rate(rate: str) -> None:
    if rate not in RATES:
        raise UsageError(f"rate={rate!r}: expected wer or cer")


def _sure(found: PairedDifference) -> dict[str, Any]:
    return {"p_value": found.p_value, "interval": found.interval.rounded}
