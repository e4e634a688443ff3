"""Gradients with and without recomputation on two devices: python two_gradients.py FILE. See test_gradients.py."""

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.networks import attention, blocks, layers, resampling
from zoo.networks.embeddings import StepEmbedding
from zoo.networks.unet import UNet
from zoo.training.gradients import recompute

SIZE, BATCH = 8, 4
Values = dict[str, tf.Tensor]


def make() -> UNet:
    """A small network with dropout, attention and blocks that resample, off its zero start."""
    network = UNet(
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        out_channels=3,
        time=StepEmbedding(),
        modulation=blocks.AdaptiveModulation(),
        resampling=resampling.ResidualResampling(),
        attention=attention.SelfAttention((4,), attention.HeadCount(2), attention.HeadsLast()),
        normalisation=layers.GroupNormalisation(groups=8),
        classes=4,
        dropout=0.3,
    )
    network({name: keras.KerasTensor(value.shape, value.dtype) for name, value in examples().items()})
    for index, variable in enumerate(network.trainable_variables):
        moved = 0.1 * np.random.default_rng(index).standard_normal(variable.shape)
        variable.assign(variable + moved.astype("float32"))
    return network


def examples() -> dict[str, np.ndarray]:
    return {
        "image": np.random.default_rng(1).standard_normal((BATCH, SIZE, SIZE, 3)).astype("float32"),
        "time": np.array([3, 700, 20, 999], "float32"),
        "label": np.array([0, 3, 1, 1], "int32"),
    }


def gradients(network: UNet, values: Values, key: Any) -> list[tf.Tensor]:
    """Of the squared output, as the trainer takes them."""
    trained = [variable.value for variable in network.trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(trained)
        loss = tf.reduce_mean(tf.square(network(values | {"seed": key})))
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, trained)]


def distance(ones: list[Any], others: list[Any]) -> float:
    """The largest difference of two gradients, each relative to its norm."""
    pairs = [(np.asarray(one), np.asarray(other)) for one, other in zip(ones, others, strict=True)]
    return max(float(np.linalg.norm(one - other) / np.linalg.norm(one)) for one, other in pairs)


def main(out: Path) -> None:
    # before the first tensor
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        network = make()
    values = {name: tf.constant(value) for name, value in examples().items()}

    def replica(values: Values) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        key = tf.stack([7, context.replica_id_in_sync_group])
        return list(context.all_reduce(tf.distribute.ReduceOp.SUM, gradients(network, values, key)))

    def summed() -> list[tf.Tensor]:
        results = tf.function(lambda given: strategy.run(replica, args=(given,)))(values)
        return [strategy.experimental_local_results(result)[0] for result in results]

    plain = summed()
    network.recompute = recompute
    figures = {"replicas": strategy.num_replicas_in_sync, "distance": distance(plain, summed())}
    out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
