"""Published beside measured: writes docs/tables, and measures what is missing.

    python -m harness.tables                   write the pages and figures
    python -m harness.tables --check           fail if they are out of date
    python -m harness.tables cdm/2b adm/4      show these tables
    python -m harness.tables --run cdm/2b      train, sample, score the missing
    python -m harness.tables --run cdm/2b:s-0 --dry-run
    python -m harness.tables --run adm/5 --from published
                                               score the samples of the authors

Published cells come from harness/papers/*.yaml, measured ones from
results/**/result.json. --run does again what --check calls changed or stale,
and goes on where it was stopped. Exit codes: 1 --check found something, or a
row of --run failed; 2 a mistake that the message explains.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness import plots, published
from harness.results import load_results
from harness.rows import SCALES
from harness.table_pages import Tables
from zoo.console import UserError, command, say
from zoo.registry import PROJECT
from zoo.whole_files import write_text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run and (options.check or options.ids):
        raise UserError("--run measures; --check and tables to show are commands of their own")
    if not options.run and (options.dry_run or options.seeds or options.source):
        raise UserError("--dry-run, --seeds and --from belong to --run TABLE")
    if options.run:
        return _run(options)
    tables = load(options.papers, options.results)
    if options.ids:
        return _show(tables, options.ids, options.markdown)
    return _check(tables, options.out) if options.check else write(tables, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="tables to show, such as cdm/2b")
    parser.add_argument("--markdown", action="store_true", help="show them as on their pages")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if anything is wrong")
    parser.add_argument("--run", nargs="+", metavar="ID", help="measure tables (cdm/2b) or rows (cdm/2b:s-0)")
    parser.add_argument("--scale", choices=SCALES, default="mini", help="of --run (default %(default)s)")
    parser.add_argument("--seeds", type=int, help="trainings a row; default: what the row says")
    parser.add_argument("--from", dest="source", choices=["published"], help="score the authors' samples instead")
    parser.add_argument("--offline", action="store_true", help="with --from: never use the network")
    parser.add_argument("--dry-run", action="store_true", help="say what --run would do, and do nothing")
    parser.add_argument("--workdir", type=Path, default=Path("runs/tables"), help="of --run (default %(default)s)")
    parser.add_argument("--results", type=Path, default=PROJECT / "results", help="folder of result.json files")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "tables", help="folder of the pages")
    parser.add_argument("--papers", type=Path, default=published.PAPERS, help="folder of the published tables")
    return parser


def load(papers: Path, results: Path) -> Tables:
    """The papers with what was measured."""
    found, problems = load_results(results)
    return Tables(published.load_papers(papers), found, problems=problems)


def _show(tables: Tables, ids: Sequence[str], markdown: bool) -> int:
    """Prints tables."""
    places = {table.id: (paper, table) for paper in tables.papers for table in paper.tables}
    from harness import table_screen

    for identity in ids:
        if identity not in places:
            raise UserError(f"there is no table {identity!r}; the tables are {', '.join(places)}")
        paper, table = places[identity]
        text = "\n".join(tables.section(paper, table)) if markdown else table_screen.render(tables, paper, table)
        say(text.rstrip() + "\n")
    return 0


def _check(tables: Tables, folder: Path) -> int:
    """Says what is wrong."""
    from harness import table_checks

    found = table_checks.problems(tables, folder)
    for problem in found:
        say(problem)
    return 1 if found else 0


def write(tables: Tables, folder: Path) -> int:
    """Writes the pages and figures, and removes those of papers that are gone."""
    written = tables.pages()
    for name, content in written.items():
        write_text(folder / name, content)
    for name, figure in tables.figures.items():
        plots.write(folder / "figures" / f"{name}.svg", figure)
    for path in [*folder.glob("*.md"), *(folder / "figures").glob("*.svg")]:
        if path.name not in written and path.stem not in tables.figures:
            path.unlink()
    say(f"{len(written)} pages and {len(tables.figures)} figures in {folder}")
    return 0


def _run(options: argparse.Namespace) -> int:
    """Measures rows, one after the other, and writes the pages after each."""
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds must be positive, got {options.seeds}")

    def written() -> None:
        write(load(options.papers, options.results), options.out)

    tables = load(options.papers, options.results)
    if options.source:
        from harness import published_batches

        return published_batches.run(
            tables, options.run, options.workdir, options.results, written, options.offline, options.dry_run
        )
    from harness import table_plan, table_runs

    plan = table_plan.plan(tables, options.run, options.scale, options.seeds, options.workdir)
    return table_runs.run(plan, options.results, written, options.dry_run)


if __name__ == "__main__":
    command(main)
