"""Networks and method on JAX: the numbers of TensorFlow, and training in shards. Each backend has its own process."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import both_backends
import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import recipe_parts
from zoo.training.optimizers import Adam, average, zeros_like

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: pip install -e .[jax]"
)
HERE = Path(__file__).parent


def run_on_jax(program: str, *arguments: Path) -> None:
    """Runs a program beside this file on two logical devices of JAX."""
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def differentiate(made: keras.Model, loss: Callable[[Any], Any]) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        value = loss(made)
    gradients = tape.gradient(value, [variable.value for variable in made.trainable_variables])
    return value, [tf.convert_to_tensor(gradient) for gradient in gradients]


# ---- the same numbers


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """On TensorFlow and on JAX."""
    path = tmp_path_factory.mktemp("jax") / "figures.npz"
    run_on_jax("both_backends.py", path)  # which also looks that TensorFlow was not imported
    return both_backends.figures(differentiate), dict(np.load(path))


def distance(one: np.ndarray, other: np.ndarray, least: float = 1e-12) -> float:
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(one), least))


def test_jax_gives_the_same_numbers(figures: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]):
    ours, theirs = figures
    assert ours.keys() == theirs.keys()
    assert len(ours) > 40
    # the key biases of attention have no gradient but rounding
    whole = np.sqrt(sum(np.sum(np.square(value)) for name, value in ours.items() if name.startswith("gradient")))
    assert whole > 0.1
    for name, value in ours.items():
        assert np.isfinite(value).all(), name
        tolerance = 0.03 if name == "bfloat16" else 1e-5
        assert distance(value, theirs[name], 1e-3 * whole if "gradient" in name else 1e-12) < tolerance, name


# ---- training in shards


def adam_on_tensorflow(start: np.ndarray, gradients: np.ndarray) -> dict[str, np.ndarray]:
    """As tests/jax_devices.py does on JAX."""
    raw, mean = tf.Variable(start), tf.Variable(start)
    optimizer = Adam(1e-2, weight_decay=0.1)
    slots = {name: [zeros_like(raw)] for name in ("first", "second")}
    for step, gradient in enumerate(gradients):
        optimizer.apply([raw], slots, [tf.constant(gradient)], tf.constant(step, tf.int64))
        average([mean], [raw], 0.9, tf.constant(step, tf.int64))
    return {"raw": raw.numpy(), "ema": mean.numpy(), **{name: slots[name][0].numpy() for name in slots}}


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "start": generator.standard_normal(50).astype("float32"),
        "gradients": generator.standard_normal((30, 50)).astype("float32"),
    }


@pytest.fixture(scope="module")
def sharded(given: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shards")
    np.savez(folder / "given.npz", **given)
    run_on_jax("jax_devices.py", folder / "given.npz", folder / "figures.json")
    return json.loads((folder / "figures.json").read_text())


def test_shards_do_not_change_the_losses(sharded: dict[str, Any]):
    assert sharded["devices"] == 2
    one, two = sharded["one"], sharded["two"]
    assert len(set(one["losses"])) == len(one["losses"]) > 4
    assert max(one["norms"]) > 0.5  # some steps were clipped
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(two["norms"], one["norms"], rtol=1e-5)


def test_each_device_holds_half_of_the_state(sharded: dict[str, Any]):
    whole, nothing = sharded["one"]["bytes"]
    assert nothing == 0
    for held in sharded["two"]["bytes"]:
        assert 0.5 * whole <= held < 0.52 * whole


def test_recomputation_on_jax_changes_nothing(sharded: dict[str, Any]):
    np.testing.assert_allclose(sharded["again"]["losses"], sharded["two"]["losses"], rtol=1e-5)


def test_the_network_gets_the_average(sharded: dict[str, Any]):
    assert sharded["averaged"]


def test_optimizers_of_both_backends_agree(given: dict[str, np.ndarray], sharded: dict[str, Any]):
    for name, value in adam_on_tensorflow(**given).items():
        np.testing.assert_allclose(sharded["optimizer"][name], value, rtol=2e-6, atol=1e-6, err_msg=name)


def test_training_on_jax_needs_no_tensorflow(sharded: dict[str, Any]):
    assert not sharded["tensorflow"]


# ---- the benchmark of any recipe's network

BENCHMARK = ["--recipe", "tests/recipes/tiny.gin", "--stage", "sr", "--batch", "2", "--steps", "1", "--matrix", "64"]
# Runs the benchmark where of the project's dependencies only Keras, NumPy, Gin and PyYAML can be imported.
ALONE = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.argv = ["network.py", *{arguments}]
runpy.run_path("benchmarks/network.py", run_name="__main__")
"""


def benchmark(backend: str, out: Path, *flags: str) -> dict[str, Any]:
    absent = {"tensorflow_datasets", "tensorflow_gan", "tensorflow_hub", "tensorboard", "matplotlib", "PIL", "tqdm"}
    absent |= {"tensorflow"} if backend == "jax" else {"jax"}
    program = ALONE.format(absent=absent, arguments=[*BENCHMARK, "--json", str(out), *flags])
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())["figures"]


@pytest.mark.slow
def test_the_benchmark_measures_the_same_network_on_both_backends(tmp_path: Path):
    ours = benchmark("tensorflow", tmp_path / "ours.json")
    theirs = benchmark("jax", tmp_path / "theirs.json", "--precision", "bfloat16", "--recompute")
    for name in ("parameters_count", "batch_count"):
        assert ours[name] == theirs[name]
    # JAX enlarges the low-resolution image by small matrix products
    assert theirs["forward_flops_per_image"] == pytest.approx(ours["forward_flops_per_image"], rel=1e-3)
    for figures in (ours, theirs):
        for name in ("forward", "sampling_step", "training_step"):
            assert figures[f"{name}_seconds"] > 0
            assert 0 < figures[f"{name}_fraction_of_matrix_rate"] < 20
        assert figures["evaluations_per_second"] == pytest.approx(4 * figures["sampled_images_per_second"])


def test_the_benchmark_counts_operations(monkeypatch: pytest.MonkeyPatch):
    """Of the network of benchmarks/training_step.gin, whose operations docs/facts.md gives."""
    monkeypatch.syspath_prepend(str(HERE.parent / "benchmarks"))
    from network import TensorFlow

    (stage,) = recipe_parts.load(HERE.parent / "benchmarks" / "training_step.gin")
    assert TensorFlow().flops(stage) == pytest.approx(3.64e9, rel=2e-3)
