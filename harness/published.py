"""The published tables of harness/papers: what the papers print, by which protocol, and which recipes reproduce it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from harness.metrics.metric import thousands
from zoo.console import UserError

PAPERS = Path(__file__).parent / "papers"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same language, ten times as fast where it was built
METRICS = {"fid": "FID", "sfid": "sFID", "is": "IS", "precision": "precision", "recall": "recall"}
BY_INCEPTION = frozenset(METRICS)
DEFAULT_COUNT = 50_000  # notes of the transcription: stated by CDM, implied by the others


@dataclass(frozen=True)
class Column:
    """One printed column: its key in `values`, and the metric that it shows."""

    key: str
    metric: str
    split: str | None
    unit: str | None

    def protocol(self, table: "Table") -> str:
        """Its title: the metric, the number of samples and the feature network, as far as the paper says."""
        if self.metric in BY_INCEPTION:
            count = 30_000 if self.key.endswith("30k") else int(table.protocol.get("samples_fid") or DEFAULT_COUNT)
            counted = (
                f"{METRICS[self.metric]}-{thousands(count)}" if self.metric in ("fid", "sfid", "is") else self.metric
            )
            return f"{counted} (Inception)" + (f", {self.split}" if self.split else "") + self._variant()
        if self.metric in ("cas_top1", "cas_top5"):
            return f"CAS, top {self.metric[-1]}, percent"
        return self.key.replace("_", " ") + (f", {self.unit}" if self.unit else "")

    def _variant(self) -> str:
        """What the key says beyond metric and split, such as the training step."""
        known = {self.metric, self.split, "30k"}
        extra = [part for part in self.key.split("_") if part not in known]
        return f", {' '.join(extra)}" if extra else ""


@dataclass(frozen=True)
class Way:
    """How a row is measured: a recipe and what the row changes of its sampling or evaluation.

    Attributes:
        recipe: its file, from the project's folder.
        bindings: of Gin.
        checkpoints: that are sampled from, as of `zoo.run --checkpoint`; None is the last. A row that looks at its
            training several times has several, and a result of each.
        seeds: how many trainings a cell is the mean of.
    """

    recipe: str
    bindings: tuple[str, ...] = ()
    checkpoints: tuple[str | None, ...] = (None,)
    seeds: int = 1


WAY_FIELDS = {field.name for field in fields(Way)} - {"checkpoints"} | {"checkpoint"}
ROW_FIELDS = {"id", "label", "group", "dataset", "resolution", "system", "ours", "settings", "values", "note", "flags"}
ROW_FIELDS |= {"suspect", "inferred", "mini", "like", "recipe", "bindings", "checkpoint", "benchmark"}


@dataclass(frozen=True)
class Row:
    """One printed row.

    Attributes:
        content: as in the file. `recipe`, `bindings` and `checkpoint` (one or a list) reproduce it, `mini` (with the
            same fields, and `seeds`) is the same experiment at laptop scale; runs of the recipes in `like` print it
            beside their result, without being a measurement of it. A row of speeds has a `benchmark`, the script that
            measures them on its recipe: no samples are made of it.
    """

    id: str
    label: str
    content: Mapping[str, Any]

    @property
    def ours(self) -> bool:
        """Whether it is of the paper's own system."""
        return bool(self.content.get("ours"))

    @property
    def like(self) -> tuple[str, ...]:
        """Recipes that imitate it on other data."""
        return tuple(self.content.get("like") or ())

    @property
    def benchmark(self) -> str | None:
        """The script that measures its speeds; None of a row of scores."""
        return self.content.get("benchmark")

    @cached_property
    def ways(self) -> dict[str, Way]:
        """Scale, 'full' or 'mini' -> how the row is measured at it; none of a row of speeds."""
        found: dict[str, Way] = {}
        if self.content.get("recipe") and self.benchmark is None:
            found["full"] = _way({name: self.content[name] for name in WAY_FIELDS if name in self.content})
        if self.content.get("mini"):
            found["mini"] = _way(self.content["mini"])
        return found

    @property
    def values(self) -> Mapping[str, Any]:
        return self.content["values"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.content.get("settings") or {}


@dataclass(frozen=True)
class Table:
    """One printed table."""

    id: str
    content: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.content["title"]

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.content.get("protocol") or {}

    @cached_property
    def columns(self) -> list[Column]:
        columns = self.content["columns"].items()
        return [Column(key, column["metric"], column.get("split"), column.get("unit")) for key, column in columns]

    @cached_property
    def rows(self) -> list[Row]:
        return [Row(row["id"], row["label"], row) for row in self.content["rows"]]


@dataclass(frozen=True)
class Paper:
    """One file of harness/papers."""

    name: str
    content: Mapping[str, Any]

    @cached_property
    def awaited(self) -> dict[str, str]:
        """Row, as 'table:row', of the paper's own systems that has no recipe yet -> why."""
        return {
            f"{table}:{row}": group["reason"]
            for group in self.content.get("awaited") or []
            for table, rows in group["rows"].items()
            for row in rows
        }

    @property
    def figures(self) -> list[Mapping[str, Any]]:
        """The curves that are drawn from its rows; see harness/plots.py."""
        return self.content.get("figures") or []

    @cached_property
    def tables(self) -> list[Table]:
        return [Table(table["id"], table) for table in self.content["tables"]]


def _way(content: Mapping[str, Any]) -> Way:
    said = content.get("checkpoint")
    checkpoints = said if isinstance(said, list) else [said]
    return Way(
        content["recipe"],
        tuple(content.get("bindings") or ()),
        tuple(None if one is None else str(one) for one in checkpoints),
        content.get("seeds", 1),
    )


def load_papers(folder: Path = PAPERS) -> list[Paper]:
    """All papers, by file name.

    Raises:
        UserError: a file is no YAML, or a row has a field that nothing reads.
    """
    return [_load(path) for path in sorted(folder.glob("*.yaml"))]


def _load(path: Path) -> Paper:
    try:
        paper = Paper(path.stem, yaml.load(path.read_text(encoding="utf-8"), Loader))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for table in paper.tables:
        for row in table.rows:
            place = f"{path}, row {table.id}:{row.id}"
            _require(place, row.content, ROW_FIELDS)
            if "recipe" not in row.content and {"bindings", "checkpoint", "benchmark"} & set(row.content):
                raise UserError(f"{place} has bindings, a checkpoint or a benchmark without the recipe of it")
            if "mini" in row.content:
                _require(f"{place}, mini", row.content["mini"], WAY_FIELDS)
                if "recipe" not in row.content["mini"]:
                    raise UserError(f"{place}, mini: names no recipe")
    return paper


def _require(place: str, content: Mapping[str, Any], allowed: set[str]) -> None:
    for name in content:
        if name not in allowed:
            raise UserError(f"{place} has an unknown field {name!r}; allowed are {', '.join(sorted(allowed))}")


def show(value: Any) -> str:
    """A printed cell: a number, mean ± deviation, a range, or a dash where nothing was printed."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        if "mean" in value:
            return f"{value['mean']:g} ± {value['std']:g}"
        return f"{value['min']:g} to {value['max']:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)
