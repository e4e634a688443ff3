"""Figures of training on two logical CPU devices, written as JSON: python two_devices.py FILE. See test_training.py."""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tiny

from zoo.training import randomness
from zoo.training.distribution import make_strategy
from zoo.training.trainer import Trainer

Values = dict[str, tf.Tensor]
PLAIN = ("Training.optimizer = @Momentum()", "Momentum.learning_rate = 1.0", "Momentum.momentum = 0.0")


def main(out: Path) -> None:
    # Before the first tensor; so no module of the zoo may make one while it is imported.
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tempfile.TemporaryDirectory() as folder:
        two = trainer_of("mirrored", Path(folder), *PLAIN, "Training.clip = 0.01")
        one = trainer_of("one", Path(folder), *PLAIN)
        figures = noise(two) | gradients(one, two) | clipping(two) | training(Path(folder))
    out.write_text(json.dumps(figures))


def trainer_of(strategy: str, folder: Path, *bindings: str) -> Trainer:
    trainer = Trainer(tiny.stage("base", *bindings), make_strategy(strategy), folder, seed=0)
    with trainer.strategy.scope():
        tiny.unsettle(trainer.state)
    return trainer


def local(trainer: Trainer, value: Any) -> list[np.ndarray]:
    """The value on each replica."""
    return [part.numpy() for part in trainer.strategy.experimental_local_results(value)]


def share(trainer: Trainer, values: Values) -> Values:
    """Each replica's half of every array."""

    def half(context: tf.distribute.experimental.ValueContext) -> Values:
        first = context.replica_id_in_sync_group * 4
        return {name: value[first : first + 4] for name, value in values.items()}

    return trainer.strategy.experimental_distribute_values_from_function(half)


def noise(two: Trainer) -> dict[str, Any]:
    """What the replicas draw in a step."""
    batch = share(two, tiny.batch_of(two.stage, 8))

    @tf.function
    def draw(batch: Values) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        key = randomness.fold(two.key, tf.constant(5, tf.int64), context.replica_id_in_sync_group)
        return two.draw(batch, key)["noise"]

    drawn = [part.reshape(-1) for part in local(two, two.strategy.run(draw, args=(batch,)))]
    return {
        "replicas": len(drawn),
        "correlation": float(np.corrcoef(*drawn)[0, 1]),
        "means": [float(part.mean()) for part in drawn],
        "spreads": [float(part.std()) for part in drawn],
    }


def gradients(one: Trainer, two: Trainer) -> dict[str, Any]:
    """The same batch and draws on one device and in halves on two."""
    batch = tiny.batch_of(one.stage, 8)
    key = randomness.key(0, "injected")
    random = one.draw(batch, key)
    loss, whole = one.gradients(batch, random, key)

    @tf.function
    def summed(batch: Values, random: Values) -> list[tf.Tensor]:
        part, parts = two.gradients(batch, random, key)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, [part, *parts])

    results = two.strategy.run(summed, args=(share(two, batch), share(two, random)))
    other, *halves = (local(two, value)[0] for value in results)
    norms = [np.linalg.norm(gradient) for gradient in whole]
    differences = [np.linalg.norm(a - b) / n for a, b, n in zip(whole, halves, norms, strict=True)]
    return {
        "smallest_norm": float(min(norms)),
        "gradient_difference": float(max(differences)),
        "loss_difference": abs(float(loss) - float(other)),
    }


def clipping(two: Trainer) -> dict[str, Any]:
    """A step of gradient descent at rate 1: the update is what clipping left of the gradient."""
    before = [variable.numpy() for variable in two.state.raw]
    batch = share(two, tiny.batch_of(two.stage, 8))
    step = tf.function(two.replica_step)
    result = local(two, two.strategy.run(step, args=(batch, tf.constant(0, tf.int64))))[0]
    moved = [old - variable.numpy() for old, variable in zip(before, two.state.raw, strict=True)]
    update = math.sqrt(sum(float(np.square(part).sum()) for part in moved))
    return {"reported_norm": float(result[1]), "update_norm": update}


def training(folder: Path) -> dict[str, Any]:
    """Four steps of the loop as a recipe runs it."""
    trainer = trainer_of("mirrored", folder / "run", "base/Training.steps = 4")
    trainer.run()
    lines = (folder / "run" / "metrics.csv").read_text().splitlines()[1:]
    differ = 0
    for variable in [*trainer.state.raw, *trainer.state.ema, *trainer.state.slots["first"]]:
        first, second = local(trainer, variable)
        differ += not np.array_equal(first, second)
    return {
        "losses": [float(line.split(",")[2]) for line in lines],
        "replicas_differ": differ,
        "checkpoints": trainer.checkpoints.steps(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
