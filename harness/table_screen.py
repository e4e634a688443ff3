"""A table on a terminal: 80 columns, published cells first, then measured ones, each block with its protocols."""

import textwrap
from collections.abc import Sequence

from harness.published import Paper, Row, Table, show
from harness.table_pages import Tables, label, protocol

WIDTH = 80
LABEL = 30  # at most, of the names of rows


def render(tables: Tables, paper: Paper, table: Table) -> str:
    """The lines of a table."""
    lines = [*textwrap.wrap(f"{table.id}  {table.title}", WIDTH), "=" * WIDTH]
    for entry in protocol(table):
        lines += textwrap.wrap(entry, WIDTH, subsequent_indent="    ")
    names = _names(table)
    printed = [[show(row.values.get(column.key)) for column in table.columns] for row in table.rows]
    lines += block("published", [column.protocol(table) for column in table.columns], names, printed)
    grid = tables.grid(table)
    if grid.titles:
        mine = [(name, grid.line(row)) for name, row in zip(names, table.rows, strict=True) if grid.cells[row.id]]
        lines += block("measured", list(grid.titles.values()), [name for name, _ in mine], [line for _, line in mine])
    below = [*tables.budgets(table), *(f"{r.path} is stale: {r.stale}" for r in grid.results if r.stale)]
    awaited = [row.id for row in table.rows if f"{table.id}:{row.id}" in paper.awaited]
    below += [f"no recipe yet: {', '.join(awaited)}"] if awaited else []
    below += ["" if grid.titles else "nothing measured yet"]
    for text in filter(None, below):
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _names(table: Table) -> list[str]:
    """The rows, with their sizes where these differ."""
    sizes = {row.content.get("resolution") for row in table.rows}
    several = len(sizes - {None}) > 1
    return [_name(row, several) for row in table.rows]


def _name(row: Row, with_size: bool) -> str:
    name, size = label(row), str(row.content.get("resolution") or "")
    return f"{name}, {size}" if with_size and size and size not in name else name


def block(kind: str, titles: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows under lettered columns, as many at once as fit; the letters are explained above.

    Args:
        kind: what the numbers are: the heading.
        titles: of the columns.
        names: of the rows.
        rows: their cells.
    """
    width = max(len(cell) for row in rows for cell in row) + 2
    beside = max(1, (WIDTH - LABEL) // width)
    letters = [chr(ord("a") + number % 26) for number in range(len(titles))]
    lines = ["", kind]
    for letter, title in zip(letters, titles, strict=True):
        lines += textwrap.wrap(f"  {letter}  {title}", WIDTH, subsequent_indent="     ")
    for start in range(0, len(titles), beside):
        part = slice(start, start + beside)
        first = WIDTH - width * len(letters[part])
        lines += ["-" * WIDTH, " " * first + "".join(f"{letter:>{width}}" for letter in letters[part])]
        for name, cells in zip(names, rows, strict=True):
            wrapped = textwrap.wrap(name, first - 1, subsequent_indent="  ")
            lines += [*wrapped[:-1], f"{wrapped[-1]:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells[part])]
    return [*lines, "-" * WIDTH]
