"""Measured results as the tables show them: which row, scale and seed each is of, and whether it still stands."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness import measured
from harness.published import Row
from zoo.console import UserError

STALE = "stale.yaml"
PUBLISHED = "published"  # the scale of a result that was scored from the samples of a row's authors
SAID = {"mini": "measured, mini", "full": "measured", PUBLISHED: "measured on the published samples"}
NEEDED = {"metrics", "protocol", "reference", "resolution"}


@dataclass(frozen=True, eq=False)
class Result:
    """One result.json.

    Attributes:
        path: from the folder that the folder of results lies in, for the pages.
        rows: published rows that it is a measurement of.
        scale: 'mini', 'full' or 'published'; None where the result does not say.
        stale: why it no longer stands for what its recipe gives; None where it does.
    """

    path: str
    content: Mapping[str, Any]
    rows: tuple[str, ...]
    scale: str | None
    stale: str | None = None

    @property
    def recipe(self) -> str:
        return str(self.content.get("recipe") or "")

    @property
    def seed(self) -> int | None:
        return self.content.get("seed")

    @property
    def checkpoint(self) -> str | None:
        """As its row names it; None is the last."""
        return self.content.get("checkpoint")

    @property
    def network(self) -> str:
        """Identity of its feature network: numbers of two networks are unlike, whatever their titles."""
        return str((self.content.get("feature_network") or {}).get("identity", ""))

    def of(self, key: str) -> str:
        """What a number was compared with, and at which size."""
        size, reference = self.content["resolution"], self.content["reference"]
        return f"{reference.get('others', {}).get(key, reference['name'])} {size}x{size}"

    def titles(self, metrics: set[str]) -> dict[str, str]:
        """Metric of the result -> title with all that makes numbers unlike, for the metrics that a table shows."""
        return {
            key: f"{measured.title(self.content, key)}, {self.of(key)}"
            for key in measured.keys(self.content)
            if measured.published_metric(key) in metrics
        }

    def scale_for(self, row: Row) -> str:
        """'mini', 'full' or 'published', from the row where the result does not say; else 'other'."""
        if self.scale is not None:
            return self.scale
        for scale, way in row.ways.items():
            if f"/{self.recipe}".endswith(f"/{way.recipe}"):
                return scale
        return "other"

    def places(self, row: Row, metrics: set[str]) -> dict[str, "Place"]:
        """Metric of the result -> the column that it stands in, as a measurement of a row."""
        scale = self.scale_for(row)
        way = row.ways.get(scale)
        at = f", checkpoint {self.checkpoint}" if way is not None and len(way.checkpoints) > 1 else ""
        return {
            key: Place(scale, self.network, measured.published_metric(key), title + at)
            for key, title in self.titles(metrics).items()
        }


@dataclass(frozen=True)
class Cell:
    """One measured number: the mean over seeds, with their spread."""

    mean: float
    text: str
    spread: float | None = None


def load_results(folder: Path) -> tuple[list[Result], list[str]]:
    """All results below a folder, by path; and what is wrong with the marks of stale.yaml.

    Raises:
        UserError: one of them cannot be read.
    """
    folder = folder.resolve()
    stale = _load_stale(folder)
    found = [_load(path, folder, stale) for path in sorted(folder.glob("**/result.json"))]
    marked = {Path(result.path).relative_to(folder.name).as_posix() for result in found if result.stale}
    wrong = [
        f"{folder / STALE} calls {place} of commit {mark['commit']} stale, which is not there or was measured again: "
        "take the line out"
        for place, mark in stale.items()
        if place not in marked
    ]
    return found, wrong


def _load(path: Path, folder: Path, stale: Mapping[str, Mapping[str, str]]) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = NEEDED - set(content)
        rows = tuple(content.get("rows") or ())
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not a result ({error}): run the evaluation again") from error
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: run the evaluation again")
    mark = stale.get(path.relative_to(folder).as_posix())
    meant = mark is not None and mark["commit"] == str(content.get("commit"))
    place = path.relative_to(folder.parent).as_posix()
    return Result(place, content, rows, content.get("scale"), mark["reason"] if mark and meant else None)


def _load_stale(folder: Path) -> dict[str, Mapping[str, str]]:
    """Path below the folder -> commit and reason."""
    path = folder / STALE
    if not path.is_file():
        return {}
    try:
        marks = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {
            str(place): {"commit": str(mark["commit"]), "reason": str(mark["reason"])} for place, mark in marks.items()
        }
    except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path} must map results to {{commit, reason}} ({error})") from error


class Place(NamedTuple):
    """What a measured column holds: numbers of one scale, one feature network and one protocol."""

    scale: str
    network: str
    metric: str
    title: str


def headings(results: Sequence[Result], rows: Mapping[str, Row], metrics: set[str]) -> dict[Place, str]:
    """Titles of the measured columns of a table, in the order of the results.

    Two networks whose numbers have one title get columns of their own, told apart by their identities.
    """
    places: dict[Place, None] = {}
    for result in results:
        of_rows = [result.places(rows[name], metrics) for name in result.rows if name in rows]
        for key in result.titles(metrics):
            places |= dict.fromkeys(of_row[key] for of_row in of_rows)
    shared = [(place.scale, place.title) for place in places]
    return {
        place: f"{SAID.get(place.scale, 'measured')}: {place.title}"
        + (f", network {place.network[:6]}" if shared.count((place.scale, place.title)) > 1 else "")
        for place in places
    }


def cells(results: Sequence[Result], row: Row, metrics: set[str]) -> dict[Place, Cell]:
    """The numbers of one row, joined over seeds."""
    found: dict[Place, list[tuple[Result, str]]] = {}
    for result in results:
        for key, place in result.places(row, metrics).items():
            found.setdefault(place, []).append((result, key))
    return {place: _joined(measurements) for place, measurements in found.items()}


def _joined(measurements: Sequence[tuple[Result, str]]) -> Cell:
    """Of one seed the number as it was measured; of several their mean and their standard deviation."""
    key = measurements[0][1]
    values = [float(result.content["metrics"][key]) for result, _ in measurements]
    stale = any(result.stale for result, _ in measurements)
    mark = " (stale)" if stale else ""
    if len(values) == 1:
        numbers = measurements[0][0].content["metrics"]
        return Cell(values[0], measured.show(numbers, key) + mark)
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    digits = measured.SHOWN[key][0] if key in measured.SHOWN else 4
    return Cell(mean, f"{mean:.{digits}f} ± {spread:.{digits}f} ({len(values)} seeds){mark}", spread)
