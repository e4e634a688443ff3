"""Achieved FLOP/s of a float32 training step over TensorFlow's matrix-product rate in the same run.

    python benchmarks/training_step.py [--batch 16] [--steps 10]

The network has 64 channels, multipliers 1, 2, 2, 2, two blocks a level, attention at 16 and 10,735,619 parameters, at
32x32: 3.64 GFLOP an image forward, three times that for a step. Optimizer, clipping and moving average are included.
The rate is measured before, between and after, because a shared machine changes under the measurement.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.console import import_tensorflow, say

import_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from zoo import recipe  # noqa: E402
from zoo.training.trainer import Trainer  # noqa: E402

RECIPE = Path(__file__).parent / "training_step.gin"
FORWARD = 3.64e9


def matrix_rate(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of a float32 matrix product, the median of some."""
    a = tf.random.normal((size, size))
    product = tf.function(lambda x: tf.matmul(x, x))
    product(a)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        product(a).numpy()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / float(np.median(seconds))


def batches(batch: int) -> Iterator[dict[str, tf.Tensor]]:
    """The same random batch for ever, so that the input pipeline is not measured."""
    images = np.random.default_rng(0).standard_normal((batch, 32, 32, 3)).astype(np.float32)
    labels = (np.arange(batch) % 10).astype(np.int32)
    return iter(tf.data.Dataset.from_tensors({"image": images, "label": labels}).repeat())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    began = time.perf_counter()
    (stage,) = recipe.load(str(RECIPE), [f"Training.batch = {arguments.batch}"]).build().stages
    with TemporaryDirectory() as folder:
        trainer = Trainer(stage, tf.distribute.OneDeviceStrategy("CPU:0"), Path(folder), seed=0)
        parameters = sum(int(np.prod(variable.shape)) for variable in trainer.state.raw)
        stream = batches(arguments.batch)
        step = tf.function(trainer._steps)
        step(stream, tf.constant(0, tf.int64), 1)
        say(f"{parameters:,} parameters; recipe to first step {time.perf_counter() - began:.1f} s")
        rates, seconds = [matrix_rate()], []
        for i in range(1, arguments.steps + 1):
            began = time.perf_counter()
            step(stream, tf.constant(i, tf.int64), 1)[0].numpy()
            seconds.append(time.perf_counter() - began)
            if i % 5 == 0:
                rates.append(matrix_rate())
        median, rate = float(np.median(seconds)), float(np.median(rates))
        achieved = 3 * FORWARD * arguments.batch / median
        say(f"step {median:.3f} s (median of {arguments.steps}; {min(seconds):.3f} to {max(seconds):.3f})")
        say(f"matrix product {rate / 1e9:.0f} GFLOP/s ({min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f})")
        say(f"achieved {achieved / 1e9:.0f} GFLOP/s: {achieved / rate:.2f} of it")


if __name__ == "__main__":
    main()
