"""Figures as SVG whose colours are the page's: `var(--ink)` and so on, so that they are right on paper and in the dark.

matplotlib knows no such colours. It draws with one colour for each, which is replaced in what it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.comparing import SPEAKERS, UTTERANCES, Difference, from_one
from benchmarks.report.document import MINUS, Figure, shown
from benchmarks.report.seeds import Measured, encoder_order, in_order, label_order
from downstream.score.rates import RATES
from upstream.picture import drawn_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

INK, QUIET, RULE, PAPER = "#010101", "#020202", "#030303", "#fefefe"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06", "#0a0a07", "#0a0a08")
_CYCLE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")  # C0 to C7
_VARIABLES = {INK: "ink", QUIET: "quiet", RULE: "rule", PAPER: "paper", "#000000": "ink", "#ffffff": "paper"} | {
    colour: f"series{number}" for colours in (SERIES, _CYCLE) for number, colour in enumerate(colours)}
_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH = 7.4  # inches; the page shows them as wide as its column
_SIZE = 9.0  # of texts, in points
_LINE = 100  # characters of names, and their marks as long as six, beside each other
_LONGEST = 44  # characters of a name
_LETTER = 0.08  # inches of a letter, about
_ROW = 0.21  # inches that a line of a list of intervals takes


def rate_figure(cells: Sequence[Measured], left_out: str = "", rates: Sequence[str] = RATES) -> list[Figure]:
    """Error rates against the labels, a line for each encoder, a panel for each decoder and rate; against the encoders
    where there is only one amount of labels.

    Args:
        left_out: a sentence on cells that are not among these.
        rates: a row of panels each.
    """
    decoders = list(dict.fromkeys(m.decoder for m in cells))
    labels = in_order((m.labelled for m in cells), label_order)
    encoders = in_order((m.encoder for m in cells), encoder_order)
    files = list(dict.fromkeys(m.file for m in cells))
    by_labels = len(labels) > 1
    pairs = {(m.encoder, m.file) for m in cells}
    series = [(encoder, file) for encoder in encoders for file in files if (encoder, file) in pairs]
    series = series if by_labels else [("", file) for file in files]
    ticks = [_plain(name) for name in (labels if by_labels else encoders)]
    longest = max(map(len, ticks)) * _LETTER
    slanted = longest > 0.8 * _WIDTH / len(decoders) / len(ticks)  # or they would lie on each other

    def draw_series(axes: Any, of_decoder: Sequence[Measured], rate: str) -> None:
        for number, (encoder, file) in enumerate(series):
            chosen = [m for m in of_decoder if m.file == file and encoder in ("", m.encoder)]
            places = [labels.index(m.labelled) if by_labels else encoders.index(m.encoder) for m in chosen]
            offset = 0.09 * (number - (len(series) - 1) / 2)
            again, colour = divmod(encoders.index(encoder) if by_labels else number, len(SERIES))
            style = files.index(file) + len(files) * again  # colours come again; with other marks and lines
            _series(axes, [p + offset for p in places], chosen, rate, SERIES[colour], style, by_labels)

    def draw(figure: Canvas) -> None:
        panels = figure.subplots(len(rates), len(decoders), squeeze=False, sharex=True)
        for row, rate in enumerate(rates):
            for column, decoder in enumerate(decoders):
                axes = panels[row][column]
                draw_series(axes, [m for m in cells if m.decoder == decoder], rate)
                _ticks(axes, ticks, slanted)
                if row == 0:
                    axes.set_title(_plain(decoder), loc="left", fontsize=_SIZE, color=INK)
                if column == 0:
                    axes.set_ylabel(f"{rate.upper()} %", color=QUIET, fontsize=_SIZE)
        names = [" · ".join(filter(None, (e, file if len(files) > 1 else ""))) for e, file in series]
        if any(names):
            _legend(figure, panels[0][0], [_plain(name) for name in names])

    height = 0.5 + 1.9 * len(rates) + (0.6 * longest if slanted else 0.0)
    caption = " ".join(filter(None, [_rate_caption(cells, by_labels), left_out]))
    return [Figure("rates-figure", caption, themed(drawn_svg(_WIDTH, height, draw), "rates"))]


def _rate_caption(cells: Sequence[Measured], by_labels: bool) -> str:
    what = ("Error rates against the amount of labels (evenly spaced, not to scale)" if by_labels else
            "Error rates of the encoders")
    bars = ("bars: 95 % intervals over test utterances" if all(len(m.rows) == 1 for m in cells) else
            "points: means over seeds; bars: one standard deviation of single seeds, or the 95 % interval over test "
            "utterances of one seed; light points: single seeds")
    return f"{what}; {bars}."


def difference_figure(found: Sequence[Difference]) -> list[Figure]:
    """Every difference with its intervals, a panel for each rate: thick by utterances, thin by speakers."""
    rates = list(dict.fromkeys(d.rate for d in found))
    same = from_one(found)
    names = list(dict.fromkeys(_place(d, same) for d in found))
    speakers = any(d.speakers is not None for d in found)

    def draw(figure: Canvas) -> None:
        panels = figure.subplots(1, len(rates), squeeze=False, sharey=True)[0]
        for axes, rate in zip(panels, rates):
            axes.axvline(0, color=INK, linewidth=0.8)
            for difference in found:
                if difference.rate == rate:
                    _forest(axes, len(names) - 1 - names.index(_place(difference, same)), difference)
            axes.set_title(_plain(f"{rate.upper()}, points"), loc="left", fontsize=_SIZE, color=INK)
            _bare(axes, "x")
        panels[0].set_yticks(range(len(names)), [_label(name, same) for name in reversed(names)])
        panels[0].set_ylim(-0.6, len(names) - 0.4)

    thin = "; thick bars: 95 % intervals drawing utterances, thin ones: drawing speakers" if speakers else (
        "; bars: 95 % intervals drawing utterances")
    return [Figure("differences-figure", f"Differences of error rates; left of 0: fewer errors{thin}. Hollow: the "
                   "interval by utterances includes 0.",
                   themed(drawn_svg(_WIDTH, 0.6 + _ROW * len(names), draw), "differences"))]


def scatter_figure(points: Callable[[Any], None], name: str, caption: str) -> Figure:
    """A single panel that `points(axes)` draws."""
    def draw(figure: Canvas) -> None:
        axes = figure.add_subplot()
        points(axes)
        _bare(axes, "both")
        axes.xaxis.label.set(color=QUIET, fontsize=_SIZE)
        axes.yaxis.label.set(color=QUIET, fontsize=_SIZE)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=_SIZE, labelcolor=INK)

    return Figure(f"{name}-figure", caption, themed(drawn_svg(1.2 * _WIDTH, 5.0, draw), name))


def themed(svg: str, name: str) -> str:
    """An `<svg>` element to be put into a page: colours as variables, its size the page's, ids of its own.

    Args:
        name: what its ids begin with, for a page with several.
    """
    element = svg[svg.index("<svg"):]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", element, count=1)
    element = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", element, count=1)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(href="#|url\(#)', rf"\1{name}-", element)
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", element).strip()


def _series(axes: Any, places: list[float], chosen: Sequence[Measured], rate: str, colour: str, style: int,
            joined: bool) -> None:
    """Points and bars of an encoder; of which file they are, marker and line (`style`) say."""
    marker = _MARKERS[style % len(_MARKERS)]
    values = [m.mean(rate) for m in chosen]
    ends = [(m.interval(rate) or (v, v)) if (d := m.deviation(rate)) is None else (v - d, v + d)
            for m, v in zip(chosen, values)]
    bars = [[max(0.0, v - low) for v, (low, _) in zip(values, ends)],
            [max(0.0, high - v) for v, (_, high) in zip(values, ends)]]
    for place, m in zip(places, chosen):
        for row in m.rows if len(m.rows) > 1 else ():
            axes.plot(place, row[rate], marker=marker, markersize=3, color=colour, alpha=0.4, linestyle="none")
    # No line rather than one of no width, whose dashes have no length, which matplotlib 3.10 refuses.
    axes.errorbar(places, values, bars, color=colour, linewidth=1.2, elinewidth=1.2, marker=marker,
                  linestyle=_LINES[style % len(_LINES)] if joined else "none", markersize=4.5, markeredgewidth=0)


def _forest(axes: Any, place: int, difference: Difference) -> None:
    sure = difference.utterances
    colour = SERIES[1] if difference.points < 0 else SERIES[2]
    for sampling, width in ((SPEAKERS, 1.0), (UTTERANCES, 3.0)):
        found = difference.by(sampling)
        if found is not None and found.ends is not None:
            axes.plot(found.ends, [place, place], color=colour, linewidth=width, alpha=0.55 if width > 2 else 1.0,
                      solid_capstyle="butt")
    axes.plot(difference.points, place, marker="o", markersize=5, markeredgecolor=colour, markeredgewidth=1.2,
              markerfacecolor=colour if sure.excludes_zero else PAPER)


def _place(difference: Difference, same: bool) -> tuple[str, ...]:
    against = () if same else (difference.against,)
    return (difference.file, *(value for _, value in difference.place), difference.system, *against)


def _label(place: tuple[str, ...], same: bool) -> str:
    """What a difference is of, each of its names so short that the whole fits, and those that end alike or begin alike
    are still told from each other."""
    names = [shown(name) for name in place]
    length = max(map(len, names))
    while length > 1 and sum(min(len(name), length) for name in names) > _LONGEST:
        length -= 1
    *rest, last = [_cut(name, length) for name in names]
    if not same:
        last = f"{rest.pop()} {MINUS} {last}"
    return _escaped(" · ".join(filter(None, [*rest, last])))


def _ticks(axes: Any, names: Sequence[str], slanted: bool) -> None:
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_xlim(-0.5, len(names) - 0.5)
    _bare(axes, "y")


def _plain(text: str) -> str:
    """A name as it is, or both ends of a long one."""
    return _escaped(_cut(shown(text), _LONGEST))


def _cut(name: str, length: int) -> str:
    """Both ends of a name that is longer: what tells names apart stands at either."""
    half = length // 2
    return name if len(name) <= length else f"{name[:length - half]}…{name[len(name) - half:]}"


def _escaped(name: str) -> str:
    """matplotlib takes what stands between dollars for a formula."""
    return name.replace("$", r"\$")


def _bare(axes: Any, grid: str) -> None:
    """No box, light lines, quiet numbers."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.set_facecolor("none")
    axes.figure.patch.set_facecolor("none")
    axes.grid(axis=grid, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelcolor=QUIET, labelsize=_SIZE - 0.5, length=0)


def _legend(figure: Canvas, axes: Any, names: Sequence[str]) -> None:
    handles = list(axes.containers)[:len(names)]
    columns = max(1, min(4, len(names), _LINE // (6 + max(map(len, names)))))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=_SIZE,
                  labelcolor=INK, handlelength=1.4, columnspacing=1.6)
