"""Two sets of hypotheses against the same references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from downstream.score.rates import score
from downstream.score.significance import Difference, paired_difference
from upstream.errors import UsageError


def compare(references: Mapping[str, str], first: Mapping[str, str], second: Mapping[str, str], rate: str, seed: int,
            speakers: Sequence[str | None] | None = None) -> dict[str, Any]:
    """Difference of the first's error rate from the second's, as JSON values.

    Args:
        rate: `wer` or `cer`; UsageError for any other word.
        speakers: of the references, in their order.

    Returns:
        `difference` in percentage points (negative: the first makes fewer errors), `interval` of 95%, `p_value`; and
        where all speakers are known, and two at least, `by_speaker`: {`interval`, `p_value`} of whole speakers, which
        is what says how it would be with others.
    """
    if rate not in ("wer", "cer"):
        raise UsageError(f"rate={rate!r}: expected wer or cer")
    counts = [score(references, hypotheses).per_utterance for hypotheses in (first, second)]
    errors = [c.errors if rate == "wer" else c.character_errors for c in counts]
    sizes = counts[0].words if rate == "wer" else counts[0].characters
    found = paired_difference(errors[0], errors[1], sizes, seed=seed)
    compared = {"difference": round(found.points, 3), **_sure(found)}
    if speakers is not None and None not in speakers and len(set(speakers)) > 1:
        compared["by_speaker"] = _sure(paired_difference(errors[0], errors[1], sizes, seed=seed, groups=speakers))
    return compared


def _sure(found: Difference) -> dict[str, Any]:
    low, high = found.interval.low, found.interval.high
    return {"p_value": round(found.p_value, 5), "interval": [round(low, 3), round(high, 3)]}
