"""Recomputation of blocks: the same gradients, in one graph, in a loop, compiled by XLA, and on two devices."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from two_gradients import distance, examples, gradients, make

from zoo.training.gradients import recompute

KEY = np.array([7, 0], "int32")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return make()


def plainly(network: keras.Model) -> list[tf.Tensor]:
    return gradients(network, examples(), KEY)


def in_a_loop(network: keras.Model) -> list[tf.Tensor]:
    """Twice, as micro-batches are."""

    def body(i: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return i + 1, *(total + new for total, new in zip(sums, plainly(network), strict=True))

    start = [tf.zeros(variable.shape) for variable in network.trainable_variables]
    return list(tf.while_loop(lambda i, *_: i < 2, body, [tf.constant(0), *start])[1:])


@pytest.mark.parametrize(
    ("function", "compiled", "tolerance"),
    [(plainly, False, 1e-6), (in_a_loop, False, 1e-6), (plainly, True, 1e-5)],
    ids=["plain", "loop", "XLA"],
)
def test_gradients_do_not_change(
    network: keras.Model, function: Callable[[keras.Model], list[tf.Tensor]], compiled: bool, tolerance: float
):
    def run() -> list[tf.Tensor]:
        return tf.function(lambda: function(network), jit_compile=compiled)()

    expected = run()
    network.recompute = recompute
    try:
        found = run()
    finally:
        network.recompute = None
    assert distance(expected, found) < tolerance


@pytest.mark.slow
def test_gradients_do_not_change_on_two_devices(tmp_path: Path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(here / "two_gradients.py"), str(tmp_path / "figures.json")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["replicas"] == 2
    assert figures["distance"] < 1e-6


@pytest.mark.slow
def test_insides_are_forgotten(tmp_path: Path):
    """TensorFlow looks for what it need not compute twice: merged, the insides would be kept all the same."""
    root = Path(__file__).parent.parent
    recipe = [
        "--recipe",
        "tests/recipes/tiny.gin",
        "--batch",
        "1024",
        "--steps",
        "1",
        "--json",
        str(tmp_path / "figures.json"),
        "--gin_bindings",
        "UNet.blocks = 4",
    ]
    done = subprocess.run(
        [sys.executable, "benchmarks/recomputation.py", *recipe],
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["kept_activations_bytes"] > 200 * 2**20
    assert figures["memory_ratio"] < 0.7
