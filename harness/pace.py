"""About how long rows take: from the cost that zoo.run describes, corrected by how long rows really took here."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.cache import digest, write_json
from harness.table_plan import Job, Plan
from zoo.registry import PROJECT

Describe = Callable[[str], dict[str, Any] | None]
PATIENCE = 300  # seconds that a description may take


def describe(recipe: str) -> dict[str, Any] | None:
    """What `zoo.run --do describe --json` says of a recipe on this machine; None where it cannot."""
    command = [sys.executable, "-m", "zoo.run", "--recipe", recipe, "--do", "describe", "--json"]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


class Pace:
    """Estimates for the rows of a plan.

    Descriptions, and how estimates compared with the clock, are kept below the plan's work directory.

    Args:
        describe: gives the cost of a recipe.
    """

    def __init__(self, plan: Plan, describe: Describe = describe) -> None:
        self.plan, self._describe = plan, describe
        self._memory = plan.shared.root / "pace.json"
        self._costs: dict[str, dict[str, Any] | None] = {}

    @property
    def basis(self) -> str:
        """What estimates rest on."""
        return "by the pace of rows so far" if self._past() else "by the FLOPs and the speed of this machine"

    def estimate(self, job: Job, trained: frozenset[Path] = frozenset()) -> float | None:
        """Seconds by description alone; None where there is none.

        Args:
            trained: stages that earlier rows will have trained by then.
        """
        costs = self._cost(job)
        if costs is None:
            return None
        total = 0.0
        for stage in job.stages:
            cost = next((found for found in costs["stages"] if found["name"] == stage.name), None)
            if cost is None:
                return None
            steps = stage.steps or cost["steps"]
            done = steps if self.plan.shared.stage(job, stage) in trained else self.plan.shared.steps_done(job, stage)
            total += cost["training_seconds"] * max(0.0, 1 - done / max(1, steps)) + cost["sampling_seconds"]
        return total

    def left(self, jobs: Sequence[Job]) -> str:
        """'about 2 h 10 min' for rows one after the other; empty where nothing can be said."""
        total = 0.0
        trained: frozenset[Path] = frozenset()
        for job in jobs:
            seconds = self.estimate(job, trained)
            if seconds is None:
                return ""
            total += seconds
            trained |= {self.plan.shared.stage(job, stage) for stage in job.stages}
        estimated, real = self._past() or (1.0, 1.0)
        return f"about {duration(total * real / estimated)}"

    def took(self, estimate: float | None, seconds: float) -> None:
        """Remembers how long a row took."""
        if estimate:
            estimated, real = self._past() or (0.0, 0.0)
            write_json(self._memory, {"estimated": estimated + estimate, "seconds": real + seconds})

    def _past(self) -> tuple[float, float] | None:
        """Seconds that were estimated for finished rows, and that they took."""
        try:
            content = json.loads(self._memory.read_text())
            return float(content["estimated"]), float(content["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _cost(self, job: Job) -> dict[str, Any] | None:
        """The description of the row's recipe without its bindings, which change sampling or evaluation alone."""
        recipe = job.way.recipe
        if recipe not in self._costs:
            key = digest([[stage.name, stage.training] for stage in job.stages] + [recipe])
            path = self.plan.shared.root / "costs" / f"{key}.json"
            try:
                self._costs[recipe] = json.loads(path.read_text())
            except (OSError, ValueError):
                self._costs[recipe] = self._describe(recipe)
                if self._costs[recipe] is not None:
                    write_json(path, self._costs[recipe])
        return self._costs[recipe]


def duration(seconds: float) -> str:
    """Seconds for a person: '40 s', '12 min', '2 h 10 min', '3 days 4 h'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
