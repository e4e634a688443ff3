"""Explains a pipeline in numbers before anything is trained: parameters, FLOPs, memory and time of every stage."""

import time
from typing import Any

import tensorflow as tf

from zoo import cost, symbolic
from zoo.pipeline import Pipeline, Stage
from zoo.registry import WIDTH, short_count

FLOAT_BYTES = 4
# Forward, and twice as much backward: the gradients of the inputs and of the weights.
TRAINING_PASSES = 3
# Part of the rate of matrix products that a training step of a U-Net reaches (docs/facts.md).
FRACTION_OF_PEAK = 0.5
LABEL_WIDTH = 24


def describe(pipeline: Pipeline, rate: float | None = None) -> dict[str, Any]:
    """What every stage of a pipeline is and costs, as a JSON-able dictionary.

    The networks are traced without weights, so that they cannot be trained afterwards: build the recipe again.

    Args:
        rate: FLOP/s of float32 matrix products on this machine; measured, in a third of a second, where None.
    """
    rate = measure_rate() if rate is None else rate
    stages = [_stage(stage, rate) for stage in pipeline.stages]
    totals = {key: sum(stage[key] for stage in stages) for key in ("parameters", "training_seconds", "sampling_flops")}
    return {
        "seed": pipeline.seed,
        "stages": stages,
        **totals,
        "machine": {
            "matrix_product_flops_per_second": rate,
            "assumed_fraction_of_it": FRACTION_OF_PEAK,
            "devices": [device.name for device in tf.config.list_logical_devices()],
        },
    }


def measure_rate(side: int = 1536, seconds: float = 0.25) -> float:
    """FLOP/s of a float32 matrix product through TensorFlow: the yardstick of this machine, the best of its repeats."""
    matrix = tf.random.stateless_uniform([side, side], seed=[0, 0])
    # The first product also starts the threads.
    tf.linalg.matmul(matrix, matrix).numpy()
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds or not best:
        before = time.perf_counter()
        tf.linalg.matmul(matrix, matrix)[0, 0].numpy()
        best = max(best, 2 * side**3 / (time.perf_counter() - before))
    return best


def _stage(stage: Stage, rate: float) -> dict[str, Any]:
    traced = symbolic.build(stage)
    costs = cost.measure(traced)
    training = stage.training
    images = training.batch * training.steps
    micro_batch = -(-training.batch // training.micro_batches)
    # One slot of the optimizer tells how many it keeps for each weight.
    slots = len(training.optimizer.slots([tf.Variable([0.0])]))
    weights = traced.parameters + (2 + slots) * traced.trainable
    memory = FLOAT_BYTES * weights + costs.activation_bytes * micro_batch
    training_flops = TRAINING_PASSES * costs.flops * images
    return {
        "name": stage.name,
        "size": stage.size,
        "low_resolution": stage.images.low_resolution,
        "network": _kind(stage.network),
        "parameters": traced.parameters,
        "flops": costs.flops,
        "activation_bytes": costs.activation_bytes,
        "memory_bytes": memory,
        "batch": training.batch,
        "micro_batch": micro_batch,
        "steps": training.steps,
        "images": images,
        "evaluations": stage.sampler_steps,
        "sampling_flops": costs.flops * stage.sampler_steps,
        "training_flops": training_flops,
        "training_seconds": training_flops / (FRACTION_OF_PEAK * rate),
        "parts": _parts(stage),
    }


def _parts(stage: Stage) -> dict[str, str | None]:
    """The names of the components that make up the method, None where a part is left out."""
    objective = stage.objective
    augmentations = [getattr(part, "augmentation", None) for part in stage.conditioning]
    return {
        "process": _kind(objective.process),
        "schedule": _kind(objective.process.schedule),
        "target": _kind(objective.target),
        "variance": _kind(objective.variance),
        "loss": _kind(objective.loss),
        "conditioning": ", ".join(_kind(part) for part in stage.conditioning) or None,
        "augmentation": ", ".join(_kind(part) for part in augmentations if part is not None) or None,
        "optimizer": _kind(stage.training.optimizer),
        "sampler": _kind(stage.sampler),
        "source": stage.images.source.name,
    }


def _kind(part: Any) -> str:
    return type(part).__name__


def render(description: dict[str, Any]) -> str:
    """The description as text of at most 80 columns."""
    lines: list[str] = []
    for stage in description["stages"]:
        lines += [*_render_stage(stage), ""]
    machine = description["machine"]
    total = short_count(description["parameters"])
    lines.append(_line("all stages", f"{total} parameters, {_flops(description['sampling_flops'])} a sample"))
    lines.append(_line("training, here", f"{duration(description['training_seconds'])}, one stage after the other"))
    peak = machine["matrix_product_flops_per_second"] / 1e9
    lines.append(_line("this machine", f"{peak:.0f} GFLOP/s in float32 matrix products;"))
    lines.append(_line("", f"training is assumed to reach {machine['assumed_fraction_of_it']:.0%} of that"))
    return "\n".join(lines)


def _render_stage(stage: dict[str, Any]) -> list[str]:
    size, low = stage["size"], stage["low_resolution"]
    enlarges = f"{low}x{low} -> " if low else ""
    parts = stage["parts"]
    rows = [
        ("network", f"{stage['network']}, {stage['parameters']:,} parameters"),
        ("forward pass", f"{_flops(stage['flops'])} an image"),
        ("activations", f"{_bytes(stage['activation_bytes'])} an image in training"),
        ("memory a replica", f"{_bytes(stage['memory_bytes'])} in training, {stage['micro_batch']} images at once"),
        ("trained on", f"{short_count(stage['images'])} images: {stage['steps']:,} steps of {stage['batch']:,}"),
        ("training, here", f"{duration(stage['training_seconds'])}, {_flops(stage['training_flops'])}"),
        ("sampling", f"{stage['evaluations']:,} evaluations, {_flops(stage['sampling_flops'])} an image"),
        ("process", f"{parts['process']}, {parts['schedule']}"),
        ("predicts", f"{parts['target']}, {parts['variance']}, {parts['loss']}"),
        ("conditioned on", parts["conditioning"] or "nothing"),
        *([("augmentation", parts["augmentation"] or "none")] if low else []),
        ("optimizer, sampler", f"{parts['optimizer']}, {parts['sampler']}"),
    ]
    return [f"{stage['name']}  {enlarges}{size}x{size}, {parts['source']}", *(_line(*row) for row in rows)]


def _line(label: str, value: str) -> str:
    text = f"    {label:<{LABEL_WIDTH - 4}}{value}"
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _flops(count: float) -> str:
    return _scaled(count, "FLOP")


def _bytes(count: float) -> str:
    return _scaled(count, "B")


def _scaled(count: float, unit: str) -> str:
    """Three digits with a decimal prefix: 3.64 GFLOP."""
    for size, prefix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 7.5 h, 3.2 days, 1.4 years."""
    for size, unit in ((365 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            count = seconds / size
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    return f"{seconds:.3g} s"
