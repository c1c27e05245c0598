"""A picture of a tuning: the word error rate over both weights, with what was decoded and what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from downstream.decode.nbest_lists import Point
from downstream.decode.tune import Tuning
from downstream.score.intervals import range_of
from upstream.picture import picture

_CELLS = 200  # of the picture along each axis
_WORST = 2.0  # times the best rate, where colours end: beyond, all is equally bad


def plot_tuning(found: Tuning, path: Path) -> None:
    """Write a PNG; with a second panel, error rate against speed, where several beams were tried."""
    panels = 2 if found.beams else 1
    with picture(path, 6.8 * panels, 4.8) as figure:
        _heat_map(figure, figure.add_subplot(1, panels, 1), found)
        if found.beams:
            _beams(figure.add_subplot(1, panels, 2), found)


def nearest(points: tuple[Point, ...], lm_weights: np.ndarray, word_scores: np.ndarray) -> np.ndarray:
    """(word scores, lm weights) float64, the rate of the nearest point to each place; axes count by their spans."""
    known = np.array([(p.lm_weight, p.word_score, p.wer) for p in points])
    spans = np.maximum([np.ptp(lm_weights), np.ptp(word_scores)], 1e-9)
    found = np.empty((len(word_scores), len(lm_weights)))
    for row, word_score in enumerate(word_scores):
        away = (((lm_weights[:, None] - known[:, 0]) / spans[0]) ** 2 + ((word_score - known[:, 1]) / spans[1]) ** 2)
        found[row] = known[away.argmin(axis=1), 2]
    return found


def _heat_map(figure: Any, axes: Any, found: Tuning) -> None:
    rescored = tuple(p for p in found.surface if not p.decoded) or found.surface
    lm_weights, word_scores = (_places([getattr(p, name) for p in found.surface]) for name in
                               ("lm_weight", "word_score"))
    rates = nearest(rescored, lm_weights, word_scores)
    low = float(rates.min())
    image = axes.imshow(rates, origin="lower", aspect="auto", cmap="viridis", interpolation="nearest", vmin=low,
                        vmax=max(min(float(rates.max()), _WORST * low), low + 1e-6),
                        extent=(lm_weights[0], lm_weights[-1], word_scores[0], word_scores[-1]))
    decoded = [p for p in found.surface if p.decoded]
    axes.scatter([p.lm_weight for p in decoded], [p.word_score for p in decoded], facecolors="none",
                 edgecolors="white", s=60, linewidths=1.5, label="decoded", clip_on=False, zorder=3)
    axes.scatter([found.lm_weight], [found.word_score], marker="*", color="red", edgecolors="white", s=180,
                 label="chosen", clip_on=False, zorder=4)
    edge = f"; on the edge: {', '.join(found.on_edge)}" if found.on_edge else ""
    axes.set_title(f"{found.decoder}: {_rate(found)} {found.wer:.2f} ({range_of(found.wer_interval)}) at lm_weight "
                   f"{found.lm_weight:g}, word_score {found.word_score:g}{edge}", fontsize=10)
    axes.set_xlabel("lm_weight (natural logarithms)")
    axes.set_ylabel("word_score (nats)")
    axes.legend(loc="upper right", facecolor="grey", labelcolor="white")
    figure.colorbar(image, ax=axes, label=f"{_rate(found)} (%) of rescored n-best lists", extend="max")


def _beams(axes: Any, found: Tuning) -> None:
    axes.plot([p.audio_seconds_per_second for p in found.beams], [p.wer for p in found.beams], marker="o")
    for point in found.beams:
        axes.annotate(f"{point.beam}", (point.audio_seconds_per_second, point.wer), xytext=(5, 5),
                      textcoords="offset points")
    axes.set_xlim(left=0, right=1.15 * max(p.audio_seconds_per_second for p in found.beams))
    axes.set_xlabel(f"seconds of audio a second, {found.beams[0].processes} processes")
    axes.set_ylabel(f"{_rate(found)} (%)")
    axes.set_title(f"beams; chosen: {found.beam}", fontsize=10)
    axes.grid(alpha=0.3)


def _rate(found: Tuning) -> str:
    return "WER" if found.unit == "word" else "CER"


def _places(values: list[float]) -> np.ndarray:
    low, high = min(values), max(values)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, _CELLS)
