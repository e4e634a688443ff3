"""What `python -m harness.tables --check` looks at: pages, figures, rows without recipes, and results that are old."""

from collections.abc import Iterator
from pathlib import Path

from harness.plots import is_current
from harness.results import PUBLISHED, Result
from harness.table_pages import Tables
from zoo.console import UserError
from zoo.registry import PROJECT


def problems(tables: Tables, folder: Path) -> list[str]:
    """Everything wrong with the tables, a line each; empty where all is right.

    Args:
        folder: of the pages.
    """
    return [*_recipes(tables), *tables.problems, *_results(tables), *_pages(tables, folder)]


def _pages(tables: Tables, folder: Path) -> Iterator[str]:
    """Pages and figures that are not what papers and results give."""
    written = tables.pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    wrong = [name for name in {*written, *there} if written.get(name) != there.get(name)]
    drawn = {f"{name}.svg": figure for name, figure in tables.figures.items()}
    figures = {path.name for path in (folder / "figures").glob("*.svg")}
    for name in sorted(wrong):
        yield f"{folder / name} {_state(name in there, name in written)}"
    for name in sorted({*drawn, *figures}):
        path = folder / "figures" / name
        if name not in drawn or not is_current(path, drawn[name]):
            yield f"{path} {_state(name in figures, name in drawn)}"


def _state(there: bool, wanted: bool) -> str:
    cure = "; run python -m harness.tables"
    return ("is not there" if not there else "is of no paper" if not wanted else "is out of date") + cure


def _recipes(tables: Tables) -> Iterator[str]:
    """Rows of a paper's own systems that have no recipe and are not awaited, and the reverse; recipes that are not."""
    for identity, (paper, _, row) in tables.rows.items():
        awaited = identity in paper.awaited
        has_recipe = "full" in row.ways or row.benchmark is not None
        if row.ours and not has_recipe and not awaited:
            yield f"{identity} is of the paper's own system and has no recipe: name one, or why not (awaited:)"
        if awaited and has_recipe:
            yield f"{identity} has a recipe and is awaited all the same: take it out of awaited:"
        if awaited and not row.ours:
            yield f"{identity} is awaited, but it is not of the paper's own system: take it out of awaited:"
        named = [("recipe", file) for file in [*(way.recipe for way in row.ways.values()), *row.like]]
        named += [("recipe", row.content["recipe"]), ("benchmark", row.benchmark)] if row.benchmark else []
        for kind, file in dict.fromkeys(named):
            if not (PROJECT / file).is_file():
                yield f"{identity} names the {kind} {file}, which is not there"
    for paper in tables.papers:
        for identity in paper.awaited:
            if identity not in tables.rows:
                yield f"{paper.name}.yaml awaits {identity}, which is no row: take it out of awaited:"


def _results(tables: Tables) -> Iterator[str]:
    """Results whose recipe has changed since, or of which a row has two."""
    seen: dict[tuple[str, str, int | None, str | None, str], Result] = {}
    for result in tables.results:
        for identity in result.rows:
            row = tables.rows[identity][2]
            scale = result.scale_for(row)
            key = identity, scale, result.seed, result.checkpoint, result.network
            if key in seen:
                both = f"{result.path} and {seen[key].path}"
                yield f"{both} are both of {identity}, {scale}, seed {result.seed}: keep one"
            seen[key] = result
            reason = _changed(tables, result, identity, scale)
            if reason and not result.stale:
                yield (
                    f"{result.path}: {reason}; measure it again (python -m harness.tables --run {identity} "
                    f"--scale {scale}), or say in results/stale.yaml why it stays"
                )


def _changed(tables: Tables, result: Result, identity: str, scale: str) -> str | None:
    """Why a result is no longer what its row's recipe gives."""
    if scale == PUBLISHED:
        batch = tables.batches.get(identity)
        scored = result.content.get("batch")
        return None if scored == batch else f"it scored the batch {scored}, but {identity} now names {batch}"
    way = tables.rows[identity][2].ways.get(scale)
    if way is None:
        return f"{identity} names no recipe at scale {scale}"
    if "recipe_identity" not in result.content:
        return "it does not say which recipe made it"
    try:
        made = tables.recipes.made(result.content, way)
    except UserError as error:
        return f"the recipe of {identity} is wrong ({str(error).splitlines()[0]})"
    return None if made else f"the recipe of {identity} has changed since"
