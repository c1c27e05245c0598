"""A picture of error rate against speed: a line for each decoder through its beams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upstream.picture import picture

Row = Mapping[str, Any]
_FAR = 2.0  # times the worst rate of the searches; what is worse (greedy decoding) is named, not drawn


def plot_decoding(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG; bars are the intervals of the error rates, hollow points are over several threads."""
    with picture(path, 9.0, 5.6, dpi=130) as figure:
        axes = figure.add_subplot()
        draw_decoding(axes, rows)
        axes.grid(which="both", alpha=0.25)
        axes.legend(loc="best", framealpha=0.9)
        aside = not_drawn(rows)
        axes.set_title("Error rate against speed; numbers are beams" + (f"\nnot drawn: {aside}" if aside else ""),
                       fontsize=11)


def draw_decoding(axes: Any, rows: Sequence[Row]) -> None:
    """Lines, their beams and the scales, in axes that are there."""
    drawn, _ = _split(rows)
    for number, name in enumerate(dict.fromkeys(row["decoder"] for row in drawn)):
        _line(axes, [r for r in drawn if r["decoder"] == name], f"C{number}", name)
    axes.set_xscale("log")
    axes.set_xlabel("audio seconds a second (logarithmic)")
    axes.set_ylabel("WER (%) with 95 % intervals")
    _number_ticks(axes)


def not_drawn(rows: Sequence[Row]) -> str:
    """What lies too far above the others to be drawn, in words."""
    return "; ".join(f"{r['decoder']}: WER {r['wer']:.1f} at {r['audio_seconds_per_second']:,.0f}"
                     for r in _split(rows)[1])


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Those to draw, and those so far above the others that these would be one line."""
    searched = [r["wer"] for r in rows if r["beam"] is not None]
    limit = _FAR * max(searched) if searched else float("inf")
    return [r for r in rows if r["wer"] <= limit], [r for r in rows if r["wer"] > limit]


def _line(axes: Any, rows: Sequence[Row], colour: str, name: str) -> None:
    from matplotlib.patheffects import withStroke

    for several in (False, True):
        chosen = sorted((r for r in rows if (r["threads"] > 1) == several), key=lambda r: r["audio_seconds_per_second"])
        if not chosen:
            continue
        speeds, rates = [r["audio_seconds_per_second"] for r in chosen], [r["wer"] for r in chosen]
        bars = [[r["wer"] - r["wer_interval"][0] for r in chosen], [r["wer_interval"][1] - r["wer"] for r in chosen]]
        axes.errorbar(speeds, rates, bars, color=colour, fmt="none", elinewidth=1, capsize=2, alpha=0.3)
        axes.plot(speeds, rates, color=colour, marker="o", linestyle=":" if several else "-",
                  markerfacecolor="white" if several else colour,
                  label=f"{name}, {chosen[0]['threads']} threads" if several else name)
        for row in chosen:
            if row["beam"] is not None:
                axes.annotate(str(row["beam"]), (row["audio_seconds_per_second"], row["wer"]), xytext=(5, 5),
                              textcoords="offset points", color=colour, fontsize=9,
                              path_effects=[withStroke(linewidth=3, foreground="white")])


def _number_ticks(axes: Any) -> None:
    """Plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
