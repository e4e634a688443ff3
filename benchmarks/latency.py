"""Seconds that the distilled U-ViT takes for a batch of images, beside those published (simple diffusion, appendix A).

    python benchmarks/latency.py [--measure] [--repeats 5] [--json FILE]

The rows are those of sd/text-latency; their recipe says how many steps the student takes, which the paper does not.
Foretold is what `--do describe --device tpu-v4` would say, the text encoder left out as in the paper. --measure walks
on the one accelerator here, with untrained weights.
"""

import argparse
import time
from functools import cache
from pathlib import Path

from yardsticks import write_figures

from zoo.console import UserError, import_tensorflow, say

import_tensorflow()

import numpy as np
import tensorflow as tf

from harness.published import Row, load_papers
from zoo import cost, devices, recipe, symbolic
from zoo.pipeline import Pipeline
from zoo.registry import PROJECT
from zoo.sampling import StageSampler
from zoo.training import randomness

TPU = "tpu-v4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="also sample, on the accelerator here")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement; the median is shown")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.measure and not tf.config.list_physical_devices("GPU"):
        raise UserError("--measure needs an accelerator: the rows are of a TPU, and a processor takes minutes an image")
    tables = {table.id: table for paper in load_papers() for table in paper.tables}
    figures = {}
    for row in tables["sd/text-latency"].rows:
        found = figures[row.label] = foretold(row)
        if arguments.measure:
            found["measured_seconds"] = measured(row, arguments.repeats)
        shown = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in found.items())
        say(f"{row.id}: {shown}; published {row.values['latency_s']} s")
    if arguments.json:
        write_figures(arguments.json, "latency", figures)


def pipeline_of(row: Row) -> Pipeline:
    return recipe.load(PROJECT / row.content["recipe"], row.content["bindings"]).build()


@cache
def counted(name: str, bindings: tuple[str, ...]) -> float:
    """FLOPs of a forward pass of the last stage."""
    return cost.measure(symbolic.build(recipe.load(PROJECT / name, bindings).build().last)).flops


def foretold(row: Row) -> dict[str, float]:
    """Steps, and seconds of a batch on the paper's device."""
    pipeline = pipeline_of(row)
    steps, batch = pipeline.last.sampler_steps, row.settings["batch_size"]
    (stages,) = (binding for binding in row.content["bindings"] if binding.startswith("Pipeline.stages"))
    flops = counted(row.content["recipe"], (stages,))
    seconds = flops * steps * batch / devices.find(TPU).rate(devices.BFLOAT16)
    return {
        "steps_count": steps,
        "flops_an_image": flops * steps,
        "foretold_seconds": seconds,
        "ratio_to_published": seconds / row.values["latency_s"],
    }


def measured(row: Row, repeats: int) -> float:
    """Median seconds of a walk of the last stage, after one that compiles."""
    stage, batch = pipeline_of(row).last, row.settings["batch_size"]
    network = stage.build_network(seed=0)
    weights = [variable.value for variable in network.trainable_variables]
    sampler = StageSampler(stage, network, batch)
    given = {"text": np.zeros(stage.input_spec(batch)["text"][0], np.float32)}
    key, indices = randomness.key(0, "latency"), np.arange(batch)
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        sampler.sample(key, indices, given, weights)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


if __name__ == "__main__":
    main()
