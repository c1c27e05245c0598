"""What a low-resource comparison prints: error rates, and differences below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.results import table
from downstream.score.rates import RATES
from downstream.score.significance import p_value_text

WIDTH = 100  # columns of text that the tables have room in


def columns(rates: Sequence[str]) -> list[str]:
    """Of the table of single fine-tunings."""
    return ["labelled", "encoder", "decoder", *rates, "errors"]


def tables(results: dict[str, Any]) -> list[Table]:
    """The tables of a result: rates of every cell, with one seed as its rows have them and otherwise as means; and the
    differences from each encoder that others are compared with."""
    rates = results.get("rates", RATES)
    seeds = sorted({seed for summary in results["summaries"] for seed in summary["seeds"]})
    if len(seeds) > 1:
        first = rate_table(results["summaries"], seeds, rates)
    else:
        first = table(results["rows"], columns(rates))
        first.caption = f"of {results['rows'][0]['words']} {results.get('unit', 'word')}s [95% over test utterances]"
    compared = results["comparisons"]
    return [first, *(difference_table([c for c in compared if c["against"] == base], base)
                     for base in dict.fromkeys(c["against"] for c in compared))]


def rate_table(summaries: Sequence[dict[str, Any]], seeds: Sequence[int], rates: Sequence[str] = RATES) -> Table:
    """Means over seeds."""
    found = Table(title=f"mean over seeds {', '.join(map(str, seeds))} (standard deviation of a seed) "
                        "[95% over test utterances]")
    for column in ("labelled", "encoder", "decoder"):
        found.add_column(column, overflow="fold")  # names are never cut short
    for rate in rates:
        found.add_column(rate.upper(), justify="right")
    for summary in summaries:
        found.add_row(summary["labelled"], summary["encoder"], summary["decoder"],
                      *(_mean(summary, rate) for rate in rates))
    return found


def difference_table(comparisons: Sequence[dict[str, Any]], base: str) -> Table:
    """Differences from one encoder; with several seeds also the least and the largest of a single seed."""
    several = any(len(c["seeds"]) > 1 for c in comparisons)
    found = Table(title=f"difference from {base} in points, on the same utterances [95% over these]",
                  caption="p: Holm, over all comparisons of a rate and decoder" + (
                      "; it says nothing of other seeds" * several))
    for column in ("labelled", "encoder", "decoder", "rate"):
        found.add_column(column, overflow="fold")
    for column in ("difference", *(["single seeds"] * several), "p"):
        found.add_column(column, justify="right")
    for c in comparisons:
        low, high = c["interval"]
        single = [one["difference"] for one in c["per_seed"]]
        found.add_row(c["labelled"], c["encoder"], c["decoder"], c["rate"].upper(),
                      f"{c['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
                      *([f"{min(single):+.1f} to {max(single):+.1f}"] * several), p_value_text(c["p_holm"]))
    return found


def _mean(summary: dict[str, Any], rate: str) -> str:
    (low, high), deviation = summary[f"{rate}_interval"], summary[f"{rate}_sd"]
    single = "" if deviation is None else f" ({deviation:.1f})"
    return f"{summary[rate]:.1f}{single} [{low:.1f}, {high:.1f}]"
