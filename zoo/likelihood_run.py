"""`--do likelihood`: bits per dimension of the trained stages of a work directory, as results with their provenance."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.console import UserError, say
from zoo.experiment import Experiment
from zoo.likelihood import Likelihood, collect, measure_stage, summary
from zoo.pipeline import Stage
from zoo.provenance import parts_of
from zoo.training.distribution import agree
from zoo.training.trainer import restore_network
from zoo.whole_files import write_text

FORMAT = 1  # of the result
SUFFIX = "-likelihood"


def result_file(workdir: Path, stage: str) -> Path:
    """Where the result of a stage is written."""
    return workdir / "results" / f"{stage}{SUFFIX}.json"


class LikelihoodRun:
    """The bound of real images under stages of an experiment.

    Args:
        experiment: its weights and machines.
        settings: which images, in how many steps.
        checkpoint: "last", "best" or a step; of single stages "NAME=STEP,NAME=STEP".
        decay: of the averaged weights; None takes the first of Training.ema.
    """

    def __init__(
        self, experiment: Experiment, settings: Likelihood, checkpoint: str = "last", decay: float | None = None
    ) -> None:
        self.experiment, self.settings, self.checkpoint, self.decay = experiment, settings, checkpoint, decay

    def run(self, stages: list[Stage], part: tuple[int, int] = (1, 1)) -> dict[str, dict[str, Any]]:
        """Measures what is missing; stage -> its result, written as results/NAME-likelihood.json.

        A stage of which other parts are still missing has no result yet.

        Args:
            stages: of the pipeline.
            part: (i, n): the shards of number i of n independent processes; workers of one strategy share them out.

        Raises:
            UserError: a stage is not trained, or its data are not here; before anything is measured.
        """
        experiment = self.experiment
        if experiment.workers > 1:
            part = experiment.worker + 1, experiment.workers
        for stage in stages:
            self._check(stage)
        results = {}
        for stage in stages:
            identity = self._measure(stage, part)
            agree(experiment.strategy, 0)  # the chief reads the shards of all workers
            found = self._result(stage, identity) if experiment.is_chief else None
            if found is not None:
                results[stage.name] = found
        return results

    def folder(self, stage: Stage) -> Path:
        """The shards of a stage."""
        return self.experiment.workdir / "likelihood" / stage.name

    def _check(self, stage: Stage) -> None:
        self.experiment.weights(stage, self.checkpoint)
        steps = stage.objective.process.respace(self.settings.steps)
        if not stage.knows(steps):
            raise UserError(
                f"stage '{stage.name}' has learned a few noise levels, and not all of the {steps.steps} that the bound "
                "is a sum over: measure its first teacher (--stage), or set Likelihood.steps to those of the stage"
            )
        self.settings.records(stage)
        stage.check_classes()

    def _measure(self, stage: Stage, part: tuple[int, int]) -> dict[str, Any]:
        """Writes the shards of a part; returns what the numbers depend on."""
        experiment = self.experiment
        with experiment.strategy.scope():
            network, digest, step = restore_network(
                stage, experiment.stage_folder(stage), self.checkpoint, experiment.pipeline.seed, self.decay
            )
            identity = self._identity(stage, network, {"step": step, "hash": digest})
            seed = experiment.pipeline.seed
            measure_stage(stage, network, self.settings, self.folder(stage), identity, seed, part)
        return identity

    def _identity(self, stage: Stage, network: keras.Model, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What the numbers of a stage depend on; neither on batches nor on how many images are measured."""
        images, split = stage.images, self.settings.split
        return {
            "stage": stage.name,
            "checkpoint": checkpoint,
            **({} if self.decay is None else {"ema": self.decay}),
            "seed": self.experiment.pipeline.seed,
            "network": type(network).__name__,
            "objective": parts_of(stage.objective),
            "conditioning": parts_of(stage.conditioning),
            **({} if images.text is None else {"text": images.text.identity()}),
            "clipping": parts_of(stage.sampler.clipping),
            "steps": self.settings.steps,
            "shard": self.settings.shard,
            "data": {
                "source": images.source.name,
                "split": images.split(split),
                "fingerprint": images.source.fingerprint(images.split(split)),
                "size": [images.size, images.low_resolution, images.channels],
                "crop": parts_of(images.crop),
            },
        }

    def _result(self, stage: Stage, identity: dict[str, Any]) -> dict[str, Any] | None:
        experiment = self.experiment
        records = self.settings.records(stage)
        found, missing = collect(self.settings, records, self.folder(stage))
        if missing:
            shards = len(self.settings.ranges(records))
            say(f"{stage.name}: {len(missing)} of {shards} shards are still missing; the last part writes the result")
            return None
        steps = stage.objective.process.respace(self.settings.steps).timestep_map
        provenance = {name: value for name, value in experiment.provenance().items() if name != "samples"}
        result = {
            "format": FORMAT,
            **provenance,
            "stage": stage.name,
            "dataset": identity["data"]["source"],
            "resolution": stage.size,
            "split": identity["data"]["split"],
            "trained_steps": stage.objective.process.steps,
            **summary(found, np.asarray(steps).tolist()),
            "records": records,
            "left_out": stage.images.problems,
            "made_from": identity,
        }
        write_text(result_file(experiment.workdir, stage.name), json.dumps(result, indent=1))
        return result
