"""Peak memory of sampling from an untrained network, beside what `--do describe` foretells of it.

    python benchmarks/sampling_memory.py [--recipe recipes/adm_imagenet64.gin] [--stage adm64] [--images 8] [--steps 10]
                                         [--gin_bindings BINDING ...] [--json FILE]

Without --gin_bindings the stage is sampled by DDIM with --steps steps. With them its sampler is the recipe's, of which
the last --steps steps are walked: memory does not depend on their number. A super-resolution stage enlarges noise, or
real images where its origin is bound so (`sr256/LowResolution.origin = @RealImages()`). The network samples in a
process of its own, whose peak the system tells: what the program itself takes is in both numbers.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from yardsticks import write_figures

from zoo.console import import_tensorflow, say

RECIPE, STAGE = "recipes/adm_imagenet64.gin", "adm64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=RECIPE, help="default %(default)s")
    parser.add_argument("--stage", default=STAGE, help="of the recipe (default %(default)s)")
    parser.add_argument("--images", type=int, default=8, help="sampled at once (default %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler (default %(default)s)")
    parser.add_argument("--gin_bindings", nargs="+", default=[], help="of the recipe")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--sample", action="store_true", help="only sample: the process that is measured")
    arguments = parser.parse_args()
    import_tensorflow()
    if arguments.sample:
        sample(arguments)
        return
    foretold, figures = foretell(arguments)
    peak, seconds = measure()
    figures |= {"peak_bytes": peak, "seconds": seconds, "ratio_to_foretold": peak / foretold}
    say(f"{arguments.stage}: {arguments.images} images, {arguments.steps} steps, {seconds:.0f} s")
    say(f"peak {peak / 1e9:.2f} GB, foretold {foretold / 1e9:.2f} GB: {peak / foretold:.2f} of it")
    if arguments.json:
        write_figures(arguments.json, "sampling memory", {arguments.stage: figures})


def bindings(arguments: argparse.Namespace) -> list[str]:
    """Of the recipe, with the sampler that is asked for."""
    stage, batch = arguments.stage, f"SampleSet.batch = {arguments.images}"
    if arguments.gin_bindings:
        return [batch, *arguments.gin_bindings]
    sampler = [f"{stage}/Stage.sampler = @DDIMSampler()", f"{stage}/DDIMSampler.clipping = @StaticClipping()"]
    return [batch, *sampler, f"{stage}/DDIMSampler.steps = {arguments.steps}"]


def foretell(arguments: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """What describe says: the bytes, and their parts."""
    from zoo import describe, recipe

    pipeline = recipe.load(arguments.recipe, bindings(arguments)).build()
    described = next(s for s in describe.describe(pipeline)["stages"] if s["name"] == arguments.stage)
    parts = {f"foretold_{name}_bytes": value for name, value in described["sampling_memory"].items()}
    return described["sampling_memory_bytes"], {"foretold_bytes": described["sampling_memory_bytes"], **parts}


def measure() -> tuple[int, float]:
    """Peak bytes and seconds of the same command with --sample."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *sys.argv, "--sample"])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"sampling ended with exit code {process.returncode}")
    return used.ru_maxrss * 1024, time.perf_counter() - began


def sample(arguments: argparse.Namespace) -> None:
    """Builds the network of a stage, and samples from it."""
    import numpy as np

    from zoo import recipe
    from zoo.pipeline import Stage
    from zoo.sampling import Guide, StageSampler
    from zoo.training import randomness

    pipeline = recipe.load(arguments.recipe, bindings(arguments)).build()
    stage = pipeline.stage(arguments.stage)
    assert isinstance(stage, Stage)
    asked = stage.classifier
    guide = None if asked is None else Guide(asked.build_network(seed=0), asked.process)
    network, indices = stage.build_network(seed=0), np.arange(arguments.images)
    sampler = StageSampler(stage, network, arguments.images, guide)
    sampler.walks = [min(arguments.steps, sampler.process.steps) - 1]
    given: dict[str, np.ndarray] = {}
    if stage.low_resolution is not None:
        side = stage.images.low_resolution
        shape = (arguments.images, side, side, stage.images.channels)
        given = {"low_resolution": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
        if not stage.origin.chained:
            given = stage.low_resolution_images(indices, None, pipeline.samples.shard)
    if stage.labelled and "label" not in given:
        classes = stage.network.classes if asked is None else asked.classes
        given["label"] = pipeline.samples.labels(indices, classes, 0)
    weights = [variable.value for variable in network.trainable_variables]
    images = sampler.sample(randomness.key(0, "benchmark"), indices, given, weights)
    say(f"sampled {images.shape}, from {images.min():.2f} to {images.max():.2f}")


if __name__ == "__main__":
    main()
