"""CSV files with a row or several for some of the training steps: read up to a step, and replaced whole."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.whole_files import write_text


def read_rows(path: Path, fields: Sequence[str], last: int | None = None) -> list[dict[str, str]]:
    """The rows of a file up to step `last`; none where there is no file.

    A row that a killed process left half written is dropped.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.get(field) for field in fields)]
    return [row for row in rows if row["step"].isdigit() and (last is None or int(row["step"]) <= last)]


def write_rows(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes all rows; a kill costs none of those that were there."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
