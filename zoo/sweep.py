"""Samples and scores a trained recipe over the values of a sweep; each value is an experiment of its own.

    WORKDIR/sweeps/NAME/VALUE/    the work directory of a value: links to the trained stages and the cache of WORKDIR,
                                  samples, results

Sample sets are taken over from WORKDIR and from every other value wherever they are the ones that would be made, so
that the stages before the one that a binding changes are sampled once. A value with a result is not done again.
"""

import datetime
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.console import UserError, say
from zoo.experiment import Experiment
from zoo.learner import Learner
from zoo.locks import locked
from zoo.pipeline import Pipeline, Stage
from zoo.recipe import Recipe
from zoo.recipe_identity import StageOutline
from zoo.sample_files import is_whole, level_path, missing, shard_path
from zoo.sharing import copy, link
from zoo.sweep_plan import Point, SweepPlan, short_keys

FORMAT = 1  # of the account of a sweep
LARGE = "by_class"  # of a result; it stays in the result of the value
Written = Callable[[Path, dict[str, Any]], None]


class Trial:
    """A point of a sweep, built.

    Attributes:
        experiment: in the work directory of the point.
        stages: those that the samples of the last stage come from.
    """

    def __init__(self, point: Point, base: Experiment, folder: Path) -> None:
        self.point = point
        self.experiment = Experiment(point.recipe, point.recipe.build(), folder / point.folder, base.strategy)
        for stage in self.pipeline.stages:  # the same weights: one network in memory, whatever the number of values
            stage.network = base.pipeline.stage(stage.name).network
        self.stages = _needed(self.pipeline)
        self.outlines = point.recipe.stages()

    @property
    def pipeline(self) -> Pipeline:
        return self.experiment.pipeline

    @property
    def folder(self) -> Path:
        return self.experiment.workdir

    @property
    def result_file(self) -> Path:
        return self.folder / "results" / f"{self.pipeline.last.name}.json"

    def chain(self, stage: Stage) -> list[StageOutline]:
        """What the samples of a stage depend on: it and the stages before it."""
        return self.outlines[: self.pipeline.stages.index(stage) + 1]


class Sweep:
    """A plan on the trained stages of a work directory.

    Args:
        plan: of the base's recipe.
        base: the experiment whose stages are trained, built from any point of the plan: the recipe without the sweep's
            bindings need not be one that can be sampled.
        checkpoint: "last", "best" or a step; of single stages "NAME=STEP,NAME=STEP".
        decay: of the averaged weights; None takes the first of Training.ema.

    Raises:
        UserError: a stage is not trained, the recipe scores nothing, or a constructor refuses a value.
    """

    def __init__(self, plan: SweepPlan, base: Experiment, checkpoint: str = "last", decay: float | None = None) -> None:
        if base.pipeline.evaluation is None:
            raise UserError(
                "--do sweep scores every value, and the recipe has no Pipeline.evaluation: bind Pipeline.evaluation = "
                "@Evaluation() with Evaluation.metrics and Evaluation.features, as recipes/quickstart.gin has them"
            )
        if base.workers > 1:
            raise UserError("--do sweep runs in one process, with all devices that it sees: take --strategy mirrored")
        self.plan, self.base, self.checkpoint, self.decay = plan, base, checkpoint, decay
        self.folder = base.workdir / "sweeps" / plan.name
        self.trials = [Trial(point, base, self.folder) for point in plan.points]
        needed: dict[str, Learner] = {stage.name: stage for trial in self.trials for stage in trial.stages}
        asked = [stage.classifier for trial in self.trials for stage in trial.stages]
        needed |= {classifier.name: classifier for classifier in asked if classifier is not None}
        self.weights = {name: base.weights(stage, checkpoint) for name, stage in needed.items()}

    def run(self, rows_of: Callable[[Recipe], list[str]], written: Written) -> dict[str, Any]:
        """Samples and scores what has no result yet.

        Args:
            rows_of: published rows that a recipe with bindings stands for.
            written: called with the folder and the account so far, after every value.

        Returns:
            The account: the sweep, and a row with its result for every value.
        """
        with locked(self.folder / ".lock", f"the sweep {self.folder}"):
            account = self._account()
            results = [self._result(trial) for trial in self.trials]
            open_trials = [trial for trial, result in zip(self.trials, results, strict=True) if result is None]
            done = len(self.trials) - len(open_trials)
            say(f"{len(self.trials)} values" + (f", {done} of them scored already" if done else ""))
            for number, (trial, result) in enumerate(zip(self.trials, results, strict=True), start=1):
                if result is None:
                    say(f"\n[{number}/{len(self.trials)}] {self._title(trial.point)}")
                    self._score(trial, open_trials, rows_of(trial.point.recipe))
                    result = self._result(trial)
                account["rows"].append(self._row(trial, result))
                if trial in open_trials or trial is self.trials[-1]:
                    written(self.folder, account)
        return account

    # ---- what is there

    def _asked(self, stage: Stage) -> dict[str, Any] | None:
        """Step and hash of the checkpoint of the classifier that guides a stage."""
        return None if stage.classifier is None else self.weights[stage.classifier.name]

    def _result(self, trial: Trial) -> dict[str, Any] | None:
        """The result of a point, if it is one of these weights, bindings and images."""
        try:
            result = json.loads(trial.result_file.read_text())
        except (OSError, ValueError):
            return None
        good = result.get("recipe_identity") == trial.point.recipe.identity()
        good = good and result.get("seed") == trial.pipeline.seed
        for stage in trial.stages:
            wanted = {"checkpoint": self.weights[stage.name], "ema": self.decay, "classifier": self._asked(stage)}
            wanted |= stage.origin.identity(stage.images)
            made = (result.get("samples") or {}).get(stage.name) or {}
            good = good and all(made.get(name) == value for name, value in wanted.items())
        return result if good else None

    # ---- one point

    def _score(self, trial: Trial, open_trials: Sequence[Trial], rows: list[str]) -> None:
        experiment, evaluation = trial.experiment, trial.pipeline.evaluation
        if evaluation is None:
            raise UserError(f"--sweep: with {self._title(trial.point)} the recipe has no Pipeline.evaluation")
        self._prepare(trial)
        for stage in trial.stages:
            levels = self._levels(stage, trial, open_trials)
            self._adopt(trial, stage)
            if not self._is_sampled(trial, stage, levels):
                experiment.sample_set([stage], self.checkpoint, decay=self.decay, levels={stage.name: levels})
        result = experiment.score(evaluation, rows)
        name, value = next(iter(result["metrics"].items()))
        say(f"{self._title(trial.point)}: {name} {value:.4g}")

    def _prepare(self, trial: Trial) -> None:
        """The work directory of a point: links to what is trained, and its recipe; what another one left is removed."""
        shutil.rmtree(trial.folder / "results", ignore_errors=True)
        link(trial.folder / "cache", self.base.workdir / "cache")
        for stage in trial.stages:
            for used in (stage, stage.classifier):
                if used is not None:
                    link(trial.experiment.stage_folder(used), self.base.stage_folder(used))
        trial.experiment.keep_recipe()
        trial.experiment.record()

    def _levels(self, stage: Stage, trial: Trial, open_trials: Sequence[Trial]) -> tuple[int, ...]:
        """The levels s that any point needs of these samples: one pass keeps z_s of all (CDM, section 3.3)."""
        alike = [
            other.pipeline.kept_levels(same)
            for other in open_trials
            for same in other.pipeline.cascade
            if same.name == stage.name and other.chain(same) == trial.chain(stage)
        ]
        return tuple(sorted({s for levels in alike for s in levels}))

    def _adopt(self, trial: Trial, stage: Stage) -> None:
        """Takes over the fullest sample set that is the one that would be made here."""
        mine = trial.folder / "samples" / stage.name
        if self._is_set(trial, stage, mine):
            return
        found = [folder for folder in self._other_sets(stage) if self._is_set(trial, stage, folder)]
        if found:
            shutil.rmtree(mine, ignore_errors=True)
            copy(max(found, key=lambda folder: len(list(folder.rglob("shard-*.npz")))), mine)

    def _other_sets(self, stage: Stage) -> Iterator[Path]:
        """Sample sets of a stage in the work directory and in all of its sweeps."""
        yield self.base.workdir / "samples" / stage.name
        yield from sorted((self.base.workdir / "sweeps").glob(f"*/*/samples/{stage.name}"))

    def _is_set(self, trial: Trial, stage: Stage, folder: Path) -> bool:
        weights = self.weights[stage.name]
        identity = trial.experiment.set_identity(stage, weights, self.decay, self._asked(stage))
        try:
            return bool(json.loads((folder / "set.json").read_text()) == json.loads(json.dumps(identity)))
        except (OSError, ValueError):
            return False

    def _is_sampled(self, trial: Trial, stage: Stage, levels: Sequence[int]) -> bool:
        """Whether all of a set is there, and nothing besides: then its network need not be restored."""
        folder, samples = trial.folder / "samples" / stage.name, trial.pipeline.samples
        shards = list(enumerate(samples.shards()))
        if not self._is_set(trial, stage, folder) or len(list(folder.glob("shard-*.npz"))) != len(shards):
            return False
        paths = [(level_path(shard_path(folder, number), s), len(i)) for number, i in shards for s in levels]
        return not missing(folder, samples) and all(is_whole(path, count) for path, count in paths)

    # ---- the account

    def _title(self, point: Point) -> str:
        keys = [axis.key for axis in self.plan.axes]
        return ", ".join(f"{key} = {value}" for key, value in zip(short_keys(keys), point.values, strict=True))

    def _account(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "recipe": str(self.base.origin()),
            "bindings": self.plan.base.overrides(),
            "workdir": str(self.base.workdir),
            "checkpoint": self.checkpoint,
            "ema": self.decay,
            "weights": self.weights,
            "seed": self.base.pipeline.seed,
            "command": " ".join(["python -m zoo.run", *sys.argv[1:]]),
            "sweep": [
                {"key": axis.key, "name": name, "values": list(axis.values)}
                for axis, name in zip(self.plan.axes, short_keys([axis.key for axis in self.plan.axes]), strict=True)
            ],
            "asked": len(self.trials),
            "rows": [],
        }

    def _row(self, trial: Trial, result: dict[str, Any] | None) -> dict[str, Any]:
        if result is None:
            raise UserError(f"{trial.result_file} was changed while the sweep ran: run the same command again")
        moment = datetime.datetime.fromtimestamp(trial.result_file.stat().st_mtime, datetime.UTC)
        return {
            "values": list(trial.point.values),
            "folder": trial.point.folder,
            "date": moment.isoformat(timespec="seconds"),
            "result": {name: value for name, value in result.items() if name != LARGE},
        }


def _needed(pipeline: Pipeline) -> list[Stage]:
    """The stages that the samples of the last one come from: those before real or stored images are not among them."""
    stages = [pipeline.last]
    while (before := pipeline.before(stages[0])) is not None:
        stages.insert(0, before)
    return stages
