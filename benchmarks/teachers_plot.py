"""A picture of teachers: PNMI against the layer that they cluster, beside plain features; and against updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upstream.picture import picture

Row = Mapping[str, Any]
_PLAIN = {"mfcc": "black", "fbank": "grey"}


def plot_teachers(rows: Sequence[Row], curves: Sequence[Row], path: Path) -> None:
    """Write a PNG of teachers of one stream with as many classes as most layers have; the curves, where there are any,
    in a panel of their own. Nothing is drawn where no layer was judged.

    Args:
        rows, curves: as `benchmarks.teachers.run` gives them.
    """
    layers = [row for row in rows if row["layer"] is not None]
    if not layers:
        return
    numbers = [row["classes"] for row in layers]
    classes = max(set(numbers), key=numbers.count)
    panels = 2 if curves else 1
    with picture(path, 6.2 * panels, 4.4) as figure:
        _layers(figure.add_subplot(1, panels, 1), [row for row in rows if row["classes"] == classes], classes)
        if curves:
            _curves(figure.add_subplot(1, panels, 2), curves)


def _layers(axes: Any, rows: Sequence[Row], classes: int) -> None:
    names = list(dict.fromkeys(_reads(row) for row in rows if row["layer"] is not None))
    for name, colour in zip(names, (f"C{number}" for number in range(len(names)))):
        for cmn in (False, True):
            chosen = sorted((row for row in rows if row["layer"] is not None and _reads(row) == name
                             and bool(row.get("cmn")) == cmn), key=lambda row: row["layer"])
            if chosen:
                axes.plot([row["layer"] for row in chosen], [row["pnmi"] for row in chosen], color=colour, marker="o",
                          markerfacecolor="white" if cmn else colour, linestyle="--" if cmn else "-",
                          label=f"{name}, less its mean" if cmn else name)
    for row in rows:
        feature = row["teacher"].partition("-")[0]
        if row["layer"] is None and row["kind"] == "single" and feature in _PLAIN:
            axes.axhline(row["pnmi"], color=_PLAIN[feature], linewidth=1, linestyle="--" if row.get("cmn") else "-")
            axes.annotate(feature + (", less its mean" if row.get("cmn") else ""), (1, row["pnmi"]), fontsize=8,
                          xycoords=("axes fraction", "data"), xytext=(-4, 2), textcoords="offset points", ha="right",
                          color=_PLAIN[feature])
    axes.set_xticks(sorted({row["layer"] for row in rows if row["layer"] is not None}))
    axes.set_xlabel("layer")
    axes.set_ylabel(f"PNMI of {classes} classes")
    axes.set_title("k-means on the recordings of the training", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _reads(row: Row) -> str:
    return f"round {row['round']}" if row["round"] else str(row.get("encoder"))


def _curves(axes: Any, curves: Sequence[Row]) -> None:
    """The best layer at each validation, of each round."""
    for number in sorted({row["round"] for row in curves}):
        best: dict[int, float] = {}
        for row in curves:
            if row["round"] == number:
                best[row["update"]] = max(row["pnmi"], best.get(row["update"], 0.0))
        axes.plot(list(best), list(best.values()), color=f"C{number - 1}", marker="o", label=f"round {number}")
    axes.set_xlabel("update")
    axes.set_ylabel("PNMI of the best layer")
    axes.set_title("k-means on the judged speakers themselves", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
