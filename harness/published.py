"""The published tables of harness/papers: what the papers print, and by which protocol."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
class Row:
    """One printed row."""

    id: str
    label: str
    content: Mapping[str, Any]

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
    def tables(self) -> list[Table]:
        return [Table(table["id"], table) for table in self.content["tables"]]


def load_papers(folder: Path = PAPERS) -> list[Paper]:
    """All papers, by file name."""
    return [
        Paper(path.stem, yaml.load(path.read_text(encoding="utf-8"), Loader)) for path in sorted(folder.glob("*.yaml"))
    ]


def find_row(identity: str) -> tuple[Table, Row]:
    """The table and row of 'paper/table:row', such as 'cdm/1a:cdm-32'.

    Raises:
        UserError: there is no such table or row; the message lists what there is.
    """
    name, _, wanted = identity.partition(":")
    tables = {table.id: table for table in _tables(load_papers())}
    if name not in tables:
        raise UserError(f"there is no published table {name!r}; the tables are {', '.join(tables)}")
    rows = {row.id: row for row in tables[name].rows}
    if wanted not in rows:
        raise UserError(f"table {name} has no row {wanted!r}; its rows are {', '.join(rows)}")
    return tables[name], rows[wanted]


def _tables(papers: list[Paper]) -> Iterator[Table]:
    for paper in papers:
        yield from paper.tables


def show(value: Any) -> str:
    """A printed cell: a number, mean ± deviation, a range, or a dash where nothing was printed."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        if "mean" in value:
            return f"{value['mean']:g} ± {value['std']:g}"
        return f"{value['min']:g} to {value['max']:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)
