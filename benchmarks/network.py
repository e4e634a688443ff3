"""Speed of a recipe's network on either backend: forward pass, training step and sampling.

    python benchmarks/network.py --recipe recipes/quickstart.gin [--stage base] [--batch 16]
    KERAS_BACKEND=jax python benchmarks/network.py --recipe R --precision bfloat16 --recompute --json FILE

Needs Keras, NumPy, Gin, PyYAML and the backend alone: with JAX no TensorFlow, and no installation of the project.
Achieved FLOP/s count matrix products and convolutions, a training step as three forward passes (what recomputation
repeats is not counted); they are set beside the rate of a matrix product of the same precision, measured before,
between and after, because a shared machine changes under the measurement. The first call of each compiles: it is not
counted.
"""

import abc
import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from zoo.console import UserError, command, import_tensorflow, say

if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    import_tensorflow()

import keras
import numpy as np
from keras import ops
from yardsticks import write_figures

from zoo import recipe_parts
from zoo.recipe_parts import StageParts

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
LEARNING_RATE, DECAY = 1e-4, 0.9999
Batch = dict[str, np.ndarray]
Draws = dict[str, tuple[str, tuple[int, ...]]]


class Backend(abc.ABC):
    """What Keras has no word for."""

    @property
    @abc.abstractmethod
    def device(self) -> str:
        """What it runs on."""

    @abc.abstractmethod
    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as one compiled call."""

    @abc.abstractmethod
    def draw(self, step: Any, draws: Draws) -> dict[str, Any]:
        """Random arrays, inside a compiled function."""

    @abc.abstractmethod
    def recompute(self, function: Callable[..., Any], *tensors: Any) -> Any:
        """For `UNet.recompute`."""

    @abc.abstractmethod
    def training_step(self, stage: StageParts, network: keras.Model, batch: Batch) -> Callable[[int], Any]:
        """Step number -> loss: gradient, clipping where the recipe clips, Adam and moving average."""

    @abc.abstractmethod
    def flops(self, stage: StageParts) -> int:
        """Of a forward pass on one image; the network may be spoilt by it."""


class TensorFlow(Backend):
    """On one device, in one graph."""

    @property
    def device(self) -> str:
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(found[0])["device_name"] if found else "CPU"

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import tensorflow as tf

        return tf.function(function)

    def draw(self, step: Any, draws: Draws) -> dict[str, Any]:
        import tensorflow as tf

        from zoo.training import randomness

        return randomness.draw(randomness.fold(randomness.key(0, "benchmark"), tf.convert_to_tensor(step)), draws)

    def recompute(self, function: Callable[..., Any], *tensors: Any) -> Any:
        from zoo.training.gradients import recompute

        return recompute(function, *tensors)

    def training_step(self, stage: StageParts, network: keras.Model, batch: Batch) -> Callable[[int], Any]:
        import tensorflow as tf

        from zoo.training.optimizers import Adam, average

        weights = [variable.value for variable in network.trainable_variables]
        averages = [tf.Variable(weight) for weight in weights]
        optimizer = Adam(LEARNING_RATE)
        slots = optimizer.slots(weights)
        shapes = {name: value.shape for name, value in batch.items()}

        @tf.function
        def step(number: tf.Tensor) -> tf.Tensor:
            random = self.draw(number, stage.randomness(shapes))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                loss = tf.reduce_mean(stage.training_loss(network, batch, random, tf.stack([1, number])))
            gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
            if stage.training.clip is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, stage.training.clip)
            optimizer.apply(weights, slots, gradients, tf.cast(number, tf.int64))
            average(averages, weights, DECAY, tf.cast(number, tf.int64))
            return loss

        return lambda number: step(tf.constant(number))

    def flops(self, stage: StageParts) -> int:
        from zoo import cost, symbolic

        return cost.measure(symbolic.build(stage)).flops


class JAX(Backend):
    """On the first device, compiled by XLA."""

    @property
    def device(self) -> str:
        import jax

        return jax.devices()[0].device_kind

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        return jax.jit(function)

    def draw(self, step: Any, draws: Draws) -> dict[str, Any]:
        import jax

        from zoo.training import jax_training

        return jax_training.draw(jax.random.fold_in(jax.random.key(0), step), draws)

    def recompute(self, function: Callable[..., Any], *tensors: Any) -> Any:
        from zoo.training.jax_training import recompute

        return recompute(function, *tensors)

    def training_step(self, stage: StageParts, network: keras.Model, batch: Batch) -> Callable[[int], Any]:
        from zoo.training.jax_training import Settings, ShardedTraining, Sharding

        settings = Settings(LEARNING_RATE, clip=stage.training.clip, ema=DECAY)
        training = ShardedTraining(stage, network, settings, 0, Sharding(keras.distribution.list_devices()[:1]))
        return lambda number: training.step(batch).loss

    def flops(self, stage: StageParts) -> int:
        import jax

        network = stage.build_network(0)
        weights = [jax.ShapeDtypeStruct(variable.shape, variable.dtype) for variable in network.trainable_variables]
        inputs = {name: jax.ShapeDtypeStruct(*what) for name, what in stage.input_spec(1).items()}
        return _flops(jax.make_jaxpr(lambda *given: network.stateless_call(given[0], [], given[1])[0])(weights, inputs))


def _flops(program: Any) -> int:
    """2 x multiply-adds of the matrix products and convolutions of a traced function, and of those it calls."""
    total = 0
    for equation in getattr(program, "jaxpr", program).eqns:
        shapes, out = [value.aval.shape for value in equation.invars], equation.outvars[0].aval.shape
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * math.prod(out) * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * math.prod(out) * math.prod(shapes[1]) // shapes[1][out_axis]
        inner = [value for value in equation.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
        total += sum(_flops(value) for value in inner)
    return total


BACKENDS: dict[str, type[Backend]] = {"tensorflow": TensorFlow, "jax": JAX}


@dataclass(frozen=True)
class Measured:
    """Seconds of a call: the first, which compiles, and the median, best and worst of the others.

    `processor` is the median time of all processor cores together, which other people's work changes least.
    """

    first: float
    median: float
    best: float
    worst: float
    processor: float


def timed(function: Callable[[int], Any], repeats: int) -> Measured:
    """Times function(0), function(1), ..., each of which gives a number to wait for."""
    seconds, work = [], []
    for number in range(repeats + 1):
        began, busy = time.perf_counter(), time.process_time()
        float(function(number))
        seconds.append(time.perf_counter() - began)
        work.append(time.process_time() - busy)
    first, rest = seconds[0], seconds[1:]
    return Measured(first, float(np.median(rest)), min(rest), max(rest), float(np.median(work[1:])))


class MatrixRate:
    """FLOP/s of a matrix product on this device: a median over the whole run."""

    def __init__(self, backend: Backend, dtype: str, size: int) -> None:
        self.size, self.rates = size, []
        matrix = ops.cast(np.random.default_rng(0).standard_normal((size, size)).astype("float32"), dtype)
        product = backend.compile(lambda a: ops.sum(ops.matmul(a, a)[0]))
        self._product = lambda number: product(matrix)

    def measure(self) -> None:
        self.rates.append(2 * self.size**3 / timed(self._product, 5).median)

    @property
    def median(self) -> float:
        return float(np.median(self.rates))


def example(stage: StageParts, batch: int) -> Batch:
    """A batch of noise, with labels where the stage has them."""
    generator = np.random.default_rng(0)
    shapes = stage.image_shapes(batch)
    images = {name: np.tanh(generator.standard_normal(shape)).astype("float32") for name, shape in shapes.items()}
    labels = {"label": np.arange(batch, dtype="int32") % stage.network.classes} if stage.network.classes else {}
    return images | labels


def forward(backend: Backend, stage: StageParts, network: keras.Model, batch: int) -> Callable[[int], Any]:
    """A forward pass without dropout."""
    spec = stage.input_spec(batch)
    inputs = {name: np.ones(shape, dtype) for name, (shape, dtype) in spec.items()}
    weights = [variable.value for variable in network.trainable_variables]
    # weights are arguments: JAX would compile a closed-over one in as a constant
    compiled = backend.compile(lambda values: ops.sum(network.stateless_call(values, [], inputs)[0]))
    return lambda number: compiled(weights)


def sampling(backend: Backend, stage: StageParts, network: keras.Model, batch: int) -> Callable[[int], Any]:
    """One reverse step of the recipe's sampler, network included, from one step to the next."""
    process = stage.sampler.plan(stage.objective.process)
    given = example(stage, batch)
    shapes = {name: value.shape for name, value in given.items()}
    weights = [variable.value for variable in network.trainable_variables]

    def reverse(values: Any, z: Any, memory: Any, index: Any) -> tuple[Any, Any, Any]:
        steps = ops.broadcast_to(index, (batch,))
        level = process.level(steps)
        random = backend.draw(index, {"noise": ("normal", z.shape), **stage.conditioning_draws(shapes)})
        inputs = stage.sampling_inputs(given, random) | level.inputs | {"image": z}
        output, _ = network.stateless_call(values, [], inputs)
        prediction = stage.sampler.predict(stage.objective, ops.cast(output, z.dtype), z, level, process)
        z, memory = stage.sampler.advance(prediction, z, steps, random["noise"], process, memory)
        return z, memory, ops.sum(z)

    compiled = backend.compile(reverse)
    start = ops.convert_to_tensor(given["image"])
    state = {"z": start, "memory": stage.sampler.start(start)}

    def step(number: int) -> Any:
        index = ops.convert_to_tensor(np.int32(process.steps - 1 - number % process.steps))
        state["z"], state["memory"], total = compiled(weights, state["z"], state["memory"], index)
        return total

    return step


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, by name."""
    backend = BACKENDS[keras.backend.backend()]()
    flops = backend.flops(choose(arguments))
    stage = choose(arguments)
    network = stage.build_network(0, POLICIES[arguments.precision], backend.recompute if arguments.recompute else None)
    batch = arguments.batch
    rate = MatrixRate(
        backend, arguments.precision, arguments.matrix or (2048 if "cpu" in backend.device.lower() else 8192)
    )
    works = {
        "forward": (forward(backend, stage, network, batch), 1),
        "sampling step": (sampling(backend, stage, network, batch), 1),
        "training step": (backend.training_step(stage, network, example(stage, batch)), 3),
    }
    rate.measure()
    seconds = {}
    for name, (function, _) in works.items():
        seconds[name] = timed(function, arguments.steps)
        rate.measure()
    evaluations = batch / seconds["sampling step"].median
    return {
        "recipe": str(arguments.recipe),
        "stage": stage.name,
        "backend": keras.backend.backend(),
        "device": backend.device,
        "precision": arguments.precision,
        "recompute": arguments.recompute,
        "batch": batch,
        "parameters": sum(math.prod(variable.shape) for variable in network.trainable_variables),
        "forward_flops_per_image": flops,
        "matrix_product_flops": rate.median,
        "seconds": {name: vars(value) for name, value in seconds.items()},
        "fraction_of_matrix_product": {
            name: passes * flops * batch / seconds[name].median / rate.median for name, (_, passes) in works.items()
        },
        "training_images_per_second": batch / seconds["training step"].median,
        "network_evaluations_per_second": evaluations,
        "sampled_images_per_second": evaluations / stage.sampler.plan(stage.objective.process).steps,
    }


def choose(arguments: argparse.Namespace) -> StageParts:
    """The stage that was asked for, or the first."""
    stages = {stage.name: stage for stage in recipe_parts.load(arguments.recipe, arguments.gin_bindings)}
    name = arguments.stage or next(iter(stages))
    if name not in stages:
        raise UserError(f"--stage must be one of {', '.join(stages)}, got '{name}'")
    return stages[name]


def report(figures: dict[str, Any]) -> None:
    say(
        f"{figures['recipe']}, {figures['stage']}: {figures['parameters']:,} parameters, "
        f"{figures['forward_flops_per_image'] / 1e9:.2f} GFLOP an image forward"
    )
    say(
        f"{figures['backend']} on {figures['device']}, {figures['precision']}, batch {figures['batch']}"
        + (", blocks recomputed" if figures["recompute"] else "")
    )
    say(f"matrix product {figures['matrix_product_flops'] / 1e9:,.0f} GFLOP/s")
    for name, value in figures["seconds"].items():
        spread = f"({value['best']:.4f} to {value['worst']:.4f}; first {value['first']:.1f})"
        fraction = figures["fraction_of_matrix_product"][name]
        say(f"{name:14} {value['median']:8.4f} s {spread}  {fraction:.2f} of the matrix product")
    say(
        f"training {figures['training_images_per_second']:,.1f} images/s; sampling "
        f"{figures['network_evaluations_per_second']:,.1f} network evaluations/s, "
        f"{figures['sampled_images_per_second']:,.2f} images/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--stage", help="by name; the first where it is left out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=list(POLICIES), default="float32")
    parser.add_argument("--recompute", action="store_true", help="compute blocks again in the backward pass")
    parser.add_argument("--steps", type=int, default=10, help="calls that are timed")
    parser.add_argument("--matrix", type=int, help="side of the matrices; 2048 on a processor, else 8192")
    parser.add_argument("--gin_bindings", action="append", default=[], help="as of zoo.run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments)
    report(figures)
    if arguments.json is not None:
        write_figures(arguments.json, "network", named(figures))


def named(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures by names that say their units."""
    fractions = figures["fraction_of_matrix_product"]
    return {
        "parameters_count": figures["parameters"],
        "batch_count": figures["batch"],
        "forward_flops_per_image": figures["forward_flops_per_image"],
        "matrix_rate": figures["matrix_product_flops"],
        **{f"{_word(name)}_seconds": value["median"] for name, value in figures["seconds"].items()},
        **{f"{_word(name)}_fraction_of_matrix_rate": value for name, value in fractions.items()},
        "training_images_per_second": figures["training_images_per_second"],
        "evaluations_per_second": figures["network_evaluations_per_second"],
        "sampled_images_per_second": figures["sampled_images_per_second"],
    }


def _word(name: str) -> str:
    return name.replace(" ", "_")


if __name__ == "__main__":
    command(main)
