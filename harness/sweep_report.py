"""What a sweep shows for it: a table on the screen, a curve for every number, and the best value as a recipe.

sweep.json    every value with its result: numbers, protocols, where they come from
sweep.png     every number over the values, the best one in a ring
best.gin      the bindings of the best value, to be included in a recipe
"""

import ast
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import charts, measured
from harness.cache import write_json
from harness.compare import Entry, Protocol
from harness.curves import Axis, Curve, Point
from harness.table_screen import WIDTH, block
from zoo.console import UserError
from zoo.whole_files import write_bytes, write_text

UNLIKE = "numbers of unlike protocols are not ranked"


class SweepReport:
    """The numbers of a sweep.

    Args:
        account: of zoo.sweep: `sweep` (key, short name and values of each binding) and `rows` (values and result).
        metric: by which the best value is chosen; None takes the first of the evaluation.

    Attributes:
        columns: protocol -> key of the number, of all numbers that are shown.
    """

    def __init__(self, account: Mapping[str, Any], metric: str | None = None) -> None:
        self.account = account
        self.rows: Sequence[Mapping[str, Any]] = account["rows"]
        self.keys = [axis["key"] for axis in account["sweep"]]
        self.names = [axis["name"] for axis in account["sweep"]]
        numbers = list(self.rows[0]["result"]["metrics"])
        self.metric = metric or next((key for key in numbers if direction(key)), numbers[0])
        self._entries = [Entry(row["folder"], "", row["result"], None) for row in self.rows]
        found: dict[Protocol, str] = {}
        for key in sorted(self._shown(), key=lambda key: key != self.metric):
            for entry in self._entries:
                if key in entry.result["metrics"]:
                    found[entry.protocol(key)] = key
        self.columns = found

    def _shown(self) -> list[str]:
        """The numbers that are better one way or the other, and those that nothing is known of."""
        keys = dict.fromkeys(key for row in self.rows for key in measured.keys(row["result"]))
        return [key for key in keys if direction(key) or key not in measured.SHOWN]

    def value(self, row: int, protocol: Protocol) -> float | None:
        """A number; None where the row has none of this protocol."""
        key, entry = self.columns[protocol], self._entries[row]
        if key not in entry.result["metrics"] or entry.protocol(key) != protocol:
            return None
        return float(entry.result["metrics"][key])

    def best_of(self, protocol: Protocol) -> int | None:
        """The row with the best number of a protocol; None where nothing is to be chosen among."""
        way = direction(self.columns[protocol])
        values = {row: self.value(row, protocol) for row in range(len(self.rows))}
        known = {row: value for row, value in values.items() if value is not None and not math.isnan(value)}
        if way is None or len(known) < 2:
            return None
        return (min if way == "lower" else max)(known, key=lambda row: known[row])

    def chosen(self) -> tuple[Protocol, int] | None:
        """The protocol of the metric and the best row by it; None where the rows have several protocols."""
        protocols = [protocol for protocol, key in self.columns.items() if key == self.metric]
        best = self.best_of(protocols[0]) if len(protocols) == 1 else None
        return None if best is None else (protocols[0], best)

    def label(self, row: int) -> str:
        """The values of a row: 's = 251, origin = None'."""
        return ", ".join(f"{name} = {value}" for name, value in zip(self.names, self.rows[row]["values"], strict=True))

    def bindings(self, row: int) -> list[str]:
        """The same as bindings."""
        return [f"{key} = {value}" for key, value in zip(self.keys, self.rows[row]["values"], strict=True)]

    # ---- on the screen

    def render(self) -> list[str]:
        """The table, 80 columns, the best number of each column marked, and what was chosen."""
        cells = [[self._cell(row, protocol) for protocol in self.columns] for row in range(len(self.rows))]
        titles = [self._title(protocol) for protocol in self.columns]
        lines = ["", *textwrap.wrap(f"sweep of {self.account['recipe']}, {_settings(self.account)}", WIDTH)]
        lines += block("measured", titles, [self.label(row) for row in range(len(self.rows))], cells)[1:]
        return [*lines, *textwrap.wrap(self.verdict(), WIDTH, subsequent_indent="    ", break_on_hyphens=False)]

    def _cell(self, row: int, protocol: Protocol) -> str:
        if self.value(row, protocol) is None:
            return "-  "
        mark = " *" if self.best_of(protocol) == row else "  "
        return measured.show(self.rows[row]["result"]["metrics"], self.columns[protocol]) + mark

    def _title(self, protocol: Protocol) -> str:
        way = direction(self.columns[protocol])
        return f"{protocol.title}, {protocol.reference}" + (f"; {way} is better" if way else "")

    def verdict(self) -> str:
        """What was chosen, by which number, of how many; or why nothing was."""
        tried = f"{len(self.rows)} of {self.account['asked']} values"
        found = self.chosen()
        if found is None:
            reason = UNLIKE if len(self.rows) > 1 else "there is one value"
            return f"no best value by {self.metric} after {tried}: {reason}"
        protocol, row = found
        number = measured.show(self.rows[row]["result"]["metrics"], self.metric)
        return (
            f"* best; by {protocol.title} of {tried}: {self.label(row)} ({number}, {direction(self.metric)} is better)"
        )

    # ---- files

    def write(self, folder: Path) -> None:
        """Writes sweep.json, sweep.png and best.gin."""
        found = self.chosen()
        best = (
            None
            if found is None
            else {"values": self.rows[found[1]]["values"], "folder": self.rows[found[1]]["folder"]}
        )
        write_json(folder / "sweep.json", {**self.account, "metric": self.metric, "best": best})
        panels, ticks = self.panels()
        write_bytes(folder / "sweep.png", charts.to_png(charts.draw_sweep(panels, ticks)))
        if found is None:
            (folder / "best.gin").unlink(missing_ok=True)
        else:
            write_text(folder / "best.gin", self._recipe(*found))

    def _recipe(self, protocol: Protocol, row: int) -> str:
        """The bindings of a row as a recipe that others include, saying where they come from."""
        found, result = self.rows[row], self.rows[row]["result"]
        tried = "; ".join(f"{axis['key']} = {', '.join(axis['values'])}" for axis in self.account["sweep"])
        about = [
            f"Found by --do sweep: the best of {len(self.rows)} values tried ({self.account['asked']} asked), scored "
            f"{found['date']}.",
            f"Recipe: {self.account['recipe']}, at {_settings(self.account)}; weights of {_weights(self.account)}",
            f"Score:  {protocol.title}, {protocol.reference}: "
            f"{measured.show(result['metrics'], self.metric)} ({direction(self.metric)} is better)",
            f"Tried:  {tried}",
        ]
        lines = [line for text in about for line in textwrap.wrap(text, 116, subsequent_indent="        ")]
        return "\n".join([*(f"# {line}" for line in lines), *self.bindings(row)]) + "\n"

    def panels(self) -> tuple[list[tuple[Axis, Point | None]], list[str]]:
        """The axes of the picture, with the best point of each; and the names of places along x, if it is no number."""
        across = next((i for i, axis in enumerate(self.account["sweep"]) if _numbers(axis["values"])), 0)
        values = self.account["sweep"][across]["values"]
        numbers = _numbers(values)
        places = dict(zip(values, numbers or map(float, range(len(values))), strict=True))
        panels = []
        for protocol in self.columns:
            curves: dict[str, list[Point]] = {}
            points = {
                row: self._point(row, places[self.rows[row]["values"][across]], protocol)
                for row in range(len(self.rows))
            }
            for row, point in points.items():
                if point is not None:
                    curves.setdefault(self._others(row, across), []).append(point)
            drawn = tuple(Curve(label, tuple(sorted(found))) for label, found in curves.items())
            best = self.best_of(protocol)
            way = direction(self.columns[protocol])
            axis = Axis(protocol.title, self.names[across], f"{way} is better" if way else "", drawn, measured=True)
            panels.append((axis, None if best is None else points[best]))
        return panels, [] if numbers else list(values)

    def _point(self, row: int, x: float, protocol: Protocol) -> Point | None:
        value = self.value(row, protocol)
        if value is None or math.isnan(value):
            return None
        _, _, deviation = measured.SHOWN.get(self.columns[protocol], (0, "", None))
        return x, value, self.rows[row]["result"]["metrics"].get(deviation) if deviation else None

    def _others(self, row: int, across: int) -> str:
        """The curve that a row is a point of: the values of the other bindings."""
        pairs = zip(self.names, self.rows[row]["values"], strict=True)
        return ", ".join(f"{name} = {value}" for i, (name, value) in enumerate(pairs) if i != across)


def check_metric(evaluation: Any, metric: str | None) -> None:
    """Fails before anything is sampled where the best value cannot be chosen by a metric.

    Args:
        evaluation: of the recipe; see harness.evaluation.
        metric: key of a number, None for the first.

    Raises:
        UserError: the evaluation does not give it, or neither way is better.
    """
    given = list(itertools.chain.from_iterable(part.protocol(1, "") for part in evaluation.metrics))
    if metric is not None and (metric not in given or direction(metric) is None):
        there = ", ".join(key for key in given if direction(key)) or "none: bind Evaluation.metrics"
        raise UserError(f"--sweep_metric must be a number of this recipe that chooses ({there}), got '{metric}'")


def direction(key: str) -> str | None:
    """Which way a number is better: 'lower', 'higher', or None where it chooses nothing."""
    return "lower" if key in measured.LOWER_IS_BETTER else "higher" if key in measured.HIGHER_IS_BETTER else None


def _numbers(values: Sequence[str]) -> list[float] | None:
    """Values as numbers, if all of them are."""
    found = []
    for text in values:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        found.append(float(value))
    return found


def _settings(account: Mapping[str, Any]) -> str:
    """What the sweep was made with besides the recipe."""
    bindings = ", ".join(account["bindings"])
    return f"checkpoint {account['checkpoint']}, seed {account['seed']}" + (f", {bindings}" if bindings else "")


def _weights(account: Mapping[str, Any]) -> str:
    """The weights of every stage: 'base at step 60 (1f3a...)'."""
    found = [f"{name} at step {made['step']} ({made['hash'][:8]})" for name, made in account["weights"].items()]
    return ", ".join(found)
