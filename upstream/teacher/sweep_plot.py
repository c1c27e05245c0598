"""A picture of a sweep: the measure against the layer, a line for each number of clusters; ABX errors beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upstream.picture import picture
from upstream.teacher.sweep import Sweep

_NAMES = {"pnmi": "PNMI", "stability": "same label in noise (kappa)"}


def plot_sweep(found: Sweep, path: Path) -> None:
    """Write a PNG; the pick is marked by a dashed line."""
    panels = 2 if found.abx else 1
    layers = sorted({row.layer for row in found.rows})
    with picture(path, 6.5 * panels, 4.2) as figure:
        _measure(figure.add_subplot(1, panels, 1), found, layers)
        if found.abx:
            _errors(figure.add_subplot(1, panels, 2), found, layers)


def _measure(axes: Any, found: Sweep, layers: list[int]) -> None:
    for clusters in found.best:
        values = [getattr(row, found.measure) for row in found.rows if row.clusters == clusters]
        axes.plot(layers, values, marker="o", label=f"{clusters} clusters")
    _finish(axes, found, layers, _NAMES[found.measure])
    axes.set_title(f"{found.utterances} utterances, {found.frames} frames; pick: layer {found.layer}", fontsize=10)


def _errors(axes: Any, found: Sweep, layers: list[int]) -> None:
    for name in ("within", "across"):
        known = [(layer, value) for layer, one in found.abx.items() if (value := getattr(one, name)) is not None]
        axes.plot([layer for layer, _ in known], [value for _, value in known], marker="o", label=name)
    _finish(axes, found, layers, "ABX error (%)")
    judged = found.abx[layers[0]]
    axes.set_title(f"within and across speakers; {judged.within_triplets} and {judged.across_triplets} triplets",
                   fontsize=10)


def _finish(axes: Any, found: Sweep, layers: list[int], name: str) -> None:
    axes.axvline(found.layer, color="grey", linestyle="--", linewidth=1)
    axes.set_xticks(layers)
    axes.set_xlabel("layer (0 is the input of the first block)")
    axes.set_ylabel(name)
    axes.margins(y=0.08)
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
