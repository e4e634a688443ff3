"""Sets runs side by side: numbers of one protocol in a row, what differs between the recipes, curves and samples.

    python -m harness.compare RUN_OR_RESULT RUN_OR_RESULT ... [--out compare.html]

RUN is a work directory of zoo.run, RESULT a result.json. Numbers of unlike
protocols (another extractor, reference, count, resize or resolution) never
share a row; what makes them unlike is said below the rows.
"""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import charts, measured, pages
from harness.report import WIDTH, read_results
from zoo.console import UserError, command, say

LABEL, CELL, AT_ONCE = 38, 14, 3  # columns of the screen; runs beside one another
REQUIRED = ("metrics", "protocol", "reference", "counts", "feature_network", "resolution")


@dataclass(frozen=True)
class Entry:
    """One result, and the work directory that it came from, if any.

    Attributes:
        title: unlike that of any other entry.
        stage: that was scored; the name of its files in the work directory.
    """

    title: str
    stage: str
    result: dict[str, Any]
    workdir: Path | None

    def protocol(self, key: str) -> "Protocol":
        """All that a number must share with another one to be set beside it."""
        result = self.result
        title, network = measured.title(result, key), result["feature_network"]
        # A score without features, such as the CAS, does not depend on the feature network.
        identity = network["identity"] if network["title"] in title else ""
        reference = result["reference"]
        return Protocol(
            title=title,
            reference=f"{reference['name']} {reference.get('against', {}).get(key, '')}".strip(),
            fingerprint=str(reference.get("fingerprint", "")),
            extractor=str(identity),
            resize=str(result.get("resize", "")) if identity else "",
            resolution=int(result["resolution"]),
        )

    @cached_property
    def bindings(self) -> dict[str, str]:
        """Every parameter as built, from operative.gin; none where there is no work directory."""
        path = None if self.workdir is None else self.workdir / "operative.gin"
        if path is None or not path.is_file():
            return {}
        from zoo import recipe

        return {str(binding): repr(binding.value) for binding in recipe.load(path).source.bindings}


@dataclass(frozen=True)
class Protocol:
    """What a number is a measurement of; equal ones may share a row."""

    title: str
    reference: str
    fingerprint: str
    extractor: str
    resize: str
    resolution: int

    def unlike(self, other: "Protocol") -> list[str]:
        """How another protocol differs, in words."""
        names = {"title": "protocol", "fingerprint": "reference images", "resolution": "resolution"}
        found = []
        for name in ("title", "reference", "fingerprint", "extractor", "resize", "resolution"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and not (name == "fingerprint" and self.reference != other.reference):
                found.append(f"{names.get(name, name)} {mine or '-'} / {theirs or '-'}")
        return found


@dataclass(frozen=True)
class Row:
    """One protocol, with a cell for each entry: a dash where it has no such number."""

    key: str
    protocol: Protocol
    cells: tuple[str, ...]


def open_entries(paths: Sequence[Path]) -> list[Entry]:
    """The results of work directories and files.

    Raises:
        UserError: something is neither, or is damaged.
    """
    found: list[tuple[Path, str, dict[str, Any], Path | None]] = []
    for path in paths:
        if path.is_dir():
            results = read_results(path)
            if not results:
                raise UserError(f"{path} has no results/*.json: it is no work directory, or nothing was scored in it")
            found += [(path, stage, result, path) for stage, result in results.items()]
        else:
            found.append((path, path.stem, measured.read_result(path), None))
    for path, _, result, _ in found:
        missing = [name for name in REQUIRED if name not in result]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: it is no result of harness.evaluate")
    titles = _titles([(path, stage) for path, stage, _, _ in found])
    return [
        Entry(title, stage, result, workdir) for title, (_, stage, result, workdir) in zip(titles, found, strict=True)
    ]


def _titles(places: Sequence[tuple[Path, str]]) -> list[str]:
    """Short names of paths, as long as it takes to tell them apart, with the stage where a path has several."""
    names = []
    for path, stage in places:
        parts = _place(path).parts
        others = [_place(other).parts for other, _ in places if _place(other) != _place(path)]
        depth = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts))
        several = sum(other == path for other, _ in places) > 1
        names.append("/".join(parts[-depth:]) + (f" ({stage})" if several else ""))
    return names


def _place(path: Path) -> Path:
    """A path to name a result by: of many files called result.json the folder says which."""
    return path.resolve().parent if path.name == "result.json" else path.resolve()


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """A row for every protocol that occurs, in the order in which metrics are shown."""
    keys = dict.fromkeys(key for entry in entries for key in measured.keys(entry.result))
    order = [key for key in measured.SHOWN if key in keys] + [key for key in keys if key not in measured.SHOWN]
    rows = []
    for key in order:
        mine = {entry.title: entry.protocol(key) for entry in entries if key in entry.result["metrics"]}
        for protocol in dict.fromkeys(mine.values()):
            cells = [
                measured.show(entry.result["metrics"], key) if mine.get(entry.title) == protocol else "-"
                for entry in entries
            ]
            rows.append(Row(key, protocol, tuple(cells)))
    return rows


def unlike_rows(rows: Sequence[Row]) -> list[str]:
    """Sentences that say why one metric has several rows."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(row.key for row in rows):
        first, *others = (row.protocol for row in rows if row.key == key)
        for other in others:
            differences = first.unlike(other)
            # The titles stand in the rows already; they are repeated where nothing else differs.
            said = differences[1:] if first.title != other.title and len(differences) > 1 else differences
            found.setdefault("; ".join(said), []).append(key)
    return [f"{', '.join(keys)}: rows of their own, for unlike {said}" for said, keys in found.items()]


def differing_bindings(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Parameter and its value in each entry, '-' where it has none; only those that are not the same in all."""
    with_recipe = [entry for entry in entries if entry.bindings]
    if len(with_recipe) < 2:
        return []
    names = dict.fromkeys(name for entry in with_recipe for name in entry.bindings)
    table = [(name, *(entry.bindings.get(name, "-") for entry in entries)) for name in names]
    compared = [index for index, entry in enumerate(entries) if entry.bindings]
    return [line for line in table if len({line[1 + index] for index in compared}) > 1]


def render(entries: Sequence[Entry]) -> list[str]:
    """The lines of 80 columns that the command prints."""
    rows = rows_of(entries)
    lines = [line for number, entry in enumerate(entries, 1) for line in _wrapped(f"[{number}] {entry.title}", 4)]
    for start in range(0, len(entries), AT_ONCE):
        part = range(start, min(start + AT_ONCE, len(entries)))
        lines += ["", f"{'':<{LABEL}}" + "".join(f"{f'[{index + 1}]':>{CELL}}" for index in part), "-" * WIDTH]
        for row in rows:
            if any(row.cells[index] != "-" for index in part):
                label = textwrap.wrap(row.protocol.title, LABEL - 1, subsequent_indent="  ")
                cells = "".join(f"{row.cells[index]:>{CELL}}" for index in part)
                lines += [*label[:-1], f"{label[-1]:<{LABEL}}{cells}"]
    lines += ["-" * WIDTH]
    for sentence in unlike_rows(rows):
        lines += _wrapped(f"note: {sentence}", 2)
    differing = differing_bindings(entries)
    if differing:
        lines += ["", "what differs between the recipes:"]
        for name, *values in differing:
            shown = "  ".join(f"[{number}] {value}" for number, value in enumerate(values, 1))
            lines += _wrapped(f"  {name}: {shown}", 4)
    return lines


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def write_page(entries: Sequence[Entry], path: Path) -> None:
    """Writes the comparison as a self-contained page."""
    rows = rows_of(entries)
    head = ("protocol", *(entry.title for entry in entries))
    numbers = [(row.protocol.title, *row.cells) for row in rows]
    notes = [f"{entry.title}: {text}" for entry in entries for text in entry.result.get("warnings", [])]
    differing = differing_bindings(entries)
    sections: dict[str, list[str]] = {
        "To know first": [pages.notice("Not comparable", unlike_rows(rows)), pages.notice("Warnings", notes)],
        "Scores": [pages.table("a row is one protocol; a dash: not measured by it", head, numbers)],
        "What differs between the recipes": [],
        "Curves": _curves(entries),
        "Samples": [pages.row(*_grids(entries))] if _grids(entries) else [],
    }
    if differing:
        head = ("parameter", *(entry.title for entry in entries))
        sections["What differs between the recipes"].append(
            pages.table("parameters as built, where they are not the same", head, differing, numbers=False)
        )
    title = " / ".join(entry.title for entry in entries)
    pages.write_page(path, title, f"{len(entries)} results side by side", sections)


def _curves(entries: Sequence[Entry]) -> list[str]:
    """Training curves of stages of one name over one another."""
    files: dict[str, dict[str, Path]] = {}
    for entry in entries:
        for path in sorted(entry.workdir.glob("stages/*/metrics.csv")) if entry.workdir else []:
            files.setdefault(path.parent.name, {})[entry.title] = path
    found = []
    for stage, paths in files.items():
        figure = charts.draw_curves({title: charts.read_curves(path) for title, path in paths.items()})
        if figure is not None:
            drawn = charts.to_svg(figure, f"curves {stage}")
            found += [pages.heading(f"Stage {stage}"), pages.drawing(drawn, f"training curves of {stage}")]
    return found


def _grids(entries: Sequence[Entry]) -> list[str]:
    """The pictures of the first samples."""
    found = []
    for entry in entries:
        path = entry.workdir / "results" / f"{entry.stage}.png" if entry.workdir else None
        if path is not None and path.is_file():
            found.append(pages.picture(path.read_bytes(), f"samples of {entry.title}", entry.title))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN_OR_RESULT", help="work directory or result.json")
    parser.add_argument("--out", type=Path, help="file for the page (HTML)")
    options = parser.parse_args(arguments)
    entries = open_entries(options.paths)
    if len(entries) < 2:
        raise UserError("one result has nothing to be compared with: give at least two runs or results")
    say("\n".join(render(entries)))
    if options.out is not None:
        write_page(entries, options.out)
        say(f"\npage in {options.out}")


if __name__ == "__main__":
    command(main)
