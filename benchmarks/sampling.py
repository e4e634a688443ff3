"""Images and network evaluations a second of sampling, and their FLOP/s over the rate of matrix products in this run.

    python benchmarks/sampling.py [--batch 16] [--steps 10] [--repeats 5] [--devices 1] [--json FILE]

The networks are that of benchmarks/training_step.gin and those of both stages of the quickstart, float32, untrained.
`forward` is the same network on the same batch in a loop of its own: what it is short of the walk is the walk's own
work (noise for each image, the sampler's arithmetic). Images a second are those of a walk of --steps steps.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.console import import_tensorflow, say

import_tensorflow()

import numpy as np
import tensorflow as tf
from yardsticks import matrix_rate, write_figures

from zoo import cost, recipe, symbolic
from zoo.pipeline import Stage
from zoo.sampling import StageSampler
from zoo.training import randomness

ROOT = Path(__file__).parent.parent
NETWORKS = {
    "training step": (ROOT / "benchmarks" / "training_step.gin", "base"),
    "quickstart base": (ROOT / "recipes" / "quickstart.gin", "base"),
    "quickstart sr": (ROOT / "recipes" / "quickstart.gin", "sr"),
}


def stage_of(path: Path, name: str, steps: int) -> Stage:
    built = recipe.load(str(path), [f"{name}/DDIMSampler.steps = {steps}"]).build()
    return built.stage(name)


def seconds_and_rate(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Medians of one call, after one that is not counted, and of the matrix products beside it."""
    call()
    seconds, rates = [], [matrix_rate()]
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
        rates.append(matrix_rate())
    return float(np.median(seconds)), float(np.median(rates))


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    path, stage_name = NETWORKS[name]
    flops = cost.measure(symbolic.build(stage_of(path, stage_name, arguments.steps))).flops
    stage = stage_of(path, stage_name, arguments.steps)  # the traced one has no weights
    network = stage.build_network(seed=0)
    weights = [variable.value for variable in network.trainable_variables]
    sampler = StageSampler(stage, network, arguments.batch)
    count = sampler.at_once
    key, indices = randomness.key(0, "benchmark"), np.arange(count)
    batch: dict[str, np.ndarray] = {"label": indices % 10}
    if stage.images.low_resolution:
        low = stage.images.low_resolution
        batch["low_resolution"] = np.random.default_rng(0).uniform(-1, 1, (count, low, low, 3)).astype(np.float32)
    began = time.perf_counter()
    sampler.sample(key, indices, batch, weights)
    first = time.perf_counter() - began
    walk, rate = seconds_and_rate(lambda: sampler.sample(key, indices, batch, weights), arguments.repeats)
    forward, rate_beside = seconds_and_rate(forward_pass(stage, network, arguments.batch), arguments.repeats)
    evaluations = count * sampler.process.steps / walk
    return {
        "flop_count": flops,
        "first_call_seconds": first,
        "walk_seconds": walk,
        "images_per_second": count / walk,
        "evaluations_per_second": evaluations,
        "forward_evaluations_per_second": arguments.batch / forward,
        "matrix_rate": rate,
        "fraction_of_matrix_rate": flops * evaluations / rate,
        "forward_fraction_of_matrix_rate": flops * arguments.batch / forward / rate_beside,
    }


def forward_pass(stage: Stage, network: Any, batch: int) -> Callable[[], Any]:
    """The network alone, as one graph."""
    spec = stage.input_spec(batch)
    inputs = {name: tf.zeros(shape, dtype) for name, (shape, dtype) in spec.items()}
    graph = tf.function(network)
    return lambda: graph(inputs).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images in one call of the network, on one device")
    parser.add_argument("--steps", type=int, default=10, help="of a walk")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement; the median is shown")
    parser.add_argument("--devices", type=int, default=1, help="logical devices of the processor")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    processor = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * arguments.devices
    tf.config.set_logical_device_configuration(processor, parts)
    names = [f"CPU:{number}" for number in range(arguments.devices)]
    figures = {}
    for name in NETWORKS:
        with tf.distribute.MirroredStrategy(names).scope() if arguments.devices > 1 else contextlib.nullcontext():
            found = figures[name] = measure(name, arguments)
        say(
            f"{name}: {found['images_per_second']:.1f} images/s at {arguments.steps} steps, "
            f"{found['evaluations_per_second']:.0f} evaluations/s (forward alone "
            f"{found['forward_evaluations_per_second']:.0f}), {found['flop_count'] / 1e9:.2f} GFLOP each: "
            f"{found['fraction_of_matrix_rate']:.2f} of {found['matrix_rate'] / 1e9:.0f} GFLOP/s (forward alone "
            f"{found['forward_fraction_of_matrix_rate']:.2f}); "
            f"first call {found['first_call_seconds']:.1f} s"
        )
    if arguments.json:
        write_figures(arguments.json, "sampling", figures)


if __name__ == "__main__":
    main()
