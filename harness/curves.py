"""The data of the papers' figures that are curves: published points and measured ones, never on one axis.

A figure is a line under `figures:` in harness/papers: its table, and panels that set a setting or a metric of the
table's rows (x) against a metric (y), with a curve for each value of `by`, a setting or a field of the rows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.published import Column, Row, Table
from harness.results import Place, Result, cells, headings
from zoo.console import UserError

FIGURE_FIELDS = {"id", "title", "table", "panels", "by", "logarithmic"}
Point = tuple[float, float, float | None]
"""x, y, and the spread of y over seeds."""


@dataclass(frozen=True)
class Curve:
    """A line of one axis."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Axis:
    """One pair of axes: numbers of one protocol."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    measured: bool


@dataclass(frozen=True)
class Figure:
    """A picture: a row of axes for every panel, the published one first.

    Attributes:
        logarithmic: whether x is.
    """

    id: str
    title: str
    logarithmic: bool
    panels: tuple[tuple[Axis, ...], ...]

    def digest(self, style: int) -> str:
        """A hash of all that is drawn, in a style of drawing."""
        text = json.dumps([style, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def figure(spec: Mapping[str, Any], table: Table, results: Mapping[str, Sequence[Result]]) -> Figure | None:
    """The figure of a specification; None where no point was printed or measured.

    Args:
        results: row -> its results.
    """
    for name in spec:
        if name not in FIGURE_FIELDS:
            raise UserError(f"figure {spec.get('id')} has an unknown field {name!r}; allowed: {sorted(FIGURE_FIELDS)}")
    panels = []
    for panel in spec["panels"]:
        axes = _published(panel["x"], panel["y"], spec.get("by"), table)
        axes += _measured(panel["x"], panel["y"], spec.get("by"), table, results)
        panels.append(tuple(axis for axis in axes if axis.curves))
    drawn = tuple(axes for axes in panels if axes)
    return Figure(spec["id"], spec["title"], bool(spec.get("logarithmic")), drawn) if drawn else None


def _published(x: str, y: str, by: str | None, table: Table) -> list[Axis]:
    """One pair of axes for every printed column of the metric: training and validation FID are two protocols."""
    columns = [column for column in table.columns if column.metric == y]
    if not columns:
        raise UserError(f"table {table.id} has no column of the metric {y!r} that a figure draws")
    if _is_setting(x, table):
        return [_published_axis(column, None, x, by, table) for column in columns]
    across = [column for column in table.columns if column.metric == x]
    if not across:
        raise UserError(f"table {table.id} has neither a setting nor a metric {x!r} that a figure draws")
    pairs = [(column, other) for column in columns for other in across if other.split in (None, column.split)]
    return [_published_axis(column, other, x, by, table) for column, other in pairs]


def _published_axis(column: Column, across: Column | None, x: str, by: str | None, table: Table) -> Axis:
    """A printed column over another one, or over a setting."""
    points: dict[str, list[Point]] = {}
    for row in table.rows:
        here = _setting(row, x) if across is None else _number(row.values.get(across.key))
        value = _number(row.values.get(column.key))
        if here is not None and value is not None:
            points.setdefault(_label(row, by), []).append((here, value, None))
    name = x.replace("_", " ") if across is None else across.protocol(table)
    return Axis("published", name, column.protocol(table), _curves(points, across is None), measured=False)


def _measured(x: str, y: str, by: str | None, table: Table, results: Mapping[str, Sequence[Result]]) -> list[Axis]:
    """One pair of axes for every protocol that the metric was measured by."""
    given = _is_setting(x, table)
    rows = {f"{table.id}:{row.id}": row for row in table.rows}
    mine = [result for identity in rows for result in results.get(identity, ())]
    titles = headings(list(dict.fromkeys(mine)), rows, {x, y})
    points: dict[tuple[Place, Place | None], dict[str, list[Point]]] = {}
    for identity, row in rows.items():
        found = cells(results.get(identity, ()), row, {x, y})
        for place, cell in found.items():
            if place.metric != y:
                continue
            for other, here in _across(x, given, row, place, found):
                labels = points.setdefault((place, other), {})
                labels.setdefault(_label(row, by), []).append((here, cell.mean, cell.spread))
    return [
        Axis(
            titles[place].partition(": ")[0],
            x.replace("_", " ") if other is None else other.title,
            titles[place].partition(": ")[2],
            _curves(curves, given),
            measured=True,
        )
        for (place, other), curves in points.items()
    ]


def _across(
    x: str, given: bool, row: Row, place: Place, found: Mapping[Place, Any]
) -> list[tuple[Place | None, float]]:
    """Where a measured point lies along x: at a setting, or at metrics of the same scale and feature network."""
    if given:
        here = _setting(row, x)
        return [] if here is None else [(None, here)]
    same = [other for other in found if (other.scale, other.network, other.metric) == (place.scale, place.network, x)]
    return [(other, found[other].mean) for other in same]


def _is_setting(name: str, table: Table) -> bool:
    return any(name in row.settings for row in table.rows)


def _setting(row: Row, name: str) -> float | None:
    return _number(row.settings.get(name))


def _number(value: Any) -> float | None:
    """A printed cell as a number: the mean where a deviation was printed; None for a range or nothing."""
    if isinstance(value, Mapping):
        value = value.get("mean")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _label(row: Row, by: str | None) -> str:
    """The name of the curve that a row is a point of."""
    value = None if by is None else row.settings.get(by, row.content.get(by))
    if by is None or value is None:
        return ""
    return {True: by, False: f"not {by}"}.get(value, str(value)).replace("_", " ")


def _curves(points: Mapping[str, list[Point]], given: bool) -> tuple[Curve, ...]:
    """Along a setting in its order; along a metric in the order of the rows."""
    return tuple(Curve(label, tuple(sorted(found) if given else found)) for label, found in points.items())
