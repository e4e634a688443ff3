"""Trains the tiny base stage on one kind of machines and writes what came of it: machines.py KIND FILE.

KIND is one, one-4 (four micro-batches), mirrored (two logical devices) or multiworker (as TF_CONFIG says). The noise is
injected: that of a batch is a function of its position, and each replica takes its rows. See test_distribution.py.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tiny

from zoo.training import randomness
from zoo.training.distribution import choose, local_replicas, worker
from zoo.training.step import TrainingStep, assign
from zoo.training.trainer import Trainer

Values = dict[str, tf.Tensor]
STEPS = 20
SGD = ("Training.optimizer = @Momentum()", "Momentum.learning_rate = 0.05", "Training.clip = None")
# With steps chosen by their losses: what is remembered of these must be alike on all replicas too.
ADAM = (
    "Training.optimizer = @Adam()",
    "Objective.levels = @LossSecondMoment()",
    "LossSecondMoment.history = 2",
    "base/DiscreteProcess.steps = 8",
    "sr/GaussianNoise.s = 2",
    "sr/GaussianNoise.largest = 8",
)
PLAIN = ("Training.optimizer = @Momentum()", "Momentum.learning_rate = 1.0", "Momentum.momentum = 0.0")


class InjectedStep(TrainingStep):
    """A step whose noise does not depend on the number of replicas, and which keeps the first gradients it applied."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        with self.strategy.scope():
            self.kept = [tf.Variable(tf.zeros(variable.shape), trainable=False) for variable in self.state.raw]
            self.open = tf.Variable(True, trainable=False)

    def draw(self, batch: Values, key: tf.Tensor, position: tf.Tensor) -> Values:
        shapes = {name: (self.training.batch, *value.shape[1:]) for name, value in batch.items()}
        whole = randomness.draw(randomness.fold(randomness.key(0, "test"), position), self.stage.randomness(shapes))
        rows = batch["image"].shape[0]
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * rows
        own = {
            name: tf.ensure_shape(value[first : first + rows], (rows, *value.shape[1:]))
            for name, value in whole.items()
        }
        return own if self.state.levels is None else self.state.levels.choose(own)

    def _apply(self, gradients: list[tf.Tensor], norm: tf.Tensor, step: tf.Tensor) -> None:
        first = self.open.read_value()
        for variable, gradient in zip(self.kept, gradients, strict=True):
            assign(variable, tf.where(first, gradient, variable.read_value()))
        assign(self.open, tf.zeros_like(first))
        super()._apply(gradients, norm, step)


class InjectedTrainer(Trainer):
    """The real loop around it."""

    def _make_step(self) -> TrainingStep:
        step = InjectedStep(self.stage, self.strategy, self.seed)
        with self.strategy.scope():
            tiny.unsettle(step.state)
        return step


def main(kind: str, out: Path) -> None:
    name, _, parts = kind.partition("-")
    # Before the first tensor; so no module of the zoo may make one while it is imported.
    strategy = choose(name, 2 if name == "mirrored" else None).make()
    bindings = (f"Training.micro_batches = {parts or 1}", f"base/Training.steps = {STEPS}")
    arrays: dict[str, Any] = {"replicas": strategy.num_replicas_in_sync}
    folder = out.parent / f"{kind}-run"  # shared by all workers
    for label, optimizer in (("sgd", SGD), ("adam", ADAM)):
        trainer = InjectedTrainer(tiny.stage("base", *bindings, *optimizer), strategy, folder / label, seed=0)
        trainer.run()
        if label == "sgd":
            arrays |= {f"gradient/{i}": v for i, v in enumerate(local(strategy, trainer.step.kept)[0])}
        arrays |= {f"{label}/{i}": v for i, v in enumerate(local(strategy, trainer.state.raw)[0])}
        if trainer.state.levels is not None:
            arrays["remembered"] = local(strategy, [trainer.state.levels.variables["losses"]])[0][0]
        if trainer.is_chief:
            rows = (folder / label / "metrics.csv").read_text().splitlines()[1:]
            arrays[f"{label}-losses"] = np.array([float(row.split(",")[2]) for row in rows])
        groups = [v for group in trainer.state.groups.values() for v in group.values()]
        copies = list(zip(*local(strategy, groups), strict=True))
        arrays[f"{label}-differing"] = sum(any(not np.array_equal(a, first) for a in rest) for first, *rest in copies)
    if name == "mirrored":
        arrays |= noise(strategy) | clipping(strategy)
    index, workers = worker(strategy)
    np.savez(out.with_suffix(f".{index}.npz") if workers > 1 else out, **arrays)


def local(strategy: tf.distribute.Strategy, variables: list[tf.Variable]) -> list[list[np.ndarray]]:
    """The values on each replica of this worker."""
    parts = [strategy.experimental_local_results(variable) for variable in variables]
    return [[part[i].numpy() for part in parts] for i in range(local_replicas(strategy))]


def noise(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """What the replicas draw in a step of the real loop."""
    step = TrainingStep(tiny.stage("base"), strategy, 0)
    batch = {"image": tf.zeros((4, 8, 8, 3)), "label": tf.zeros((4,), tf.int32)}

    @tf.function
    def draw() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        position = tf.constant(5, tf.int64)
        key = randomness.fold(step.key, position, context.replica_id_in_sync_group)
        return step.draw(batch, key, position)["noise"]

    drawn = strategy.experimental_local_results(strategy.run(draw))
    return {"noise": np.stack([part.numpy().reshape(-1) for part in drawn])}


def clipping(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """A step of gradient descent at rate 1: the update is what clipping left of the gradient."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = InjectedTrainer(tiny.stage("base", *PLAIN, "Training.clip = 0.01"), strategy, Path(folder), seed=0)
    before = [variable.numpy() for variable in trainer.state.raw]
    result = trainer.step(trainer._batches(0, 0), 0, 0, 1)
    moved = [old - variable.numpy() for old, variable in zip(before, trainer.state.raw, strict=True)]
    update = np.sqrt(sum(float(np.square(part).sum()) for part in moved))
    return {"reported_norm": result.gradient_norm, "update_norm": update}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
