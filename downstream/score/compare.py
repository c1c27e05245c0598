"""Two sets of hypotheses against the same references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from downstream.score.rates import score
from downstream.score.significance import paired_bootstrap
from upstream.errors import UsageError


def compare(references: Mapping[str, str], first: Mapping[str, str], second: Mapping[str, str], rate: str,
            seed: int) -> dict[str, Any]:
    """Difference of the first's error rate from the second's, as JSON values.

    Args:
        rate: `wer` or `cer`; UsageError for any other word.

    Returns:
        `difference` in percentage points (negative: the first makes fewer errors), `interval` of 95%, `p_value`.
    """
    if rate not in ("wer", "cer"):
        raise UsageError(f"rate={rate!r}: expected wer or cer")
    counts = [score(references, hypotheses).per_utterance for hypotheses in (first, second)]
    errors = [c.errors if rate == "wer" else c.character_errors for c in counts]
    sizes = counts[0].words if rate == "wer" else counts[0].characters
    found = paired_bootstrap(errors[0], errors[1], sizes, seed=seed)
    return {"difference": round(found.points, 3), "p_value": round(found.p_value, 5),
            "interval": [round(found.interval.low, 3), round(found.interval.high, 3)]}
