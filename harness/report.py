"""What a run shows for it: a table row of 80 columns on the screen, and report.html, one self-contained page."""

import base64
import csv
import html
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import measured, published
from harness.cache import write_atomically
from zoo.console import say

WIDTH = 80
CELL = 14
LABEL = WIDTH - 3 * CELL
NOT_COMPARABLE = "A dash: not measured or not printed. Numbers on different lines follow different protocols."


def print_row(result: Mapping[str, Any], rows: Sequence[str]) -> None:
    """Prints the measured numbers, their real-against-real floor, and published rows beside them.

    Every line is one protocol, so that numbers of unlike protocols never stand side by side.

    Args:
        result: of `Evaluation`.
        rows: published rows as 'paper/table:row', such as 'cdm/1a:cdm-32'.
    """
    for line in render_row(result, rows):
        say(line)


def render_row(result: Mapping[str, Any], rows: Sequence[str]) -> list[str]:
    """The lines of `print_row`."""
    found = [(identity, *published.find_row(identity)) for identity in rows]
    size = result["resolution"]
    lines = ["", *_line(f"{result['dataset']} {size}x{size}", ["samples", "real images", "published"]), "-" * WIDTH]
    for key in measured.keys(result):
        cells = [measured.show(result["metrics"], key), measured.show(result["floor"], key), "-"]
        lines += _line(measured.title(result, key), cells)
    if result.get("classifier_accuracy") is not None:
        lines += _line("classifier, real held-out images", ["-", f"{result['classifier_accuracy']:.3f}", "-"])
    for identity, table, row in found:
        lines += ["", *textwrap.wrap(f"{row.label}, {_where(table, row)} ({identity})", WIDTH)]
        for column in table.columns:
            lines += _line(column.protocol(table), ["-", "-", published.show(row.values.get(column.key))])
    for warning in result.get("warnings", []):
        lines += textwrap.wrap(f"note: {warning}", WIDTH, subsequent_indent="  ")
    return [*lines, "-" * WIDTH, *textwrap.wrap(NOT_COMPARABLE, WIDTH)]


def _where(table: published.Table, row: published.Row) -> str:
    """Dataset and resolution of a published row."""
    dataset = row.content.get("dataset") or table.content.get("dataset") or ""
    resolution = row.content.get("resolution")
    return f"{dataset} {resolution}x{resolution}" if resolution else str(dataset)


def _line(label: str, cells: Sequence[str]) -> list[str]:
    """A label, wrapped where it is long, with its cells on its last line."""
    wrapped = textwrap.wrap(label, LABEL - 1, subsequent_indent="  ") or [""]
    return [*wrapped[:-1], f"{wrapped[-1]:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)]


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html from what lies in the work directory; returns its path.

    Curves of stages/*/metrics.csv, the newest sample grids, every result with its protocols and provenance, and the
    recipe. Pictures are inside the page.
    """
    workdir = Path(workdir)
    results = {path.stem: json.loads(path.read_text()) for path in sorted(workdir.glob("results/*.json"))}
    parts = [f"<h1>{html.escape(workdir.resolve().name)}</h1>"]
    for name, result in results.items():
        parts += [f"<h2>Scores of {html.escape(name)}</h2>", *_scores(result)]
        picture = workdir / "results" / f"{name}.png"
        if picture.is_file():
            parts += ["<h3>Samples</h3>", _image(picture.read_bytes(), f"samples of {name}")]
    for folder in sorted(path for path in workdir.glob("stages/*") if path.is_dir()):
        parts += [f"<h2>Stage {html.escape(folder.name)}</h2>", *_stage(folder)]
    for name in ("recipe.gin", "operative.gin", "run.json"):
        if (workdir / name).is_file():
            parts.append(_details(name, (workdir / name).read_text()))
    for name, result in results.items():
        parts.append(_details(f"results/{name}.json", json.dumps(result, indent=2)))
    page = PAGE.format(title=html.escape(workdir.resolve().name), body="\n".join(parts))
    write_atomically(workdir / "report.html", page.encode())
    return workdir / "report.html"


def _scores(result: Mapping[str, Any]) -> list[str]:
    """The table of one result, and what its numbers do not say."""
    cells = ["<table><tr><th>protocol</th><th>samples</th><th>real images, as many</th></tr>"]
    for key in measured.keys(result):
        values = [measured.show(result["metrics"], key), measured.show(result["floor"], key)]
        row = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        cells.append(f"<tr><td>{html.escape(measured.title(result, key))}</td>{row}</tr>")
    network = result["feature_network"]
    said = [
        f"Features: {network['title']}, identity {network['identity']}; resize: {result['resize']}.",
        f"Reference: {result['reference']['name']}, {result['counts']['reference']} images; "
        f"{result['counts']['samples']} samples.",
        "Scores by this feature network are compared with its own floor and with one another, never with scores by "
        "Inception.",
        *result.get("warnings", []),
    ]
    if result.get("rows"):
        said.append("Published rows: " + ", ".join(result["rows"]) + ".")
    lines = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    published_lines = "\n".join(render_row(result, result.get("rows", [])))
    return [*cells, "</table>", f"<ul>{lines}</ul>", _details("beside the published rows", published_lines)]


def _stage(folder: Path) -> list[str]:
    """Curves and the newest grids of one stage."""
    parts = []
    if (folder / "metrics.csv").is_file():
        parts.append(_curves(folder / "metrics.csv"))
    grids = sorted(folder.glob("grids/*.png"))
    newest = {path.stem.partition("-")[2]: path for path in grids}  # the name is STEP-KIND: the last step stays
    for kind, path in newest.items():
        parts += [f"<h3>{html.escape(kind or 'grid')}, step {int(path.stem.partition('-')[0]):,}</h3>"]
        parts.append(_image(path.read_bytes(), f"{folder.name} {kind}"))
    return parts


def _curves(path: Path) -> str:
    """Loss and speed over the steps, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    names = [name for name in ("loss", "gradient_norm", "images_per_second") if rows and name in rows[0]]
    if not names:
        return "<p>no curves yet</p>"
    steps = [int(row["step"]) for row in rows]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 2.8), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot(steps, [float(row[name]) for row in rows], linewidth=1)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel("step")
        if name == "loss":
            axis.set_yscale("log")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    return _image(buffer.getvalue(), f"curves of {path.parent.name}")


def _image(content: bytes, description: str) -> str:
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{encoded}">'


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #ccc; }}
td + td, th + th {{ text-align: right; }} img {{ max-width: 100%; }} pre {{ overflow-x: auto; background: #f6f6f6; }}
</style></head>
<body>
{body}
</body></html>
"""
