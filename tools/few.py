"""What commands say of intervals that too few utterances or speakers stand behind."""

from __future__ import annotations

from upstream.progress import say

FEW = 10  # of fewer, intervals of 95 % hold the true value in less than 88 % of cases


def tell_few(found: int, what: str = "utterance", tested: bool = False) -> None:
    """Say so where `found` utterances (or speakers) make intervals that are too narrow, and what p-values can be at
    least where systems are `tested` against each other."""
    if 1 < found < FEW:
        least = f", and a p-value is at least {2.0 ** (1 - found):.2g}" if tested else ""
        say(f"{found} {what}s are few to draw from: intervals are too narrow{least}")
