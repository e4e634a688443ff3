"""Which published rows a recipe stands for: the rows of harness/papers name their recipes, nothing else does."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.published import Paper, Row, Table, load_papers
from zoo.console import UserError
from zoo.recipe import plain
from zoo.registry import PROJECT

SCALES = ("mini", "full")


def identities(papers: Sequence[Paper]) -> dict[str, tuple[Paper, Table, Row]]:
    """Every row by its identity, 'cdm/2b:s-0'."""
    return {
        f"{table.id}:{row.id}": (paper, table, row) for paper in papers for table in paper.tables for row in table.rows
    }


def find_row(identity: str) -> tuple[Table, Row]:
    """The table and row of 'paper/table:row', such as 'cdm/1a:cdm-32'.

    Raises:
        UserError: there is no such table or row; the message lists what there is.
    """
    papers = load_papers()
    found = identities(papers)
    if identity not in found:
        select([identity if ":" in identity else f"{identity}:"], papers)  # which says what is wrong with it
    _, table, row = found[identity]
    return table, row


def rows_naming(recipe: Path, papers: Sequence[Paper] | None = None) -> list[str]:
    """All rows that name a recipe, at any scale and with any bindings."""
    return list(dict.fromkeys(identity for identity, _ in _naming(recipe, papers)))


def rows_of(recipe: Path, overrides: Sequence[str], papers: Sequence[Paper] | None = None) -> list[str]:
    """The rows that a run is to be printed beside.

    Args:
        recipe: its file.
        overrides: bindings of its command line.
        papers: all papers where None.

    Returns:
        The rows that name the recipe with all of their bindings among the overrides; where some of these have
        bindings, those without any stand for another run, and are left out.
    """
    given = set(plain(overrides))
    fitting = [found for found in _naming(recipe, papers) if set(plain(found[1])) <= given]
    most = max((len(bindings) for _, bindings in fitting), default=0)
    return list(dict.fromkeys(identity for identity, bindings in fitting if len(bindings) == most))


def _naming(recipe: Path, papers: Sequence[Paper] | None) -> Iterator[tuple[str, Sequence[str]]]:
    """Row and its bindings, for every place at which a row names the recipe."""
    wanted = Path(recipe).resolve()
    for identity, (_, _, row) in identities(load_papers() if papers is None else papers).items():
        for way in row.ways.values():
            if (PROJECT / way.recipe).resolve() == wanted:
                yield identity, way.bindings
        if any((PROJECT / file).resolve() == wanted for file in row.like):
            yield identity, ()


def select(ids: Sequence[str], papers: Sequence[Paper]) -> list[str]:
    """The rows that tables ('cdm/2b') and rows ('cdm/2b:s-0') name, in the order of the papers.

    Raises:
        UserError: there is no such table or row; the message lists what there is.
    """
    known = identities(papers)
    tables: dict[str, list[str]] = {}
    for identity in known:
        tables.setdefault(identity.partition(":")[0], []).append(identity)
    chosen: set[str] = set()
    for wanted in ids:
        name, colon, row = wanted.partition(":")
        if name not in tables:
            raise UserError(f"there is no table {name!r}; the tables are {', '.join(tables)}")
        if colon and wanted not in known:
            there = ", ".join(identity.partition(":")[2] for identity in tables[name])
            raise UserError(f"table {name} has no row {row!r}; its rows are {there}")
        chosen |= {wanted} if colon else set(tables[name])
    return [identity for identity in known if identity in chosen]
