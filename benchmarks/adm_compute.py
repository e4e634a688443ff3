"""Throughput and training compute of ADM (tables 7 and 10): published beside what the recipes of the rows take here.

    python benchmarks/adm_compute.py [--measure] [--json FILE]

Theoretical rows are counted: 120 TFLOP/s over three forward passes an image, as the paper does. V100-days are foretold
as `--do describe --device v100-32` does, in half precision, for the steps of each row. --measure trains the naive and
optimised rows for some steps at their batch on the one accelerator here.
"""

import argparse
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from yardsticks import write_figures

from zoo.console import UserError, import_tensorflow, say

import_tensorflow()

import tensorflow as tf

from harness.published import Row, load_papers
from zoo import budget, cost, devices, measure, recipe, symbolic
from zoo.learner import Learner
from zoo.pipeline import Pipeline
from zoo.registry import PROJECT
from zoo.training.checkpoints import of_stage

PAPERS_PEAK = 120e12  # FLOP/s of a V100, table 7
V100, POLICY = "v100-32", devices.FLOAT16
DAY = 86400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="also train, on the accelerator here")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.measure and not tf.config.list_physical_devices("GPU"):
        raise UserError("--measure needs an accelerator: the rows are of a V100, and a processor takes hours a step")
    tables = {table.id: table for paper in load_papers() if paper.name == "adm" for table in paper.tables}
    figures: dict[str, Mapping[str, float]] = {}
    for row in tables["adm/7"].rows:
        found = throughput(row, arguments.measure)
        if found:
            figures[f"{row.content['group']}, {row.label.lower()}"] = found
            say(f"{row.id}: {found['images_per_second']:.1f} images/s, published {row.values['throughput']}")
    for row in tables["adm/10"].rows:
        if row.ours:
            figures[row.id] = compute(row)
            shown = (f"{key.replace('_', ' ')} {value:.3g}" for key, value in figures[row.id].items())
            say(f"{row.id}: {', '.join(shown)}")
    if arguments.json:
        write_figures(arguments.json, "ADM's compute", figures)


def pipeline_of(row: Row) -> Pipeline:
    return recipe.load(PROJECT / row.content["recipe"], row.content.get("bindings") or ()).build()


@cache
def counted(name: str, stage: str) -> int:
    """FLOPs of a forward pass; the bindings of rows do not change it."""
    return cost.measure(symbolic.build(recipe.load(PROJECT / name).build().stage(stage))).flops


def throughput(row: Row, measured: bool) -> dict[str, float]:
    """Images per second of one device, beside the published number; empty of what is not measured."""
    stage = pipeline_of(row).last
    flops = budget.TRAINING_PASSES * counted(row.content["recipe"], stage.name)
    if row.settings["implementation"] == "theoretical":
        found = {"images_per_second": PAPERS_PEAK / flops}
    elif measured:
        batch = stage.training.batch
        one = measure.measure_stage(stage, tf.distribute.OneDeviceStrategy("GPU:0"), batch, 1, batch, measure.LIMIT)
        device, _ = devices.here()
        rate = one.images_per_second * flops
        found = {"images_per_second": one.images_per_second, "fraction_of_peak": rate / device.peak[POLICY]}
    else:
        return {}
    return {**found, "ratio_to_published": found["images_per_second"] / row.values["throughput"]}


def compute(row: Row) -> dict[str, float]:
    """V100-days of a row's trainings, beside the published ones."""
    device = devices.find(V100)
    days = {"generator": 0.0, "classifier": 0.0}
    pipeline = pipeline_of(row)
    for stage in pipeline.stages:
        flops = counted(row.content["recipe"], stage.name)
        images = trained(row, stage) * stage.training.batch
        kind = "generator" if stage in pipeline.cascade else "classifier"
        days[kind] += budget.TRAINING_PASSES * flops * images / device.rate(POLICY) / DAY
    found: dict[str, float] = {}
    for kind, foretold in days.items():
        printed: Any = row.values[f"compute_{kind}"]
        if printed:
            found |= {f"{kind}_v100_days": foretold, f"{kind}_ratio_to_published": foretold / printed}
    return found


def trained(row: Row, stage: Learner) -> int:
    """The steps of a stage behind a row: those of its checkpoint, where it names one."""
    step = of_stage(str(row.content.get("checkpoint") or "last"), stage.name)
    return stage.training.steps if step == "last" else int(step)


if __name__ == "__main__":
    main()
