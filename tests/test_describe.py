"""Costs of networks, counted by hand, and the description of a pipeline."""

import json
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import cost, describe, recipe, symbolic


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


class Optimizer:
    def slots(self, variables: list[tf.Variable]) -> dict[str, list[tf.Variable]]:
        return {"first": variables, "second": variables}


def stage(size: int = 4, channels: int = 3) -> Any:
    part = SimpleNamespace
    return part(
        name="base",
        size=size,
        network=Network(),
        images=part(low_resolution=None, source=part(name="shapes")),
        training=part(batch=64, micro_batches=4, steps=1000, optimizer=Optimizer()),
        objective=part(process=part(schedule=part()), target=part(), variance=part(), loss=part()),
        conditioning=(),
        sampler=part(),
        sampler_steps=50,
        input_spec=lambda batch: {"image": ((batch, size, size, 3), "float32"), "time": ((batch,), "float32")},
        output_shape=lambda batch: (batch, size, size, channels),
    )


# Image 4x4: convolution 3x3 from 3 to 8 channels, two products of 16 x 16 x 8, dense from 8 to 3.
FLOPS = 2 * (16 * 9 * 3 * 8 + 2 * 16 * 16 * 8 + 16 * 8 * 3)
PARAMETERS = 9 * 3 * 8 + 8 + 8 * 3 + 3
# Floats: image, argument of SiLU, factors of both products (once), softmax, input of the last layer.
KEPT = 4 * (16 * 3 + 16 * 8 + 16 * 8 + 16 * 8 + 16 * 16 + 16 * 8)


@pytest.mark.parametrize("batch", [1, 5])
def test_costs_are_those_counted_by_hand(batch: int):
    traced = symbolic.build(stage(), batch)
    assert traced.parameters == traced.trainable == PARAMETERS
    found = cost.measure(traced)
    assert found.flops == FLOPS
    assert found.activation_bytes == pytest.approx(KEPT, rel=0.2)


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
    with pytest.raises(Exception, match=r"returns \[1, 4, 4, 3\], but \[1, 4, 4, 6\] is needed"):
        symbolic.build(stage(channels=6))


def test_description():
    pipeline: Any = SimpleNamespace(stages=[stage()], seed=3)
    found = describe.describe(pipeline, rate=1e12)
    json.dumps(found)
    first = found["stages"][0]
    assert (first["parameters"], first["flops"], first["images"]) == (PARAMETERS, FLOPS, 64_000)
    # Weights, gradients, two moments and the average; a quarter of the batch at once.
    assert first["memory_bytes"] == 5 * 4 * PARAMETERS + 16 * first["activation_bytes"]
    assert first["training_seconds"] == pytest.approx(3 * FLOPS * 64_000 / (describe.FRACTION_OF_PEAK * 1e12))
    assert first["sampling_flops"] == 50 * FLOPS
    text = describe.render(found)
    assert max(map(len, text.splitlines())) <= 80
    assert f"{PARAMETERS:,} parameters" in text


def test_rate_is_measured():
    assert 1e8 < describe.measure_rate(side=256, seconds=0.02) < 1e15


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3, "12.3 s"), (600, "10 min"), (7200, "2 h"), (259200, "3 days"), (1e8, "3.17 years")]
)
def test_duration(seconds: float, text: str):
    assert describe.duration(seconds) == text


def test_a_traced_network_leaves_nothing_behind():
    """Keras would give the traced weights their values when the next network is built."""
    pipeline = recipe.load("tests/recipes/tiny.gin").build()
    symbolic.build(pipeline.stages[0])
    traced = pipeline.stages[0].network.trainable_variables
    later = recipe.load("tests/recipes/tiny.gin").build().stages[0]
    later.build_network(0)
    assert all(variable._value is None for variable in traced)
    assert later.network.count_params() == sum(int(np.prod(variable.shape)) for variable in traced)
