"""docs/tables as Markdown: every row of the papers with its published and its measured cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness import assets
from harness.curves import Figure, figure
from harness.published import Paper, Row, Table, show
from harness.results import Place, Result, cells, headings
from harness.row_recipes import RowRecipes, compare_budgets
from harness.rows import SCALES, identities
from zoo.console import UserError

NOTE = "<!-- Written by `python -m harness.tables`; changes belong into harness/papers or results. -->"
LEGEND = (
    "A cell is published or measured, never mixed; a dash means that nothing was printed or measured. Each measured "
    "column names its scale and its protocol: number of samples, feature network, reference, resolution. Numbers of "
    "different protocols are not comparable, least of all small experiments (mini) with Inception scores of 50,000 "
    "samples. Of several seeds a cell is the mean ± the standard deviation over the seeds; of one seed, the deviation "
    "is the metric's own. A stale number was measured, and would not come out so today; the reason stands below."
)


@dataclass(frozen=True)
class Tables:
    """The papers with what was measured.

    Attributes:
        results: all of them.
        recipes: that rows name.
        problems: what was wrong with the results when they were read.
    """

    papers: Sequence[Paper]
    results: Sequence[Result]
    recipes: RowRecipes = field(default_factory=RowRecipes)
    problems: Sequence[str] = ()

    def __post_init__(self) -> None:
        for result in self.results:
            for identity in result.rows:
                if identity not in self.rows:
                    raise UserError(
                        f"{result.path} names the published row {identity!r}, which no file of harness/papers has"
                    )

    @cached_property
    def rows(self) -> dict[str, tuple[Paper, Table, Row]]:
        """All rows by identity."""
        return identities(self.papers)

    @cached_property
    def batches(self) -> dict[str, str]:
        """Row -> the sample batch that its authors published, an asset."""
        named = ((row, asset.name) for asset in assets.catalogue().values() for row in asset.rows)
        return {":".join(row.rsplit("/", 1)): name for row, name in named}

    @cached_property
    def by_row(self) -> dict[str, list[Result]]:
        """Row -> its results, by seed."""
        found: dict[str, list[Result]] = {}
        for result in sorted(self.results, key=lambda result: (result.seed or 0, result.path)):
            for identity in result.rows:
                found.setdefault(identity, []).append(result)
        return found

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures that have a point, by id."""
        found = {}
        for paper in self.papers:
            tables = {table.id: table for table in paper.tables}
            for spec in paper.figures:
                if spec["table"] not in tables:
                    raise UserError(
                        f"figure {spec['id']} of {paper.name} names the table {spec['table']}, which is not"
                    )
                drawn = figure(spec, tables[spec["table"]], self.by_row)
                if drawn is not None:
                    found[drawn.id] = drawn
        return found

    def pages(self) -> dict[str, str]:
        """File name -> content of every page."""
        written = {"README.md": self._index()}
        for paper in self.papers:
            lines = [NOTE, "", f"# {paper.content['title']}", "", _citation(paper), "", LEGEND, ""]
            for table in paper.tables:
                lines += self.section(paper, table)
            written[f"{paper.name}.md"] = "\n".join(lines).rstrip() + "\n"
        return written

    def section(self, paper: Paper, table: Table) -> list[str]:
        """Markdown lines of one table: published columns, then measured ones, one for each protocol."""
        grid = self.grid(table)
        published = [column.protocol(table) for column in table.columns]
        measured = list(grid.titles.values()) or ["measured"]
        head = ["row", "system", "size", "settings", *published, *measured, "recipe", "results"]
        numbers = len(published) + len(measured)
        lines = [f"## {table.id}: {table.title}", "", *_protocol(table), _line(head)]
        lines.append(_line(["---"] * 4 + ["---:"] * numbers + ["---"] * 2))
        for row in table.rows:
            identity = f"{table.id}:{row.id}"
            printed = [show(row.values.get(column.key)) for column in table.columns]
            ours = grid.line(row) or ["-"]
            settings = ", ".join(f"{name.replace('_', ' ')} {said(value)}" for name, value in row.settings.items())
            size = str(row.content.get("resolution") or "-")
            recipe = "; ".join(_recipes(row, paper.awaited.get(identity), self.batches.get(identity))) or "-"
            sources = " ".join(_links(self.by_row.get(identity, []))) or "-"
            first = [f"`{row.id}`", label(row), size, settings or "-"]
            lines.append(_line([*first, *printed, *ours, recipe, sources]))
        for spec in paper.figures:
            if spec["table"] == table.id and spec["id"] in self.figures:
                lines += ["", f"![{spec['title']}](figures/{spec['id']}.svg)"]
        finding = [" ".join(table.content["finding"].split())] if table.content.get("finding") and grid.results else []
        below = [*finding, *self.budgets(table), *_stale(grid.results), *_awaited(paper, table), *_notes(table)]
        return [*lines, *([""] if below else []), *(f"- {text}" for text in below), ""]

    def grid(self, table: Table) -> "Grid":
        """The measured part of a table."""
        metrics = {column.metric for column in table.columns}
        rows = {f"{table.id}:{row.id}": row for row in table.rows}
        mine = list(dict.fromkeys(result for name in rows for result in self.by_row.get(name, [])))
        titles = headings(mine, rows, metrics)
        found = {row.id: cells(self.by_row.get(name, []), row, metrics) for name, row in rows.items()}
        texts = {row: {place: cell.text for place, cell in those.items()} for row, those in found.items()}
        return Grid(titles, texts, mine)

    def budgets(self, table: Table) -> list[str]:
        """For each scale at which rows were measured, how much they were trained, and where that differs."""
        said = []
        for scale in SCALES:
            ways = {
                row.id: row.ways[scale]
                for row in table.rows
                if scale in row.ways
                and any(result.scale_for(row) == scale for result in self.by_row.get(f"{table.id}:{row.id}", []))
            }
            if ways:
                said.append(f"{scale}: {compare_budgets(ways, self.recipes)}")
        return said

    def _index(self) -> str:
        lines = [NOTE, "", "# Published and measured tables", "", LEGEND, ""]
        lines += ["| paper | table | rows | with a recipe | measured rows |", "| --- | --- | ---: | ---: | ---: |"]
        for paper in self.papers:
            for table in paper.tables:
                measured = sum(f"{table.id}:{row.id}" in self.by_row for row in table.rows)
                able = sum(bool(row.ways or row.benchmark) for row in table.rows)
                link = f"[{table.id}]({paper.name}.md#{_anchor(table)}): {table.title}"
                lines.append(_line([paper.name, link, str(len(table.rows)), str(able or "-"), str(measured or "-")]))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Grid:
    """The measured cells of a table.

    Attributes:
        titles: of its columns.
        cells: row -> column -> text.
        results: that they came from.
    """

    titles: Mapping[Place, str]
    cells: Mapping[str, Mapping[Place, str]]
    results: Sequence[Result]

    def line(self, row: Row) -> list[str]:
        """The cells of a row, a dash where nothing was measured."""
        return [self.cells[row.id].get(place, "-") for place in self.titles]


def _recipes(row: Row, awaited: str | None, batch: str | None) -> list[str]:
    """The recipe cell: what measures a row at each scale."""
    parts = ["no recipe yet"] if awaited is not None else []
    for scale, way in row.ways.items():
        name = "" if scale == "full" else f"{scale}: "
        bindings = "".join(f", `{binding}`" for binding in way.bindings)
        steps = [one for one in way.checkpoints if one]
        checkpoints = f", checkpoint{'s' if len(steps) > 1 else ''} {' and '.join(steps)}" if steps else ""
        parts.append(f"{name}`{way.recipe}`{bindings}{checkpoints}")
    if row.benchmark:
        bindings = "".join(f", `{binding}`" for binding in row.content.get("bindings") or ())
        parts.append(f"`python {row.benchmark}`: `{row.content['recipe']}`{bindings}")
    if batch:
        parts.append(f"published samples: `{batch}`")
    return parts


def _links(results: Sequence[Result]) -> list[str]:
    """Where the cells of a row came from."""
    return [
        f"[{result.scale or 'result'}{'' if result.seed is None else f' seed {result.seed}'}](../../{result.path})"
        for result in results
    ]


def _stale(results: Sequence[Result]) -> list[str]:
    return [f"stale: `{result.path}`: {result.stale}" for result in results if result.stale]


def _awaited(paper: Paper, table: Table) -> list[str]:
    """Rows without a recipe, by reason."""
    reasons: dict[str, list[str]] = {}
    for row in table.rows:
        reason = paper.awaited.get(f"{table.id}:{row.id}")
        if reason:
            reasons.setdefault(reason, []).append(f"`{row.id}`")
    return [f"no recipe yet for {', '.join(rows)}: {reason}" for reason, rows in reasons.items()]


def _protocol(table: Table) -> list[str]:
    """The published protocol, as a list."""
    return [*(f"- {entry}" for entry in protocol(table)), ""]


def protocol(table: Table) -> list[str]:
    """The published protocol: a line for each thing that the paper says."""
    known = {"dataset": table.content.get("dataset"), "kind": table.content.get("kind")}
    first = [f"{name}: {value}" for name, value in known.items() if value]
    return first + [f"{name.replace('_', ' ')}: {said(value)}" for name, value in table.protocol.items()]


def _notes(table: Table) -> list[str]:
    """What the transcription says of doubtful places."""
    notes = [table.content["note"]] if table.content.get("note") else []
    for row in table.rows:
        doubt = [word for word in ("suspect", "inferred") if row.content.get(word)]
        if row.content.get("note") or doubt:
            parts = [*doubt, row.content.get("note") or ""]
            notes.append(f"`{row.id}`: " + ": ".join(part for part in parts if part))
    return [" ".join(note.split()) for note in notes]


def label(row: Row) -> str:
    """Group and name of a row, with a mark where the system is the paper's own."""
    group = row.content.get("group")
    mark = " (ours)" if row.ours and "ours" not in row.label else ""
    return f"{group}: {row.label}{mark}" if group else row.label + mark


def said(value: Any) -> str:
    """A setting or an entry of a protocol in words."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {said(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(said(inner) for inner in value)
    words = {True: "yes", False: "no", None: "-"}
    return words.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def _citation(paper: Paper) -> str:
    content = paper.content
    parts = [", ".join(content["authors"]) if "authors" in content else "", str(content.get("year", ""))]
    parts += [content["venue"]] if content.get("venue") else []
    parts += [f"arXiv:{content['arxiv']}"] if content.get("arxiv") else []
    return ". ".join(part for part in parts if part) + "."


def _anchor(table: Table) -> str:
    """The anchor that Markdown renderers give a section's heading."""
    heading = f"{table.id}: {table.title}".lower()
    return "".join(c for c in heading if c.isalnum() or c in " -_").replace(" ", "-")


def _line(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entry.replace("|", "\\|").replace("\n", " ") for entry in entries) + " |"
