"""Achieved FLOP/s of a float32 training step over TensorFlow's matrix-product rate in the same run.

    python benchmarks/training_step.py [--batch 16] [--steps 10] [--deterministic] [--json FILE]

The network has 64 channels, multipliers 1, 2, 2, 2, two blocks a level, attention at 16 and 10,735,619 parameters, at
32x32: 3.64 GFLOP an image forward, three times that for a step. Optimizer, clipping and moving average are included.
The rate is measured before, between and after, because a shared machine changes under the measurement. What the
deterministic switch costs is measured in a process of its own, as part of that process's matrix rate.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.console import import_tensorflow, say

import_tensorflow()

import numpy as np
import tensorflow as tf
from yardsticks import matrix_rate, write_figures

from zoo import recipe
from zoo.run import make_deterministic
from zoo.training.step import TrainingStep

RECIPE = Path(__file__).parent / "training_step.gin"
FORWARD = 3.64e9


def batches(batch: int) -> Iterator[dict[str, tf.Tensor]]:
    """The same random batch for ever, so that the input pipeline is not measured."""
    images = np.random.default_rng(0).standard_normal((batch, 32, 32, 3)).astype(np.float32)
    labels = (np.arange(batch) % 10).astype(np.int32)
    return iter(tf.data.Dataset.from_tensors({"image": images, "label": labels}).repeat())


def measure(batch: int, steps: int) -> dict[str, Any]:
    """Steps one by one, with the matrix rate between them."""
    began = time.perf_counter()
    (stage,) = recipe.load(str(RECIPE), [f"Training.batch = {batch}"]).build().stages
    step = TrainingStep(stage, tf.distribute.OneDeviceStrategy("CPU:0"), seed=0)
    parameters = sum(int(np.prod(variable.shape)) for variable in step.state.raw)
    stream = batches(batch)
    step(stream, 0, 0, 1)
    first = time.perf_counter() - began
    rates, seconds = [matrix_rate()], []
    for i in range(1, steps + 1):
        began = time.perf_counter()
        step(stream, i, i, 1)
        seconds.append(time.perf_counter() - began)
        if i % 5 == 0:
            rates.append(matrix_rate())
    # the largest rate: another process may have taken its part of a smaller one
    median, rate = float(np.median(seconds)), max(rates)
    achieved = 3 * FORWARD * batch / median
    say(f"{parameters:,} parameters; recipe to first step {first:.1f} s")
    say(f"step {median:.3f} s (median of {steps}; {min(seconds):.3f} to {max(seconds):.3f})")
    say(f"matrix product {rate / 1e9:.0f} GFLOP/s ({min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f})")
    say(f"achieved {achieved / 1e9:.0f} GFLOP/s: {achieved / rate:.2f} of it")
    return {
        "step_seconds": median,
        "images_per_second": batch / median,
        "achieved_rate": achieved,
        "matrix_rate": rate,
        "fraction_of_matrix_rate": achieved / rate,
        "recipe_to_first_step_seconds": first,
    }


def deterministic_step(batch: int, steps: int) -> float:
    """Seconds of a step with the deterministic switch."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        flags = ["--batch", str(batch), "--steps", str(steps), "--deterministic", "--json", file.name]
        subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True)
        return float(json.load(file)["figures"]["step_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--deterministic", action="store_true", help="as zoo.run --deterministic")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.deterministic:
        make_deterministic()
    figures = measure(arguments.batch, arguments.steps)
    if arguments.json is None:
        return
    if not arguments.deterministic:
        seconds = deterministic_step(arguments.batch, arguments.steps)
        figures |= {"deterministic_step_seconds": seconds, "deterministic_ratio": seconds / figures["step_seconds"]}
        say(f"with the deterministic switch {seconds:.3f} s a step, {figures['deterministic_ratio']:.2f} times as long")
    write_figures(arguments.json, "training_step", figures)


if __name__ == "__main__":
    main()
