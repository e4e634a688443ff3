"""What a run shows for it: a table row of 80 columns on the screen, and report.html, one self-contained page."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import likelihood_report, measured, pages, published, report_parts
from harness.likelihood_report import SUFFIX
from harness.rows import find_row
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
    found = [(identity, *find_row(identity)) for identity in rows]
    lines = ["", *_line(measured.place(result), ["samples", "real images", "published"]), "-" * WIDTH]
    for key in measured.keys(result):
        cells = [measured.show(result["metrics"], key), measured.show(result["floor"], key), "-"]
        lines += _line(measured.title(result, key), cells)
    if result.get("classifier_accuracy") is not None:
        lines += _line("classifier, real held-out images", ["-", f"{result['classifier_accuracy']:.3f}", "-"])
    for identity, table, row in found:
        lines += ["", *textwrap.wrap(f"{row.label}, {report_parts.published_place(table, row)} ({identity})", WIDTH)]
        for column in table.columns:
            lines += _line(column.protocol(table), ["-", "-", published.show(row.values.get(column.key))])
    for warning in result.get("warnings", []):
        lines += textwrap.wrap(f"note: {warning}", WIDTH, subsequent_indent="  ")
    return [*lines, "-" * WIDTH, *textwrap.wrap(NOT_COMPARABLE, WIDTH)]


def _line(label: str, cells: Sequence[str]) -> list[str]:
    """A label, wrapped where it is long, with its cells on its last line."""
    wrapped = textwrap.wrap(label, LABEL - 1, subsequent_indent="  ") or [""]
    return [*wrapped[:-1], f"{wrapped[-1]:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)]


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html from what lies in the work directory; returns its path.

    Every result with its protocols, what its numbers do not say, its provenance and its pictures; the published rows
    beside it; curves, incidents and newest grids of every stage; the recipe. All of it is inside the page.
    """
    workdir = Path(workdir)
    results = read_results(workdir)
    stages = sorted(path for path in workdir.glob("stages/*") if path.is_dir())
    parts: dict[str, list[str]] = {"To know first": report_parts.warnings(results, stages)}
    for name, result in results.items():
        suffix = f" of {name}" if len(results) > 1 else ""
        parts[f"Scores{suffix}"] = report_parts.scores(result)
        parts[f"Beside the papers{suffix}"] = report_parts.beside(result)
        parts[f"Samples{suffix}"] = report_parts.samples(workdir, name, result)
        parts[f"Class by class{suffix}"] = report_parts.classes(workdir, name, result)
        parts[f"What the numbers do not say{suffix}"] = report_parts.limits(result)
        parts[f"Where the numbers come from{suffix}"] = report_parts.provenance(result)
    for name, found in likelihood_report.read_likelihoods(workdir).items():
        parts[f"Likelihood of {name}"] = likelihood_report.section(name, found)
    for folder in stages:
        parts[f"Stage {folder.name}"] = report_parts.stage(folder)
    parts["Files"] = report_parts.files(workdir, results)
    page = workdir / "report.html"
    pages.write_page(page, workdir.resolve().name, report_parts.lead(workdir, results), parts)
    return page


def read_results(workdir: Path) -> dict[str, dict[str, Any]]:
    """The scores of a work directory by the stages that they belong to.

    Raises:
        UserError: a file is damaged.
    """
    found = [path for path in sorted(Path(workdir).glob("results/*.json")) if not path.stem.endswith(SUFFIX)]
    return {path.stem: measured.read_result(path) for path in found}
