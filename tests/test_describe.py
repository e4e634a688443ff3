"""Costs of networks, counted by hand, what they take of devices, and the description of a pipeline."""

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import budget, cost, describe, description_text, devices, liveness, recipe, sampling_budget, symbolic
from zoo.console import UserError
from zoo.measure import Measurement
from zoo.pipeline import Pipeline


class Network(keras.Model):
    """A convolution, a matrix product over channels, attention without projections, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = keras.layers.Conv2D(8, 3, padding="same")
        self.dense = keras.layers.Dense(3)
        self.dropout = keras.layers.Dropout(0.5)

    def call(self, inputs: dict[str, Any]) -> Any:
        x = self.dropout(keras.ops.silu(self.convolution(inputs["image"])))
        batch, height, width, channels = x.shape
        flat = keras.ops.reshape(x, (batch, height * width, channels))
        weights = keras.ops.softmax(keras.ops.matmul(flat, keras.ops.transpose(flat, (0, 2, 1))))
        x = keras.ops.reshape(keras.ops.matmul(weights, flat), (batch, height, width, channels))
        return self.dense(x)


class Blocks(keras.Model):
    """A convolution to 8 channels, two blocks of two convolutions with a SiLU between them, and one to 3 channels."""

    recompute: Callable[..., Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 8, 32, 8, 3)
        self.convolutions = [keras.layers.Conv2D(width, 3, padding="same") for width in widths]

    def call(self, inputs: dict[str, Any]) -> Any:
        first, *inner, last = self.convolutions
        x = first(inputs["image"])
        for one, two in (inner[:2], inner[2:]):
            x = self.block(lambda y, one=one, two=two: two(keras.ops.silu(one(y))), x)
        return last(x)

    def block(self, function: Callable[..., Any], x: Any) -> Any:
        return function(x) if self.recompute is None else self.recompute(function, x)


class Optimizer:
    def slots(self, variables: list[tf.Variable]) -> dict[str, list[tf.Variable]]:
        return {"first": variables, "second": variables}


def stage(network: keras.Model | None = None, size: int = 4, channels: int = 3) -> Any:
    part = SimpleNamespace
    return part(
        name="base",
        size=size,
        network=network or Network(),
        images=part(low_resolution=None, shape=(size, size, channels), source=part(name="shapes")),
        training=part(
            batch=64,
            micro_batches=4,
            steps=1000,
            optimizer=Optimizer(),
            decays=(0.999, 0.9),
            precision=part(policy="float32"),
            recomputation=None,
        ),
        objective=part(process=part(schedule=part()), target=part(), variance=part(), loss=part()),
        conditioning=(),
        sampler=part(guidance=None),
        sampler_steps=50,
        classifier=None,
        teacher=None,
        asked_passes=0,
        input_spec=lambda batch: {"image": ((batch, size, size, 3), "float32"), "time": ((batch,), "float32")},
        output_shape=lambda batch: (batch, size, size, channels),
        randomness=lambda shapes: {"noise": ("normal", shapes["image"]), "level": ("uniform", (1, 2))},
    )


def pipeline(one: Any) -> Any:
    return SimpleNamespace(
        stages=[one], makers=[one], seed=3, samples=SimpleNamespace(count=200, batch=8), machines=None
    )


def everything(graph: tf.Graph) -> Any:
    """In place of `symbolic._seen_before`: all is traced."""
    return contextlib.nullcontext()


def tiny_cascade() -> Pipeline:
    return recipe.load("tests/recipes/tiny.gin").build()


# ------------------------------------------------------------------ costs

# Image 4x4: convolution 3x3 from 3 to 8 channels, two products of 16 x 16 x 8, dense from 8 to 3.
FLOPS = 2 * (16 * 9 * 3 * 8 + 2 * 16 * 16 * 8 + 16 * 8 * 3)
PARAMETERS = 9 * 3 * 8 + 8 + 8 * 3 + 3
# Numbers: image, argument of SiLU, factors of both products (once), softmax, input of the last layer.
SOFTMAX = 16 * 16
KEPT = 16 * 3 + 16 * 8 + 16 * 8 + 16 * 8 + SOFTMAX + 16 * 8


@pytest.mark.parametrize("batch", [1, 5])
def test_costs_are_those_counted_by_hand(batch: int):
    traced = symbolic.build(stage(), batch)
    assert traced.parameters == traced.trainable == PARAMETERS
    assert traced.largest_weight == 9 * 3 * 8
    found = cost.measure(traced)
    assert found.flops == FLOPS
    # The scale of SiLU is an argument of it too: one number.
    assert found.single.kept == pytest.approx(4 * KEPT, abs=4)
    # The softmax stays in float32, and is a factor of a product in half precision.
    assert found.half.kept == pytest.approx(2 * KEPT + 4 * SOFTMAX, abs=4)
    assert found.activation_bytes == found.single.kept


@pytest.mark.parametrize(
    ("equation", "shapes", "products"),
    [
        ("bqc,bkc->bqk", [(2, 5, 3), (2, 7, 3)], 2 * 5 * 7 * 3),
        ("...ij,jk->...ik", [(2, 4, 5, 3), (3, 6)], 2 * 4 * 5 * 3 * 6),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], products: int):
    graph = tf.Graph()
    with graph.as_default():
        inputs = [tf.compat.v1.placeholder(tf.float32, shape) for shape in shapes]
        tf.raw_ops.Einsum(inputs=inputs, equation=equation)
    assert cost.measure(symbolic.Traced(0, 0, graph, 1)).flops == 2 * products


def test_recomputation_keeps_the_inputs_of_blocks():
    one = stage(Blocks())
    traced = symbolic.build(one)
    found = cost.measure(traced)
    assert len(traced.blocks) == 2
    assert one.network.recompute is None
    outside = 9 * 16 * 2 * (3 * 8 + 8 * 3)
    assert (found.flops, found.block_flops) == (outside + 9 * 16 * 2 * 2 * 8 * (16 + 32), found.flops - outside)
    # Image, inputs of the blocks and of the last convolution; in a block the argument and the result of SiLU.
    between = 4 * 16 * (3 + 8 + 8 + 8)
    assert found.single.kept == pytest.approx(between + 4 * 16 * 2 * (16 + 32), abs=12)
    assert found.single.kept_between == pytest.approx(between, abs=12)
    assert found.single.largest_block == pytest.approx(4 * 16 * 2 * 32, abs=12)
    assert found.single.total(recompute=True) < found.single.total(recompute=False)


def test_a_forward_pass_frees_what_nothing_reads_any_more():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (1, 8), name="image")
        weight = tf.compat.v1.placeholder(tf.float32, (8, 16), name=symbolic.WEIGHT)
        seed = tf.compat.v1.placeholder(tf.int32, (2,), name=symbolic.SEED)
        mask = tf.random.stateless_uniform((1, 1000), seed)  # of dropout, which sampling has not
        y = tf.nn.relu(tf.reshape(tf.matmul(x, weight), (1, 4, 4)))  # written over the product
        wide = tf.concat([y, y, y], axis=1)
        tf.reduce_sum(tf.tanh(wide)) + tf.reduce_sum(mask)
    # the worst moment is the concatenation: 16 numbers, and 48 made of them
    assert liveness.peak(graph.get_operations(), half=False) == 4 * 64
    assert liveness.peak(graph.get_operations(), half=True) == 2 * 64


def test_a_gradient_written_by_hand_keeps_its_arguments():
    @tf.custom_gradient
    def function(x: Any, y: Any) -> Any:
        return tf.exp(tf.square(x) * y), lambda gradient: (gradient, gradient)

    graph = tf.Graph()
    with graph.as_default():
        x, y = (tf.compat.v1.placeholder(tf.float32, (1, size)) for size in (10, 1))
        tf.add(function(x, y), 1.0)
    assert cost.measure(symbolic.Traced(0, 0, graph, 1)).single.kept == 4 * 11


@pytest.mark.parametrize("name", ["base", "sr"])
def test_what_was_seen_before_costs_the_same(name: str, monkeypatch: pytest.MonkeyPatch):
    short = symbolic.build(tiny_cascade().stage(name))
    monkeypatch.setattr(symbolic, "_seen_before", everything)
    whole = symbolic.build(tiny_cascade().stage(name))
    assert len(short.graph.get_operations()) < 0.75 * len(whole.graph.get_operations())
    assert cost.measure(short) == cost.measure(whole)
    assert short.parameters == whole.parameters


def test_functions_with_products_or_of_another_shape_are_always_traced():
    def product(x: Any) -> Any:
        return keras.ops.matmul(x, x), lambda gradient: gradient

    def wider(x: Any) -> Any:
        return keras.ops.concatenate([x, x]), lambda gradient: gradient

    graph = tf.Graph()
    with graph.as_default(), symbolic._seen_before(graph):
        x = tf.compat.v1.placeholder(tf.float32, (4, 4))
        for function in (product, product, wider, wider):
            keras.ops.custom_gradient(function)(x)
    types = [operation.type for operation in graph.get_operations()]
    assert (types.count("MatMul"), types.count("ConcatV2")) == (2, 2)


@pytest.mark.parametrize("name", ["base", "sr"])
def test_activations_are_those_that_tensorflow_reads(name: str, monkeypatch: pytest.MonkeyPatch):
    """Of a whole U-Net, the tensors of the forward pass that the graph of its gradients uses."""
    monkeypatch.setattr(symbolic, "_seen_before", everything)
    traced = symbolic.build(tiny_cascade().stage(name))
    predicted = cost.measure(traced).single.kept
    forward = traced.graph.get_operations()
    weights = [x.outputs[0] for x in forward if x.name.rpartition("/")[2].startswith(symbolic.WEIGHT)]
    with traced.graph.as_default():
        tf.gradients(tf.reduce_sum(forward[-1].outputs[0]), weights)
    names, moving = {operation.name for operation in forward}, liveness.dependent(forward)
    used = [x for later in traced.graph.get_operations()[len(forward) :] for x in later.inputs if x.op.name in names]
    kept = {source.name: source for source in map(liveness.memory_of, used) if source.name in moving}
    size = sum(math.prod(tensor.shape) * tensor.dtype.size for tensor in kept.values())
    assert predicted == pytest.approx(size, rel=0.1)


def test_weights_are_not_allocated():
    """A layer of a terabyte is traced; its variable has no value."""
    big = stage()
    big.network = keras.Sequential(
        [keras.layers.Dense(2**20, name="wide"), keras.layers.Dense(2**20), keras.layers.Dense(3)]
    )
    network = big.network
    big.network = type("Wrapper", (keras.Model,), {"call": lambda self, inputs: network(inputs["image"])})()
    symbolic.build(big)
    assert sum(weight.shape[0] for weight in network.weights if len(weight.shape) == 2) == 3 + 2**20 + 2**20


def test_a_wrong_output_is_refused():
    with pytest.raises(UserError, match=r"returns \[1, 4, 4, 3\], but \[1, 4, 4, 6\] is needed"):
        symbolic.build(stage(channels=6))


def test_a_traced_network_leaves_nothing_behind():
    """Keras would give the traced weights their values when the next network is built."""
    one = tiny_cascade().stages[0]
    symbolic.build(one)
    traced = one.network.trainable_variables
    later = tiny_cascade().stages[0]
    later.build_network(0)
    assert all(variable._value is None for variable in traced)
    assert later.network.count_params() == sum(int(np.prod(variable.shape)) for variable in traced)


# ------------------------------------------------------------------ devices


def test_an_unknown_device_names_the_nearest_and_all():
    with pytest.raises(UserError, match=r"one of v100-16, .*, tpu-v4, got 'a100-8'; did you mean 'a100-80'\?"):
        devices.find("a100-8")
    assert devices.find("H100").title == "NVIDIA H100 80 GB"


def test_what_devices_lack():
    volta, tpu = devices.find("v100-32"), devices.find("tpu-v3")
    assert (volta.half, tpu.half) == ("mixed_float16", "mixed_bfloat16")
    assert tpu.peak["float32"] == tpu.peak["mixed_bfloat16"]
    with pytest.raises(UserError, match="NVIDIA V100 32 GB does not compute in mixed_bfloat16; it has float32"):
        volta.rate("mixed_bfloat16")


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("Tesla V100-SXM2-32GB", "v100-32"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_names_of_drivers(driver: str, name: str | None):
    found = devices._listed(driver)
    assert (found and found.name) == name


def test_rate_is_measured():
    assert 1e8 < devices.measure_rate(side=256, seconds=0.02) < 1e15


# ------------------------------------------------------------------ memory, time and what would make it fit

MEGABYTE = 10**6
COST = cost.Cost(
    flops=10**9,
    block_flops=8 * 10**8,
    single=cost.Activations(100 * MEGABYTE, 4 * MEGABYTE, 20 * MEGABYTE, 10 * MEGABYTE, 5 * MEGABYTE),
    half=cost.Activations(60 * MEGABYTE, 3 * MEGABYTE, 10 * MEGABYTE, 6 * MEGABYTE, 3 * MEGABYTE),
)
WORK = budget.Work(
    parameters=10 * MEGABYTE,
    trainable=10 * MEGABYTE,
    largest_weight=MEGABYTE,
    slots=2,
    averages=1,
    batch=64,
    input_bytes=1000,
    cost=COST,
    has_blocks=True,
)


def device(megabytes: float, **changes: Any) -> devices.Device:
    """One that has so much for a training step."""
    return replace(devices.find("tpu-v4"), memory_bytes=megabytes * MEGABYTE / devices.USABLE, **changes)


def test_memory_by_hand():
    found = budget.memory(WORK, budget.Switches())
    assert found.state == (1 + 1 + 2 + 1) * 40 * MEGABYTE
    assert found.activations == 64 * 104 * MEGABYTE
    assert found.half_weights == 0
    assert found.total == found.state + found.activations + 64_000
    parts = budget.memory(WORK, budget.Switches(micro_batches=16))
    assert parts.activations == 4 * 104 * MEGABYTE
    assert parts.gradients == 2 * 40 * MEGABYTE
    assert budget.memory(WORK, budget.Switches(recompute=True)).activations == 64 * 34 * MEGABYTE
    half = budget.memory(WORK, budget.Switches(policy="mixed_bfloat16"))
    assert (half.activations, half.half_weights) == (64 * 63 * MEGABYTE, 20 * MEGABYTE)
    assert half.state == found.state
    spread = budget.memory(WORK, budget.Switches(replicas=8, sharded=True))
    assert spread.state == found.state / 8
    assert spread.activations == 8 * 104 * MEGABYTE + 2 * 4 * MEGABYTE


def test_memory_of_sampling_by_hand():
    found = sampling_budget.sampling_memory(WORK, budget.Switches(), 8, program=1000.0)
    assert (found.weights, found.guide_weights, found.half_weights) == (40 * MEGABYTE, 0, 0)
    assert (found.activations, found.inputs) == (8 * 5 * MEGABYTE, 8000)
    assert found.total == 80 * MEGABYTE + 9000
    half = sampling_budget.sampling_memory(WORK, budget.Switches(policy="mixed_bfloat16"), 8)
    assert (half.activations, half.half_weights) == (8 * 3 * MEGABYTE, 20 * MEGABYTE)
    # the classifier keeps its activations for the gradient in the image, one network after the other
    classifier = replace(WORK, parameters=MEGABYTE, trainable=MEGABYTE)
    guided = sampling_budget.sampling_memory(WORK, budget.Switches(), 8, classifier)
    assert (guided.guide_weights, guided.activations) == (4 * MEGABYTE, 8 * 104 * MEGABYTE)
    # 1000 - 40 MB for images of 5.001 MB each
    assert sampling_budget.images_that_fit(WORK, budget.Switches(), device(1000), None, 0.0) == 191
    assert sampling_budget.images_that_fit(WORK, budget.Switches(), device(30), None, 0.0) == 0


def test_time_by_hand():
    machine = device(1000, peak={"float32": 1e12, "mixed_bfloat16": 2e12}, bandwidth=None, fraction=0.5)
    assert budget.step_seconds(WORK, budget.Switches(), machine) == pytest.approx(3e9 * 64 / 0.5e12)
    again = budget.Switches(recompute=True, policy="mixed_bfloat16", replicas=2)
    assert budget.step_seconds(WORK, again, machine) == pytest.approx(3.8e9 * 32 / 1e12)
    slow = replace(machine, bandwidth=1e9)
    assert budget.step_seconds(WORK, again, slow) == pytest.approx(3.8e9 * 32 / 1e12 + 2 * 200e6 / 1e9)
    assert budget.sampling_seconds(WORK, budget.Switches(), machine, 10, 50) == pytest.approx(1e9 * 500 / 0.5e12)


def test_replicated_state_of_the_largest_uvit_does_not_fit():
    """Simple diffusion, section 3.3: weights, gradients, two moments and the average of 2.4 billion parameters."""
    count = 2_400_000_000
    work = replace(WORK, parameters=count, trainable=count, largest_weight=10**8, batch=2048)
    chip = devices.find("tpu-v4")
    assert budget.memory(work, budget.Switches(replicas=128)).state == 48e9
    assert chip.memory_bytes == 32 * 2**30
    found = {remedy.name: remedy for remedy in budget.remedies(work, budget.Switches(replicas=128), chip)}
    assert [name for name, remedy in found.items() if remedy.fits] == ["sharded state"]
    assert found["more devices"].problem == "each of them would hold the whole state"
    assert found["half precision"].memory_bytes > 48e9
    sharded = found["sharded state"]
    assert sharded.switches.sharded
    assert sharded.memory_bytes < chip.usable_bytes


def test_every_switch_is_computed():
    """Each suffices with as little as possible, and a fitting one alone."""
    machine = device(1000)
    found = {remedy.name: remedy for remedy in budget.remedies(WORK, budget.Switches(), machine)}
    assert all(remedy.fits for remedy in found.values())
    # 1000 - 240 MB of state leaves 7.3 images of 104 MB, and so 16 parts of 4.
    assert found["micro-batches"].switches == budget.Switches(micro_batches=16)
    # 34 MB an image: 22 images.
    assert found["recomputation"].switches == budget.Switches(micro_batches=4, recompute=True)
    # 19 MB an image, 20 MB of weights in half precision: 38 images.
    assert found["half precision"].switches == budget.Switches(2, "mixed_bfloat16", recompute=True)
    # Alone: 800 MB for 7 images.
    assert found["more devices"].switches == budget.Switches(replicas=16)
    assert found["sharded state"].switches == budget.Switches(replicas=8, sharded=True)
    changes = found["half precision"].switches.bindings(budget.Switches())
    assert changes == [
        "Training.micro_batches = 2",
        "Training.recomputation = @RecomputeBlocks()",
        "Training.precision = @BFloat16()",
    ]


def test_switches_that_cannot_be_had_say_why():
    work, machine = replace(WORK, has_blocks=False, batch=1), device(100, peak={"float32": 1e12})
    found = {remedy.name: remedy for remedy in budget.remedies(work, budget.Switches(), machine)}
    assert found["recomputation"].problem == "this network does not say what its blocks are"
    assert found["half precision"].problem == "TPU v4 chip has none"
    assert found["sharded state"].problem == "a batch of 1 cannot be divided further"
    assert not any(remedy.fits for remedy in found.values())


# ------------------------------------------------------------------ descriptions


def test_description():
    machine = device(1000, peak={"float32": 1e12}, bandwidth=None)
    found = describe.describe(pipeline(stage()), machine)
    json.dumps(found)
    first = found["stages"][0]
    assert (first["parameters"], first["flops"], first["images"]) == (PARAMETERS, FLOPS, 64_000)
    # Weights, the gradients of micro-batches, two moments and two averages; a quarter of the batch at once.
    state = (1 + 2 + 2 + 2) * 4 * PARAMETERS
    assert first["state_bytes"] == state
    assert first["memory_bytes"] == state + 16 * first["activation_bytes"] + 64 * 4 * (2 * 48 + 2)
    assert first["training_seconds"] == pytest.approx(3 * FLOPS * 64_000 / (machine.fraction * 1e12))
    assert first["sampling_flops"] == 50 * FLOPS
    assert found["sampling_seconds"] == pytest.approx(200 * 50 * FLOPS / (machine.fraction * 1e12))
    assert (first["fits"], first["remedies"], first["measured"]) == (True, [], None)
    text = description_text.render(found)
    assert max(map(len, text.splitlines())) <= 80
    assert f"{PARAMETERS:,} parameters" in text
    assert "64 images, 16 at once, in float32" in text
    sampling = first["sampling_memory"]
    assert (sampling["weights"], sampling["program"]) == (4 * PARAMETERS, 0)  # another machine's
    assert first["sampling_memory_bytes"] == sum(sampling.values())
    assert (first["sampling_images"], "sampling holds" in text) == (8, True)


def test_training_on_the_machines_of_the_paper():
    found = describe.describe(pipeline(stage()), device(1000), hardware={"base": "4 tpu-v3", "other": "2 tpu-v4"})
    paper, there = found["stages"][0]["paper"], devices.find("tpu-v3")
    assert (paper["device"], paper["replicas"], paper["fits"]) == ("tpu-v3", 4, True)
    one = stage()
    one.training.micro_batches = 1
    alone = describe.describe(pipeline(one), there, 4)["stages"][0]
    assert paper["training_seconds"] == pytest.approx(alone["training_seconds"])
    text = description_text.render(found)
    assert "4 x TPU v3 core" in text
    assert max(map(len, text.splitlines())) <= 80
    for hardware in ({}, {"base": "48 tpu-v3"}):  # none, or among which this batch of 64 does not divide
        assert describe.describe(pipeline(stage()), device(1000), hardware=hardware)["stages"][0]["paper"] is None


def test_a_batch_is_divided_among_devices():
    found = describe.describe(pipeline(stage()), "a100-40", 4)
    first = found["stages"][0]
    assert (first["batch_a_replica"], first["micro_batch"], found["machine"]["replicas"]) == (16, 4, 4)
    assert "16 of 64 images, 4 at once" in description_text.render(found)
    with pytest.raises(UserError, match="does not divide among 5 replicas of 4 micro-batches"):
        describe.describe(pipeline(stage()), "a100-40", 5)


def test_a_description_says_what_would_make_it_fit():
    found = describe.describe(pipeline(stage(Blocks(), size=32)), replace(devices.find("v100-16"), memory_bytes=6e6))
    first = found["stages"][0]
    assert not first["fits"]
    assert [remedy["name"] for remedy in first["remedies"]][:2] == ["micro-batches", "recomputation"]
    json.dumps(found)
    text = description_text.render(found)
    assert "does not fit" in text
    assert "Training.micro_batches = " in text
    assert max(map(len, text.splitlines())) <= 80


def test_measurements_stand_beside_predictions():
    asked: list[Any] = []

    def measure(plans: Any) -> dict[str, Measurement]:
        asked.append(plans)
        return {"base": Measurement(1, 32, 2, 5.0, 0.25, 10, 7e6, 0.01, 16)}

    found = describe.describe(pipeline(stage()), devices=1, measure=measure)
    assert asked == [{"base": (64, 4)}]
    first = found["stages"][0]
    # Twice the images that were measured, in a thousand steps.
    assert first["training_seconds"] == pytest.approx(0.5 * 1000)
    assert first["sampling_seconds"] == pytest.approx(0.01 / 16 * 50 * 200)
    assert first["measured"]["images_per_second"] == 128
    text = description_text.render(found)
    assert "0.25 s (predicted" in text
    assert "7 MB (predicted" in text
    with pytest.raises(UserError, match="leave out --device"):
        describe.describe(pipeline(stage()), "h100", measure=measure)


def test_less_of_a_long_step_is_measured():
    slow = device(1000, peak={"float32": 1e6}, bandwidth=None)
    forecast = describe._Forecast(stage(), slow, 1)
    images, parts = forecast.plan()
    assert (images, parts) == (32, 2)
    work, switches = forecast._part(images, parts)
    assert budget.step_seconds(work, switches, slow) <= describe.MEASURED_STEP
    assert describe._Forecast(stage(), device(1e-3), 1).plan() is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3, "12.3 s"), (600, "10 min"), (7200, "2 h"), (259200, "3 days"), (1e8, "3.17 years")]
)
def test_duration(seconds: float, text: str):
    assert description_text.duration(seconds) == text
