"""Training on two JAX devices against one, written as JSON: python jax_devices.py GIVEN FILE. See test_jax.py.

GIVEN has gradients of some steps, which the optimizer of JAX is applied to.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from zoo import recipe_parts
from zoo.training import jax_training
from zoo.training.jax_training import Settings, ShardedTraining, Sharding

RECIPE = Path(__file__).parent / "recipes" / "tiny.gin"
SETTINGS = Settings(learning_rate=2e-3, clip=0.5, ema=0.9)
STEPS, BATCH = 6, 4


def training(devices: int, recompute: Any = None) -> ShardedTraining:
    """Of the tiny recipe's super-resolution stage, with dropout, on the first devices."""
    _, stage = recipe_parts.load(RECIPE, ["UNet.dropout = 0.2"])
    sharding = Sharding(keras.distribution.list_devices()[:devices])
    with sharding.scope():
        network = stage.build_network(seed=0, recompute=recompute)
    return ShardedTraining(stage, network, SETTINGS, 0, sharding)


def batches(one: ShardedTraining) -> list[dict[str, np.ndarray]]:
    shapes = one.stage.image_shapes(BATCH)
    return [
        {name: np.random.default_rng(step).uniform(-1, 1, shape).astype("float32") for name, shape in shapes.items()}
        | {"label": np.arange(BATCH, dtype="int32") + step}
        for step in range(STEPS)
    ]


def run(one: ShardedTraining) -> dict[str, Any]:
    results = [one.step(batch) for batch in batches(one)]
    return {
        "losses": [float(result.loss) for result in results],
        "norms": [float(result.gradient_norm) for result in results],
        "bytes": [one.bytes_on(device) for device in jax.devices()],
    }


def weights(one: ShardedTraining, group: str) -> np.ndarray:
    return np.concatenate([np.asarray(value).reshape(-1) for value in one.state[group]])


def averaged(one: ShardedTraining) -> bool:
    """Whether the network gets the average, in its own layout, and training goes on from the raw weights."""
    before = weights(one, "raw")
    one.write_average()
    given = np.concatenate([np.asarray(variable.value).reshape(-1) for variable in one.network.trainable_variables])
    same = np.array_equal(given, weights(one, "ema")) and not np.array_equal(given, before)
    one.step(batches(one)[0])
    return bool(same and np.abs(weights(one, "raw") - before).max() < 2 * SETTINGS.learning_rate)


def optimizer(given: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The state after the given gradients, one step after another."""
    start = jnp.asarray(given["start"])
    state = {"raw": [start], "ema": [start], "first": [jnp.zeros_like(start)], "second": [jnp.zeros_like(start)]}
    settings = Settings(learning_rate=1e-2, weight_decay=0.1, ema=0.9)
    for step, gradient in enumerate(given["gradients"]):
        state = jax_training.update(state, [jnp.asarray(gradient)], settings, jnp.int32(step))
    return {name: np.asarray(values[0]).tolist() for name, values in state.items()}


def main(given: Path, out: Path) -> None:
    one, two = training(1), training(2)
    figures = {"devices": jax.device_count(), "one": run(one), "two": run(two), "averaged": averaged(two)}
    figures["again"] = run(training(2, recompute=jax_training.recompute))
    figures["optimizer"] = optimizer(dict(np.load(given)))
    figures["tensorflow"] = "tensorflow" in sys.modules
    out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
