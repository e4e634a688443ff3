"""Seconds of a training step in half precision against float32, step by step in turn; and whether the losses agree.

    python benchmarks/precision.py [--recipe benchmarks/training_step.gin] [--batch 16] [--steps 20]
        [--precision bfloat16] [--json FILE]

Both networks start from the same weights and learn the same batch with the same noise, so their losses can be compared
step by step. The steps take turns, and the ratio is the median of those of neighbours: on a shared machine both suffer.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# first: it imports the backend quietly
from network import BACKENDS, POLICIES, MatrixRate, choose, example  # noqa: I001

import keras
import numpy as np

from yardsticks import write_figures

from zoo.console import command, say


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, by name."""
    backend = BACKENDS[keras.backend.backend()]()
    names = ("float32", arguments.precision)
    steps, rates = {}, {}
    for name in names:
        stage = choose(arguments)
        network = stage.build_network(0, POLICIES[name])
        steps[name] = backend.training_step(stage, network, example(stage, arguments.batch))
        rates[name] = MatrixRate(backend, name, arguments.matrix)
    wall: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.steps + 1):
        for name in names:
            began, busy = time.perf_counter(), time.process_time()
            losses[name].append(float(steps[name](number)))
            if number:  # the first compiles
                wall[name].append(time.perf_counter() - began)
                work[name].append(time.process_time() - busy)
        if number in (0, arguments.steps // 2, arguments.steps):
            for name in names:
                rates[name].measure()
    full, half = (np.array(wall[name]) for name in names)
    one, other = (np.array(losses[name]) for name in names)
    return {
        "batch": arguments.batch,
        "precision": arguments.precision,
        "seconds": {name: float(np.median(wall[name])) for name in names},
        "processor_seconds": {name: float(np.median(work[name])) for name in names},
        "speed_up": float(np.median(full / half)),
        "processor_speed_up": float(np.median(np.array(work["float32"]) / np.array(work[arguments.precision]))),
        "matrix_product_flops": {name: rates[name].median for name in names},
        "first_loss": float(one[0]),
        "last_losses": {name: losses[name][-1] for name in names},
        "largest_loss_difference": float(np.max(np.abs(one - other) / one)),
        "load": os.getloadavg()[0],
    }


def report(figures: dict[str, Any]) -> None:
    for name, seconds in figures["seconds"].items():
        rate = figures["matrix_product_flops"][name] / 1e9
        busy = figures["processor_seconds"][name]
        say(f"{name:9} {seconds:.3f} s a step ({busy:.3f} s of processor); matrix product {rate:,.0f} GFLOP/s")
    say(
        f"{figures['precision']} is {figures['speed_up']:.2f} times as fast ({figures['processor_speed_up']:.2f} by "
        f"time of processor); load of the machine {figures['load']:.1f}"
    )
    say(
        f"loss {figures['first_loss']:.4f} -> {figures['last_losses']}; they differ by at most "
        f"{figures['largest_loss_difference']:.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "benchmarks" / "training_step.gin"))
    parser.add_argument("--stage", help="by name; the first where it is left out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=[name for name in POLICIES if name != "float32"], default="bfloat16")
    parser.add_argument("--matrix", type=int, default=2048, help="side of the matrices")
    parser.add_argument("--gin_bindings", action="append", default=[], help="as of zoo.run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments)
    report(figures)
    if arguments.json is not None:
        write_figures(arguments.json, "precision", named(figures))


def named(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures by names that say their units."""
    return {
        **{f"{name}_step_seconds": value for name, value in figures["seconds"].items()},
        **{f"{name}_processor_seconds": value for name, value in figures["processor_seconds"].items()},
        **{f"{name}_matrix_rate": value for name, value in figures["matrix_product_flops"].items()},
        "speed_up_ratio": figures["speed_up"],
        "processor_speed_up_ratio": figures["processor_speed_up"],
        "largest_loss_difference_fraction": figures["largest_loss_difference"],
    }


if __name__ == "__main__":
    command(main)
