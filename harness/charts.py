"""The drawings of reports: training curves, accuracy class by class, and the numbers of a sweep over its values."""

import csv
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.class_accuracy import ClassAccuracy
    from harness.curves import Axis, Point

# Tell apart by light, by dark, and with red-green blindness.
BLUE, RED = "#3b82c4", "#d1603d"
COLOURS = (BLUE, RED, "#8a6bbf", "#4f9d69", "#b8860b", "#6b7785")
CURVES = ("loss", "gradient_norm", "images_per_second")
LOGARITHMIC = frozenset({"loss", "gradient_norm"})
COLUMNS = 3  # of the axes of a sweep


def to_svg(figure: "Figure", name: str) -> str:
    """A drawing to put inside a page, black standing for the colour of its text; the same bytes for the same drawing.

    Args:
        name: of this drawing, unlike any other on the page: references inside drawings must not meet.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to groups, and their names repeat between drawings
    return text.replace("#000000", "currentColor")


def to_png(figure: "Figure") -> bytes:
    """A picture on white, for slides and papers."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """The columns of metrics.csv as float64 [rows]; a row that a crash cut short is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else {})}


def draw_curves(runs: Mapping[str, Mapping[str, np.ndarray]]) -> "Figure | None":
    """Loss, norm of the gradient and speed over the steps; several runs over one another.

    Args:
        runs: title -> columns, as `read_curves` gives them; one run needs no title.
    """
    names = [name for name in CURVES if any(name in columns for columns in runs.values())]
    if not names:
        return None
    figure, axes = _figure(len(names), 2.7)
    for axis, name in zip(axes, names, strict=True):
        for colour, (title, columns) in zip(COLOURS * len(runs), runs.items(), strict=False):
            if name in columns:
                axis.plot(columns["step"], columns[name], linewidth=1, color=colour, label=title)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel("step")
        if name in LOGARITHMIC:
            axis.set_yscale("log")
    if len(runs) > 1:
        axes[0].legend(frameon=False)
    return figure


def draw_scores(steps: Sequence[float], values: Sequence[float]) -> "Figure":
    """The scores of a stage's checkpoints over the steps."""
    figure, (axis,) = _figure(1, 2.7)
    axis.plot(steps, values, linewidth=1, marker="o", markersize=4, color=BLUE)
    axis.set_title("score of the checkpoints, lower is better")
    axis.set_xlabel("step")
    return figure


def draw_terms(terms: Mapping[str, Sequence[float]]) -> "Figure":
    """The terms of the variational bound over the steps, and the errors of image and noise (Improved DDPM, figure 2).

    Args:
        terms: `step`, `bound`, `image_error` and `noise_error`, as a result has them.
    """
    figure, axes = _figure(3, 2.7)
    panels = (("bound", "bits per dimension"), ("image_error", "squared error"), ("noise_error", "squared error"))
    for axis, (name, unit) in zip(axes, panels, strict=True):
        axis.plot(np.array(terms["step"]) + 1, terms[name], linewidth=1, color=BLUE)
        axis.set_title({"bound": "terms of the bound"}.get(name, name.replace("_", " ")))
        axis.set_xlabel("step of the process")
        axis.set_ylabel(unit)
        axis.set_xscale("log")
        axis.set_yscale("log")
    return figure


def draw_classes(accuracy: "ClassAccuracy") -> "Figure":
    """Accuracy of every class by samples and by real images (CDM, figure 7), one against the other, and differences."""
    figure, (sorted_axis, against, differences) = _figure(3, 3.3)
    order = np.argsort(accuracy.real, kind="stable")
    places = np.arange(len(order))
    size = 12 if len(order) <= 100 else 3
    sorted_axis.plot(places, accuracy.real[order], color=BLUE, label="real images")
    sorted_axis.scatter(places, accuracy.samples[order], s=size, color=RED, label="samples", zorder=3)
    sorted_axis.set_xlabel("classes, by the accuracy of real images")
    sorted_axis.set_ylabel("accuracy")
    sorted_axis.legend(frameon=False)
    against.plot([0, 1], [0, 1], color="#808080", linewidth=0.8, linestyle="--")
    against.scatter(accuracy.real, accuracy.samples, s=size, color=RED, alpha=0.7)
    against.set_xlabel("trained on real images")
    against.set_ylabel("trained on samples")
    against.set_aspect("equal")
    differences.hist(accuracy.differences, bins=np.linspace(-1.025, 1.025, 42), color=BLUE)
    differences.axvline(0, color="#808080", linewidth=0.8, linestyle="--")
    low, high = accuracy.differences.min(), accuracy.differences.max()
    differences.set_xlim(min(-0.1, low - 0.05), max(0.1, high + 0.05))
    differences.set_xlabel("accuracy by samples - by real images")
    differences.set_ylabel("classes")
    differences.yaxis.get_major_locator().set_params(integer=True)
    differences.set_title(f"samples ahead in {accuracy.above} of {len(order)}")
    return figure


def draw_sweep(panels: "Sequence[tuple[Axis, Point | None]]", ticks: Sequence[str]) -> "Figure":
    """Every number over the values of a sweep, a curve for each value of its other bindings.

    Args:
        panels: a pair of axes for every number, and its best point where one is the best.
        ticks: names of the places 0, 1, ... along x; none where x is a number.
    """
    rows = -(-len(panels) // COLUMNS)
    figure, axes = _figure(min(len(panels), COLUMNS), 2.7 * rows, rows)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    for place, (axis, best) in zip(axes, panels, strict=False):
        for colour, curve in zip(COLOURS * len(axis.curves), axis.curves, strict=False):
            xs, ys, spreads = zip(*curve.points, strict=True)
            bars = [spread or 0.0 for spread in spreads] if any(spreads) else None
            place.errorbar(
                xs, ys, bars, linewidth=1, marker="o", markersize=4, capsize=2, color=colour, label=curve.label
            )
        if best is not None:
            place.plot(best[0], best[1], marker="o", markersize=11, color="#000000", fillstyle="none")
        place.set_title("\n".join(textwrap.wrap(axis.title, 36)))
        place.set_xlabel(axis.x)
        place.set_ylabel(axis.y)
        if ticks:
            place.set_xticks(range(len(ticks)), [textwrap.shorten(tick, 24) for tick in ticks], rotation=20)
            place.margins(x=0.15)
    if len(panels[0][0].curves) > 1:
        axes[0].legend(frameon=False, fontsize=7)
    return figure


def _figure(panels: int, height: float, rows: int = 1) -> "tuple[Figure, np.ndarray]":
    """A figure with axes side by side, in rows; made without pyplot, so that nothing is left behind."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(3.6 * panels, height), layout="constrained")
        axes = figure.subplots(rows, panels, squeeze=False).ravel()
        for axis in axes:
            axis.spines["right"].set_visible(False)
            axis.grid(alpha=0.25)
    return figure, axes
