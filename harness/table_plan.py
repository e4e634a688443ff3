"""What is to be done for the rows of a table at one scale: what was measured already, and what rows share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cache import digest
from harness.published import Way
from harness.results import Result
from harness.row_recipes import compare_budgets
from harness.rows import select
from harness.table_pages import Tables
from zoo.console import UserError
from zoo.recipe import StageOutline


@dataclass(frozen=True)
class Job:
    """One row at one seed.

    Attributes:
        root: of the work directories of all rows.
        checkpoint: one of those of the way.
        identity: of the recipe with the row's bindings.
        stages: of the recipe, in order.
        measured: the result that is there and still stands.
        reason: why there is none: 'missing', 'stale', or 'changed'.
    """

    row: str
    scale: str
    seed: int
    way: Way
    checkpoint: str | None
    root: Path
    identity: str
    stages: Sequence[StageOutline]
    samples: int | None
    measured: Result | None
    reason: str

    @property
    def name(self) -> str:
        """The row and its seed, for the screen; and the checkpoint where the row has several."""
        return f"{self.row} seed {self.seed}" + (f" checkpoint {self.checkpoint}" if self._one_of_several else "")

    @property
    def folder(self) -> str:
        """The name of its folders: 'mini-0', 'full-0-at-700000'."""
        return f"{self.scale}-{self.seed}" + (f"-at-{self.checkpoint}" if self._one_of_several else "")

    @property
    def workdir(self) -> Path:
        """Of zoo.run."""
        return self.root / self.row.replace(":", "/") / self.folder

    @property
    def _one_of_several(self) -> bool:
        return len(self.way.checkpoints) > 1

    @property
    def bindings(self) -> tuple[str, ...]:
        """Of the row, and its seed."""
        return *self.way.bindings, f"Pipeline.seed = {self.seed}"

    def place(self, results: Path) -> Path:
        """The folder of its result."""
        table, _, row = self.row.partition(":")
        return results / table / row / self.folder


@dataclass(frozen=True)
class Shared:
    """What rows have in common, below the work directory of a table: trained stages, samples, the cache.

    Attributes:
        root: of all rows.
    """

    root: Path

    @property
    def cache(self) -> Path:
        """One for all rows: they are scored by one feature network."""
        return self.root / "cache"

    def stage(self, job: Job, stage: StageOutline) -> Path:
        """The folder of a trained stage: one for all rows in which what its weights depend on is the same."""
        return self.root / "stages" / f"{stage.name}-{stage.training[:12]}-seed{job.seed}"

    def samples(self, job: Job, position: int) -> Path:
        """The samples of a stage: one folder for all rows in which it and the stages before it are the same."""
        chain = [[stage.training, stage.sampling] for stage in job.stages[: position + 1]]
        key = digest([chain, job.checkpoint])
        return self.root / "samples" / f"{job.stages[position].name}-{key[:12]}-seed{job.seed}"

    def steps_done(self, job: Job, stage: StageOutline) -> int:
        """Steps of the last checkpoint of a stage."""
        found = self.stage(job, stage).glob("checkpoints/*/manifest.json")
        return max((int(path.parent.name) for path in found if path.parent.name.isdigit()), default=0)


@dataclass(frozen=True)
class Plan:
    """The rows of --run.

    Attributes:
        left_out: rows that nothing measures at this scale, each with the reason.
        budgets: what the training budgets of the rows are, and where they differ.
    """

    jobs: Sequence[Job]
    left_out: dict[str, str]
    budgets: Sequence[str]
    shared: Shared

    @property
    def open(self) -> list[Job]:
        """What is to be done."""
        return [job for job in self.jobs if job.measured is None]


def plan(tables: Tables, ids: Sequence[str], scale: str, seeds: int | None, workdir: Path) -> Plan:
    """The plan of rows at a scale.

    Args:
        ids: tables, 'cdm/2b', and rows, 'cdm/2b:s-0'.
        seeds: trainings a row; None takes what the row says.

    Raises:
        UserError: there is no such row, or none of them has a recipe at this scale.
    """
    shared = Shared(workdir.resolve())
    jobs: list[Job] = []
    left_out: dict[str, str] = {}
    ways: dict[str, dict[str, Way]] = {}
    for identity in select(ids, tables.papers):
        paper, table, row = tables.rows[identity]
        way = row.ways.get(scale)
        if way is None:
            if row.ours:
                speed = f"a speed, which python {row.benchmark} measures" if row.benchmark else None
                left_out[identity] = speed or paper.awaited.get(identity, f"the row names no recipe at scale {scale}")
            continue
        ways.setdefault(table.id, {})[row.id] = way
        jobs += [
            _job(tables, identity, scale, seed, checkpoint, shared)
            for seed in range(seeds or way.seeds)
            for checkpoint in way.checkpoints
        ]
    if not jobs:
        why = "; ".join(f"{identity}: {reason}" for identity, reason in list(left_out.items())[:3])
        raise UserError(f"{', '.join(ids)}: no row has a recipe at scale {scale}" + (f" ({why})" if why else ""))
    budgets = [f"{table}: {compare_budgets(rows, tables.recipes)}" for table, rows in ways.items()]
    return Plan(jobs, left_out, budgets, shared)


def _job(tables: Tables, row: str, scale: str, seed: int, checkpoint: str | None, shared: Shared) -> Job:
    printed = tables.rows[row][2]
    way = printed.ways[scale]
    found = [
        result for result in tables.by_row.get(row, []) if result.scale_for(printed) == scale and result.seed == seed
    ]
    if len(way.checkpoints) > 1:
        found = [result for result in found if result.checkpoint == checkpoint]
    good = [result for result in found if not result.stale and tables.recipes.made(result.content, way)]
    reason = "missing" if not found else "stale" if any(result.stale for result in found) else "changed"
    return Job(
        row,
        scale,
        seed,
        way,
        checkpoint,
        shared.root,
        tables.recipes.identity(way),
        tables.recipes.stages(way),
        tables.recipes.recipe(way).samples(),
        good[0] if good else None,
        reason,
    )
