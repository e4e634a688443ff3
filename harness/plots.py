"""Draws the figures of the tables as SVG: small, the same bytes for the same data, and knowing which data it shows."""

import io
import re
import textwrap
from pathlib import Path
from typing import Any

from harness.curves import Axis, Figure
from zoo.whole_files import write_bytes

STYLE = 1  # of the drawing; a change of it draws every figure anew
WIDTH, HEIGHT = 3.6, 2.9  # of one pair of axes, inches
MARK = re.compile(r"data ([0-9a-f]{20})")
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b")


def is_current(path: Path, figure: Figure) -> bool:
    """Whether the file is a whole drawing of this data; other versions of matplotlib may have drawn it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    mark = MARK.search(text)
    return mark is not None and mark[1] == figure.digest(STYLE) and text.rstrip().endswith("</svg>")


def write(path: Path, figure: Figure) -> None:
    """Draws a figure where its file does not show this data."""
    if not is_current(path, figure):
        write_bytes(path, draw(figure))


def draw(figure: Figure) -> bytes:
    """The figure as SVG."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    columns = max(len(axes) for axes in figure.panels)
    rows = len(figure.panels)
    # Text stays text, and names inside the file come from its id: the bytes depend on the data alone.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": figure.id, "font.size": 8, "axes.titlesize": 8}
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(WIDTH * columns, HEIGHT * rows + 0.4), layout="constrained")
        grid = canvas.subplots(rows, columns, squeeze=False)
        for row, axes in zip(grid, figure.panels, strict=True):
            for number, place in enumerate(row):
                if number < len(axes):
                    _draw_axis(place, axes[number], figure.logarithmic)
                else:
                    place.set_axis_off()
        canvas.suptitle("\n".join(textwrap.wrap(figure.title, 45 * columns)), fontsize=9)
        buffer = io.BytesIO()
        about = {"Date": None, "Creator": "harness.tables", "Description": f"data {figure.digest(STYLE)}"}
        canvas.savefig(buffer, format="svg", metadata=about)
    lines = buffer.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def _draw_axis(place: Any, axis: Axis, logarithmic: bool) -> None:
    """Published points are hollow on dashed lines, measured ones are filled, with the spread over seeds."""
    for colour, curve in zip(COLOURS * len(axis.curves), axis.curves, strict=False):
        xs, ys, spreads = zip(*curve.points, strict=True)
        place.errorbar(
            xs,
            ys,
            yerr=[spread or 0.0 for spread in spreads] if any(spreads) else None,
            label=curve.label or None,
            color=colour,
            linewidth=1,
            markersize=4,
            capsize=2,
            linestyle="-" if axis.measured else "--",
            marker="s" if axis.measured else "o",
            markerfacecolor=colour if axis.measured else "white",
        )
    if logarithmic and all(point[0] > 0 for curve in axis.curves for point in curve.points):
        place.set_xscale("log")
    place.set_title(axis.title)
    place.set_xlabel("\n".join(textwrap.wrap(axis.x, 45)))
    place.set_ylabel("\n".join(textwrap.wrap(axis.y, 36)))
    place.grid(alpha=0.3)
    if any(curve.label for curve in axis.curves):
        place.legend(fontsize=7)
