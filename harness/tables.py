"""Writes docs/tables: every row of the papers with its published and its measured cells.

    python -m harness.tables                  write the pages
    python -m harness.tables --check          fail if the pages are not what papers and results give
    python -m harness.tables cdm/2b adm/4     show these tables

Published cells come from harness/papers/*.yaml, measured ones from results/**/result.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import measured, published
from harness.cache import write_atomically
from zoo import registry
from zoo.console import UserError, command, say

PROJECT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by `python -m harness.tables`; changes belong into harness/papers or results. -->"


@dataclass(frozen=True)
class Result:
    """One measured result.json."""

    path: str
    content: Mapping[str, Any]
    rows: tuple[str, ...]
    recipe: str

    def cells(self, metrics: set[str]) -> dict[str, str]:
        """Column title -> value, for the metrics that a table shows.

        The title carries all that makes numbers unlike: protocol, reference, dataset and resolution.
        """
        size = self.content["resolution"]
        of = f"{self.content['reference']['name']} {size}x{size}"
        return {
            f"{measured.title(self.content, key)}, {of}": measured.show(self.content["metrics"], key)
            for key in measured.keys(self.content)
            if measured.published_metric(key) in metrics
        }


def load_results(folder: Path, recipes: Mapping[str, registry.RecipeEntry]) -> list[Result]:
    """All results below a folder, by path; their rows are their own or those of their recipe in registry.yaml."""
    found = []
    for path in sorted(folder.glob("**/result.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            recipe = str(content.get("recipe") or "")
            rows = content.get("rows")
            missing = {"metrics", "protocol", "reference", "resolution"} - set(content)
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path} is not a result ({error}): run the evaluation again") from error
        if missing:
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}: run the evaluation again")
        if rows is None:
            mine = [entry for entry in recipes.values() if f"/{recipe}".endswith(f"/{entry.file}")]
            rows = [row for entry in mine for row in (*entry.rows, *entry.like)]
        found.append(Result(path.relative_to(folder.parent).as_posix(), content, tuple(rows), recipe))
    return found


def render_table(table: published.Table, results: Sequence[Result], recipes: Mapping[str, list[str]]) -> list[str]:
    """Markdown lines of one table: published columns, then measured ones, one per protocol.

    Args:
        results: all results; those of other tables are passed over.
        recipes: row -> files of the recipes that reproduce it.
    """
    metrics = {column.metric for column in table.columns}
    mine = {row.id: [result for result in results if f"{table.id}:{row.id}" in result.rows] for row in table.rows}
    cells = {row: [result.cells(metrics) for result in found] for row, found in mine.items()}
    titles = list(dict.fromkeys(title for found in cells.values() for each in found for title in each))
    columns = [column.protocol(table) for column in table.columns]
    head = [
        "row",
        "system",
        "size",
        "settings",
        *columns,
        *([f"measured: {title}" for title in titles] or ["measured"]),
    ]
    lines = [f"## {table.id}: {table.title}", "", *_protocol(table), _markdown_row([*head, "recipe"])]
    lines.append(_markdown_row(["---"] * 4 + ["---:"] * (len(head) - 4) + ["---"]))
    for row in table.rows:
        values = [published.show(row.values.get(column.key)) for column in table.columns]
        ours = [_joined([each[title] for each in cells[row.id] if title in each]) for title in titles or [""]]
        files = ", ".join(f"`{file}`" for file in recipes.get(f"{table.id}:{row.id}", [])) or "-"
        settings = ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in row.settings.items())
        size = str(row.content.get("resolution") or "-")
        lines.append(_markdown_row([f"`{row.id}`", _label(row), size, settings or "-", *values, *ours, files]))
    sources = list(dict.fromkeys(result.path for found in mine.values() for result in found))
    lines += ["", *(f"Measured: `{path}`." for path in sources), *_notes(table)]
    return [*lines, ""] if lines[-1] else lines


def _protocol(table: published.Table) -> list[str]:
    """The published protocol, as a list."""
    dataset = table.content.get("dataset")
    kind = table.content.get("kind")
    first = [f"- dataset: {dataset}"] * bool(dataset) + [f"- kind: {kind}"] * bool(kind)
    entries = [f"- {name.replace('_', ' ')}: {_setting(value)}" for name, value in table.protocol.items()]
    return [*first, *entries, ""]


def _notes(table: published.Table) -> list[str]:
    """What the transcription says of doubtful places."""
    notes = [table.content["note"]] if table.content.get("note") else []
    for row in table.rows:
        doubt = [word for word in ("suspect", "inferred") if row.content.get(word)]
        if row.content.get("note") or doubt:
            said = [*doubt, row.content.get("note") or ""]
            notes.append(f"`{row.id}`: " + ": ".join(part for part in said if part))
    return ["", *(f"- {' '.join(note.split())}" for note in notes)] if notes else []


def _label(row: published.Row) -> str:
    group = row.content.get("group")
    mark = " (ours)" if row.content.get("ours") and "ours" not in row.label else ""
    return f"{group}: {row.label}{mark}" if group else row.label + mark


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_setting(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_setting(inner) for inner in value)
    return (
        {True: "yes", False: "no", None: "-"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
    )


def _joined(values: Sequence[str]) -> str:
    return "; ".join(values) or "-"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def pages(papers: Sequence[published.Paper], results: Sequence[Result], catalogue: registry.Registry) -> dict[str, str]:
    """File name -> content of every page.

    Raises:
        UserError: a result or a recipe names a row that no paper has.
    """
    recipes: dict[str, list[str]] = {}
    for entry in catalogue.recipes.values():
        for row in entry.rows:
            recipes.setdefault(row, []).append(entry.file)
    known = {f"{table.id}:{row.id}" for paper in papers for table in paper.tables for row in table.rows}
    for source, rows in [("registry.yaml", recipes), *((result.path, result.rows) for result in results)]:
        for identity in rows:
            if identity not in known:
                raise UserError(f"{source} names the published row {identity!r}, which no file of harness/papers has")
    written = {"README.md": _index(papers, results)}
    for paper in papers:
        lines = [NOTE, "", f"# {paper.content['title']}", "", _citation(paper), "", LEGEND, ""]
        for table in paper.tables:
            lines += render_table(table, results, recipes)
        written[f"{paper.name}.md"] = "\n".join(lines).rstrip() + "\n"
    return written


def _citation(paper: published.Paper) -> str:
    content = paper.content
    parts = [", ".join(content["authors"]) if "authors" in content else "", str(content.get("year", ""))]
    parts += [content["venue"]] if content.get("venue") else []
    parts += [f"arXiv:{content['arxiv']}"] if content.get("arxiv") else []
    return ". ".join(part for part in parts if part) + "."


def _index(papers: Sequence[published.Paper], results: Sequence[Result]) -> str:
    lines = [NOTE, "", "# Published and measured tables", "", LEGEND, "", "| paper | table | rows | measured rows |"]
    lines.append("| --- | --- | ---: | ---: |")
    measured_rows = {row for result in results for row in result.rows}
    for paper in papers:
        for table in paper.tables:
            count = sum(f"{table.id}:{row.id}" in measured_rows for row in table.rows)
            link = f"[{table.id}]({paper.name}.md): {table.title}"
            lines.append(_markdown_row([paper.name, link, str(len(table.rows)), str(count or "-")]))
    return "\n".join(lines) + "\n"


LEGEND = (
    "A cell is published or measured, never mixed; a dash means that nothing was printed or measured. Each measured "
    "column names its protocol: number of samples, feature network, reference, resolution. Numbers of different "
    "protocols are not comparable, least of all small experiments with Inception scores of 50,000 samples."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="tables to show, such as cdm/2b")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page would change")
    parser.add_argument("--results", type=Path, default=PROJECT / "results", help="folder of result.json files")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "tables", help="folder of the pages")
    options = parser.parse_args(arguments)
    papers = published.load_papers()
    catalogue = registry.load()
    results = load_results(options.results, catalogue.recipes)
    written = pages(papers, results, catalogue)
    if options.ids:
        return _show(options.ids, papers, written)
    return _check(options.out, written) if options.check else _write(options.out, written)


def _show(ids: Sequence[str], papers: Sequence[published.Paper], written: Mapping[str, str]) -> int:
    """Prints the sections of the pages."""
    places = {table.id: f"{paper.name}.md" for paper in papers for table in paper.tables}
    for identity in ids:
        if identity not in places:
            raise UserError(f"there is no table {identity!r}; the tables are {', '.join(places)}")
        heading = f"## {identity}: "
        section = written[places[identity]].partition(heading)[2].partition("\n## ")[0]
        say(heading + section)
    return 0


def _check(folder: Path, written: Mapping[str, str]) -> int:
    """Compares the pages with what is there."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    stale = sorted(name for name in {*written, *there} if written.get(name) != there.get(name))
    for name in stale:
        state = "is not there" if name not in there else "is of no paper" if name not in written else "is out of date"
        say(f"{folder / name} {state}")
    if stale:
        say("run: python -m harness.tables")
    return 1 if stale else 0


def _write(folder: Path, written: Mapping[str, str]) -> int:
    """Writes the pages, and removes those of papers that are gone."""
    for name, content in written.items():
        write_atomically(folder / name, content.encode())
    for path in folder.glob("*.md"):
        if path.name not in written:
            path.unlink()
    say(f"{len(written)} pages in {folder}")
    return 0


if __name__ == "__main__":
    command(main)
