"""Measures rows from the sample batches that their authors published: no training, only a network or a folder of files.

A batch is scored against the reference batch of its dataset and resolution, by Inception, as the ADM suite does.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import assets
from harness.cache import write_json
from harness.results import PUBLISHED
from harness.rows import select
from harness.table_pages import Tables
from harness.table_runs import STOPPED, Start, start
from zoo.console import UserError, say

METRICS = "fid,sfid,is_adm,precision,recall"


@dataclass(frozen=True)
class Batch:
    """A published sample batch, and the rows that it is the samples of.

    Attributes:
        name: of the batch and of its reference, as assets.
        measured: rows that it was scored for already.
    """

    name: str
    reference: str
    rows: tuple[str, ...]
    measured: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Rows whose result is not there."""
        return [row for row in self.rows if row not in self.measured]


def batches(tables: Tables, ids: Sequence[str]) -> list[Batch]:
    """The batches of the rows that tables and rows name.

    Raises:
        UserError: their authors published none of them.
    """
    rows: dict[tuple[str, str], list[str]] = {}
    for identity in select(ids, tables.papers):
        _, table, row = tables.rows[identity]
        batch = tables.batches.get(identity)
        if batch:
            dataset = str(row.content.get("dataset") or table.content["dataset"])
            reference = f"{dataset.replace('-', '_')}{row.content['resolution']}"
            rows.setdefault((batch, reference), []).append(identity)
    if not rows:
        raise UserError(f"{', '.join(ids)}: there are no published samples of these rows in harness/assets.yaml")
    return [
        Batch(name, reference, tuple(found), tuple(row for row in found if _is_measured(tables, row, name)))
        for (name, reference), found in rows.items()
    ]


def _is_measured(tables: Tables, row: str, batch: str) -> bool:
    return any(
        result.scale == PUBLISHED and result.content.get("batch") == batch and not result.stale
        for result in tables.by_row.get(row, [])
    )


def run(
    tables: Tables,
    ids: Sequence[str],
    workdir: Path,
    results: Path,
    written: Callable[[], None],
    offline: bool = False,
    dry_run: bool = False,
    begin: Start = start,
) -> int:
    """Fetches and scores batches, one after the other; one that fails does not hold up the others.

    Args:
        ids: tables, 'adm/5', and rows.
        workdir: for caches.
        results: folder of results.
        written: called after every batch, to write the pages.
        offline: takes only files that are there.
        begin: starts a command and waits for it.

    Returns:
        Exit code: 1 where a batch failed.
    """
    found = batches(tables, ids)
    open_batches = [batch for batch in found if batch.missing]
    for batch in found:
        state = "missing " if batch.missing else "measured"
        say(f"{state}  {batch.name} against {batch.reference}: {', '.join(batch.rows)}")
    say(f"{len(open_batches)} of {len(found)} batches to score")
    if open_batches and not dry_run:
        _need_weights(offline)
    failed = []
    for number, batch in enumerate([] if dry_run else open_batches, start=1):
        say(f"\n[{number}/{len(open_batches)}] {batch.name}")
        try:
            _score(batch, workdir.resolve(), results, offline, begin)
        except UserError as error:
            say(f"failed: {batch.name}: {error}")
            failed.append(batch.name)
            continue
        written()
    if failed:
        say(f"\n{len(failed)} of {len(open_batches)} failed: {', '.join(failed)}")
    return 1 if failed else 0


def _score(batch: Batch, workdir: Path, results: Path, offline: bool, begin: Start) -> None:
    """Scores one batch and files its result under every row that it belongs to."""
    reference, samples = (assets.fetch(name, offline) for name in (batch.reference, batch.name))
    out = workdir / PUBLISHED / f"{batch.name}.json"
    command = [sys.executable, "-m", "harness.evaluate", str(reference), str(samples)]
    command += ["--features", "inception", "--metrics", METRICS, "--out", str(out), "--cache", str(workdir / "cache")]
    out.unlink(missing_ok=True)
    code = begin([*command, *(["--offline"] if offline else [])])
    if code in STOPPED:
        raise STOPPED[code]
    if code or not out.is_file():
        raise UserError(f"harness.evaluate ended with exit code {code}; its messages stand above")
    content = json.loads(out.read_text())
    for row in batch.rows:
        table, _, name = row.partition(":")
        added = {"rows": [row], "scale": PUBLISHED, "batch": batch.name}
        write_json(results / table / name / PUBLISHED / "result.json", {**content, **added})


def _need_weights(offline: bool) -> None:
    """Fetches Inception's weights where no form of them is here: scoring itself never uses the network."""
    try:
        assets.find_any(assets.INCEPTION_WEIGHTS, offline)
    except UserError:
        assets.fetch(assets.INCEPTION_WEIGHTS[0], offline)
