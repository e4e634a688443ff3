"""The training loop: one strategy, keyed randomness, averages beside the raw weights, whole checkpoints."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from zoo.console import Terminated, UserError, say, termination
from zoo.training.checkpoints import Checkpoints, of_stage
from zoo.training.distribution import agree, check_batch, local_replicas, nearest, told_of_lost_workers, worker
from zoo.training.monitors import Bystander, Monitor, Monitoring
from zoo.training.optimizers import Optimizer
from zoo.training.precisions import Float32, Precision
from zoo.training.selection import Selector
from zoo.training.step import TrainingStep, average_name, trained_variables
from zoo.training.switches import XLA, RecomputeBlocks
from zoo.training.watchdog import Diverged, Incidents, Watch, Watchdog

if TYPE_CHECKING:
    from zoo.learner import Learner


class Training:
    """How a stage is trained, in the papers' units; then what a machine may change without changing the experiment.

    Args:
        batch: global batch, whatever the number of devices.
        steps: optimizer steps.
        optimizer: with its learning rate.
        monitoring: what is written while training, and how often.
        ema: decay of the moving average of the weights, which is what is sampled from; or several decays, of which
            the first is sampled from and the others by --ema.
        clip: largest global norm of the gradient, after the all-reduce; None does not clip.
        watchdog: what counts as gone astray; None does not look.
        micro_batches: parts in which a replica works through its share of the batch; changes memory, not the result.
        steps_per_call: optimizer steps in one call of the compiled function.
        precision: numbers that the network computes in; None is float32.
        recomputation: computes activations again in the backward pass instead of keeping them; None keeps them.
        compiler: of the forward and backward pass; None leaves them to TensorFlow's graph.
    """

    def __init__(
        self,
        batch: int,
        steps: int,
        optimizer: Optimizer,
        monitoring: Monitoring,
        ema: float | tuple[float, ...] = 0.9999,
        clip: float | None = None,
        watchdog: Watchdog | None = None,
        micro_batches: int = 1,
        steps_per_call: int = 10,
        precision: Precision | None = None,
        recomputation: RecomputeBlocks | None = None,
        compiler: XLA | None = None,
    ) -> None:
        for name, value in (("batch", batch), ("micro_batches", micro_batches), ("steps_per_call", steps_per_call)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if batch % micro_batches:
            raise ValueError(
                f"batch = {batch} does not divide into {micro_batches} micro-batches{nearest(batch, micro_batches)}"
            )
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        decays = ema if isinstance(ema, tuple) else (ema,)
        if not decays or len(set(decays)) < len(decays) or not all(0 <= decay < 1 for decay in decays):
            raise ValueError(f"ema must be in [0, 1), or several different numbers in it, got {ema}")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        self.batch, self.steps, self.optimizer, self.monitoring = batch, steps, optimizer, monitoring
        self.decays, self.clip, self.watchdog = decays, clip, watchdog
        self.micro_batches, self.steps_per_call = micro_batches, steps_per_call
        self.precision, self.recomputation, self.compiler = precision or Float32(), recomputation, compiler


class Trainer:
    """Trains one stage in its folder, and goes on where the last whole checkpoint of that folder ends.

    Of several workers the chief alone writes the folder; all of them read it.

    Args:
        stage: of the recipe.
        strategy: the machines.
        folder: WORKDIR/stages/NAME.
        seed: of the run.
        cache: folder for what selection keeps, WORKDIR/cache.
    """

    def __init__(
        self, stage: "Learner", strategy: tf.distribute.Strategy, folder: Path, seed: int, cache: Path | None = None
    ) -> None:
        self.stage, self.training, self.strategy, self.seed = stage, stage.training, strategy, seed
        check_batch(stage.name, self.training.batch, strategy.num_replicas_in_sync, self.training.micro_batches)
        self.worker, self.workers = worker(strategy)
        monitoring = self.training.monitoring
        self.checkpoints = Checkpoints(
            folder / "checkpoints", monitoring.keep, monitoring.keep_every, monitoring.keep_at
        )
        with strategy.scope():
            stage.prepare(folder.parent, seed, self.is_chief)
        self.step = self._make_step()
        self.state = self.step.state
        self.incidents = Incidents(folder / "incidents.json")
        self.watch = None if self.training.watchdog is None else Watch(self.training.watchdog)
        self.monitor = Monitor(stage, self.state, strategy, folder, seed) if self.is_chief else Bystander()
        self.selector = Selector(stage, self.state, strategy, self.checkpoints, folder, cache or folder / "cache", seed)

    def _make_step(self) -> TrainingStep:
        return TrainingStep(self.stage, self.strategy, self.seed)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the folder."""
        return self.worker == 0

    def run(self) -> None:
        """Trains up to `Training.steps`; returns at once where that is done.

        Raises:
            Terminated: SIGTERM came, and a checkpoint of the last step is on the disk.
            Diverged: training went astray too often; the last good checkpoint is on the disk.
        """
        with termination.deferred():
            step, total = self._resume(), self.training.steps
            if step >= total:
                if self.is_chief:
                    say(f"{self.stage.name}: trained, {step} steps")
                return
            self.monitor.start(step, total)
            try:
                with told_of_lost_workers(self.strategy):
                    self._loop(step, total)
            finally:
                self.monitor.finish()

    def _loop(self, step: int, total: int) -> None:
        """Optimizer steps from `step` on, until `total`."""
        batches, ahead = iter(()), -1
        while step < total:
            position = self.incidents.position(step)
            if position != ahead:  # at the start, after going back, and where a window of data is left out
                batches = self._batches(step, position)
            events = [*self.training.monitoring.until_event(step), *self.incidents.until_jump(step)]
            count = min(self.training.steps_per_call, total - step, *events)
            began = time.perf_counter()
            result = self.step(batches, step, position, count, termination.asked)
            problem = self.watch and self.watch.problem(result, self.training.precision.scaled)
            if problem:
                step, ahead = self._go_back(problem, step + count), -1
                continue
            step, ahead = step + count, position + count
            self.monitor.progress(step, result, time.perf_counter() - began)
            if self.training.monitoring.saves(step) or step == total or result.stop:
                self._save(step)
            if result.stop:
                raise Terminated

    def _save(self, step: int) -> None:
        """The chief writes a checkpoint, and scores it where that is due."""
        if self.is_chief:
            self.checkpoints.save(step, self.state.groups)
            self.monitor.checkpointed()
            self._score(step)

    def _score(self, step: int) -> None:
        if self.selector.due(step):
            with termination.at_once():  # the checkpoint is on the disk, and a resumed run scores it again
                self.selector.score(step)

    def _resume(self) -> int:
        """Restores the last whole checkpoint; the first one is made where there is none. Returns its step."""
        found = self.checkpoints.resume_from() if self.is_chief else None
        step = agree(self.strategy, -1 if found is None else found)
        if step < 0:
            if self.is_chief:  # it shows early whether the disk can be written; and there is one to go back to
                self.checkpoints.save(0, self.state.groups)
            return agree(self.strategy, 0)
        self._restore(step)
        if self.is_chief:
            self.selector.rewind(step)
            if 0 < step < self.training.steps:
                say(f"{self.stage.name}: going on from step {step}")
            self._score(step)
        return step

    def _restore(self, step: int) -> None:
        if not self.is_chief and step not in self.checkpoints.steps():
            raise UserError(
                f"worker {self.worker} does not see the chief's checkpoint of step {step} in "
                f"{self.checkpoints.directory}: the work directory must be shared by all workers"
            )
        stored = self.checkpoints.groups(step)
        # a scale of the loss is only there where it was trained in float16 before
        groups = {name: group for name, group in self.state.groups.items() if name != "loss_scale" or name in stored}
        averages = {name for name in {*stored, *groups} if name.startswith("ema")}
        if averages - {*stored} or averages - {*groups}:
            raise UserError(
                f"Training.ema = {self.training.decays} asks for other averages than the checkpoint of step {step} has "
                f"({', '.join(sorted(averages & {*stored}))}): their number cannot change in the middle of a training"
            )
        self.checkpoints.restore(step, groups)

    def _go_back(self, problem: str, seen: int) -> int:
        """Restores the last good checkpoint and leaves out the batches since; returns its step."""
        found = self.checkpoints.latest() if self.is_chief else None
        step = agree(self.strategy, -1 if found is None else found)
        settings = self.training.watchdog
        tries = self.incidents.tries(step)
        gives_up = step < 0 or settings is None or tries >= settings.tries
        incident = self.incidents.add(problem, seen, step, gives_up, write=self.is_chief)
        if gives_up:
            raise Diverged(
                f"{self.stage.name}: training went astray {tries + 1} times after step {step:,}, each time on other "
                f"data:\n{self.incidents.account()}\nThe checkpoint of step {step:,} is whole. Lower the learning "
                "rate, clip the gradient (Training.clip), or look at the data; then run the same command"
            )
        if self.is_chief:
            say(
                f"\n{self.stage.name}: {problem} at step {seen:,}: going back to step {step:,}, leaving out "
                f"{incident.skipped} batches"
            )
        self._restore(step)
        self.monitor.start(step, self.training.steps)
        return step

    def _batches(self, step: int, position: int) -> Iterator[Any]:
        """Global batches from `position` on: the stream is a function of (seed, position)."""
        batch, images = self.training.batch, self.stage.images
        first, count = position * batch, (self.training.steps - step) * batch
        parts = local_replicas(self.strategy)

        def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
            part = (context.input_pipeline_id, context.num_input_pipelines)
            return images.batches(self.seed, first, count, batch, worker=part, parts=parts).prefetch(4)

        return iter(self.strategy.distribute_datasets_from_function(share))


def restore_network(
    stage: "Learner", folder: Path, which: str, seed: int, decay: float | None = None
) -> tuple[keras.Model, str, int]:
    """The network of a trained stage with its averaged weights; made in the strategy's scope.

    Args:
        stage: of the recipe.
        folder: WORKDIR/stages/NAME.
        which: "last", "best" or a step; of single stages "NAME=STEP".
        seed: of the initial weights, which are all replaced.
        decay: of the moving average; None takes the first of Training.ema.

    Returns:
        The network, the hash of its checkpoint, and its step.
    """
    decays = stage.training.decays
    if decay is not None and decay not in decays:
        raise UserError(f"--ema must be one of Training.ema = {decays}, got {decay}")
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.choose(of_stage(which, stage.name))
    network = stage.build_network(seed)
    names, variables = trained_variables(network)
    group = average_name(decays, 0 if decay is None else decays.index(decay))
    digest = checkpoints.restore(step, {group: dict(zip(names, variables, strict=True))})
    return network, digest, step
