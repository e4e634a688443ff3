"""Measures rows: starts zoo.run for each, shares what rows have in common, and files the results.

A row has a work directory of its own, in which a stage is a link to the one place of that stage. So two rows whose
base model is the same train it once, and a row that was stopped goes on where it was. Stages that an older state of
the code trained are taken as they are: to train them anew, remove them or choose another work directory.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import pace
from harness.cache import write_json
from harness.pace import Pace, duration
from harness.row_recipes import RowRecipes
from harness.small_pictures import small_png
from harness.table_plan import Job, Plan, Shared
from zoo.console import Terminated, UserError, say
from zoo.registry import PROJECT
from zoo.sharing import copy, link
from zoo.whole_files import write_bytes

STOPPED = {75: Terminated, 130: KeyboardInterrupt}  # what zoo.run says when it was asked to end
GRACE = 120  # seconds in which a run that was asked to end may save
Start = Callable[[Sequence[str]], int]


def start(command: Sequence[str]) -> int:
    """Runs a command on this screen; gives its exit code. If this process is stopped, so is the command."""
    process = subprocess.Popen(command, cwd=PROJECT)
    try:
        return process.wait()
    except BaseException as stopped:
        if not isinstance(stopped, KeyboardInterrupt):  # which the keyboard sends to both
            process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def run(
    plan: Plan,
    results: Path,
    written: Callable[[], None],
    dry_run: bool = False,
    begin: Start = start,
    describe: pace.Describe = pace.describe,
) -> int:
    """Does what a plan says, row by row; a row that fails does not hold up the others.

    Args:
        results: folder of results.
        written: called after every row, to write the pages.
        dry_run: only says what would be done.
        begin: starts a command and waits for it.
        describe: estimates the cost of a recipe.

    Returns:
        Exit code: 1 where a row failed.
    """
    clock = Pace(plan, describe)
    _announce(plan, clock)
    if dry_run or not plan.open:
        return 0
    failed: list[str] = []
    for number, job in enumerate(plan.open, start=1):
        left = clock.left(plan.open[number - 1 :])
        say(f"\n[{number}/{len(plan.open)}] {job.name}: {_work(job, plan.shared)}" + (f"; {left} left" if left else ""))
        began, estimate = time.monotonic(), clock.estimate(job)
        try:
            _measure(job, plan.shared, results, begin)
        except UserError as error:
            say(f"failed: {job.name}: {error}")
            failed.append(job.name)
            continue
        clock.took(estimate, time.monotonic() - began)
        say(f"{job.name}: {duration(time.monotonic() - began)}; result in {job.place(results)}")
        written()
    if failed:
        say(f"\n{len(failed)} of {len(plan.open)} failed: {', '.join(failed)}; the same command tries them again")
    return 1 if failed else 0


def _announce(plan: Plan, clock: Pace) -> None:
    """Says what is there, what will be done, and about how long that takes."""
    alike: dict[str, list[str]] = {}
    for identity, reason in plan.left_out.items():
        alike.setdefault(reason, []).append(identity)
    for reason, identities in alike.items():
        more = f" and {len(identities) - 1} more" if len(identities) > 1 else ""
        say(f"left out   {identities[0]}{more}: {reason}")
    for job in plan.jobs:
        if job.measured is not None:
            say(f"measured   {job.name}: {job.measured.path}")
    for job in plan.open:
        say(f"{job.reason:<9}  {job.name}: {_work(job, plan.shared)}")
    for budget in plan.budgets:
        say(budget)
    total = clock.left(plan.open) if plan.open else ""
    about = f"; {total}, {clock.basis}" if total else ""
    say(f"{len(plan.open)} of {len(plan.jobs)} to measure in {plan.shared.root}{about}")


def _work(job: Job, shared: Shared) -> str:
    """What is left to do for a row: stages with the steps that were taken, and samples."""
    parts = []
    for stage in job.stages:
        done = shared.steps_done(job, stage)
        if stage.steps is not None and done >= stage.steps:
            parts.append(f"{stage.name} is trained")
        else:
            steps = "?" if stage.steps is None else f"{stage.steps:,}"
            parts.append(f"trains {stage.name} {f'{done:,} of ' if done else ''}{steps} steps")
    return ", ".join([*parts, f"{job.samples:,} samples" if job.samples else "samples"])


def _measure(job: Job, shared: Shared, results: Path, begin: Start) -> None:
    """Trains, samples and scores one row, and files its result."""
    if RowRecipes().identity(job.way) != job.identity:
        raise UserError(f"the recipe {job.way.recipe} was changed since the plan was made: run the same command again")
    _prepare(job, shared)
    bindings = [part for binding in job.bindings for part in ("--gin_bindings", binding)]
    checkpoint = ["--checkpoint", job.checkpoint] if job.checkpoint else []
    command = [sys.executable, "-m", "zoo.run", "--recipe", job.way.recipe, "--workdir", str(job.workdir)]
    code = begin([*command, *bindings, *checkpoint])
    if code in STOPPED:
        raise STOPPED[code]
    if code:
        raise UserError(f"zoo.run ended with exit code {code}; its messages stand above")
    _share_samples(job, shared)
    _file(job, results)


def _prepare(job: Job, shared: Shared) -> None:
    """The work directory of a row: links to the stages and the cache, and samples that another row made."""
    marker = job.workdir / "row.json"
    account = {"row": job.row, "seed": job.seed, "recipe_identity": job.identity}
    if not marker.is_file() or json.loads(marker.read_text()) != account:
        for name in ("recipe.gin", "operative.gin"):  # of the recipe as it was; the run writes its own
            (job.workdir / name).unlink(missing_ok=True)
        shutil.rmtree(job.workdir / "results", ignore_errors=True)
        write_json(marker, account)
    link(job.workdir / "cache", shared.cache)
    for position, stage in enumerate(job.stages):
        link(job.workdir / "stages" / stage.name, shared.stage(job, stage))
        made, mine = shared.samples(job, position), job.workdir / "samples" / stage.name
        if made.is_dir() and not mine.exists():
            copy(made, mine)


def _share_samples(job: Job, shared: Shared) -> None:
    """Keeps the samples of a row for others. zoo.run looks whether a set is the one it would make, and else does so."""
    for position, stage in enumerate(job.stages):
        made, mine = shared.samples(job, position), job.workdir / "samples" / stage.name
        if mine.is_dir():
            shutil.rmtree(made, ignore_errors=True)
            copy(mine, made)


def _file(job: Job, results: Path) -> None:
    """Puts result and grid of a finished run under results/."""
    last = job.stages[-1].name
    path = job.workdir / "results" / f"{last}.json"
    if not path.is_file():
        raise UserError(f"the run wrote no {path}: a recipe of a row needs Pipeline.evaluation")
    content = json.loads(path.read_text())
    made_by = content.get("recipe_identity")
    if made_by != job.identity:
        raise UserError(f"the recipe {job.way.recipe} was changed while it was measured: run the same command again")
    added = {"rows": [job.row], "scale": job.scale, "bindings": list(job.bindings)}
    added |= {"checkpoint": job.checkpoint} if job.checkpoint else {}
    place = job.place(results)
    picture = path.with_suffix(".png")
    if picture.is_file() and job.seed == 0:
        write_bytes(place / "grid.png", small_png(picture))
    write_json(place / "result.json", {**content, **added})
