"""A figure that becomes a PNG file, or none if something fails on the way; or SVG to be put into a page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upstream.disk import disk_errors, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def picture(path: Path, width: float, height: float, dpi: int = 120) -> Iterator[Figure]:
    """A figure to draw in, `width` by `height` inches, written when the block ends; no window, no global state.

    Raises:
        HubertkitError: the disk is full or cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and few commands draw
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with disk_errors(path), writing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def drawn_svg(width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """What `draw` draws in a figure of `width` by `height` inches, as an SVG document with its texts as texts: the same
    for the same drawing, whenever it is made."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.StringIO()
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "hubertkit", "font.family": "sans-serif"}
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.filterwarnings("ignore", "Glyph")  # who shows the texts has fonts of their own
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()
