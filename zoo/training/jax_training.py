"""Training on JAX with weights, averages and optimizer state in shards (simple diffusion, section 3.3).

Every device holds a part of every large array and a part of the batch. A step gathers the weights where they are used
and scatters their gradients, so its numbers are those of one device.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

Arrays = list[jax.Array]
Batch = Mapping[str, Any]
Draws = Mapping[str, tuple[str, tuple[int, ...]]]

DATA_AXIS = "devices"
# Smaller arrays (biases, normalisation) stay whole on every device: together they are a thousandth of a network.
SMALLEST_SHARDED = 2**10


class Sharding(keras.distribution.ModelParallel):
    """Every large variable in equal parts over all devices, along its longest axis that they divide.

    Made current by `keras.distribution.set_distribution` before the network's variables are made, or used as a context
    by `scope()`.
    """

    def __init__(self, devices: Sequence[str] | None = None) -> None:
        """`devices` as `keras.distribution.list_devices` names them; None takes all."""
        names = list(devices or keras.distribution.list_devices())
        mesh = keras.distribution.DeviceMesh((len(names),), [DATA_AXIS], names)
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name=DATA_AXIS)
        self.count = len(names)

    def get_variable_layout(self, variable: Any) -> keras.distribution.TensorLayout:
        """Keras asks this when a variable is made."""
        return keras.distribution.TensorLayout(sharded_axes(tuple(variable.shape), self.count), self.device_mesh)

    def sharding(self, *axes: str | None) -> NamedSharding:
        """JAX's own word for a layout."""
        return NamedSharding(self.device_mesh.backend_mesh, PartitionSpec(*axes))


def sharded_axes(shape: tuple[int, ...], devices: int) -> list[str | None]:
    """For every axis whether the devices share it: the longest that they divide, in arrays that are large enough."""
    divisible = [axis for axis, size in enumerate(shape) if size % devices == 0]
    axes: list[str | None] = [None] * len(shape)
    if divisible and math.prod(shape) >= SMALLEST_SHARDED:
        axes[max(divisible, key=lambda axis: shape[axis])] = DATA_AXIS
    return axes


class Result(NamedTuple):
    """What a step gave, of the whole batch."""

    loss: jax.Array
    """Mean, of the weights before the step."""
    gradient_norm: jax.Array
    """Before clipping."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained: the numbers of zoo.training.optimizers.Adam and of Training.

    Attributes:
        learning_rate: a number, or a function of the step (int32 [], from 0).
        clip: largest global norm of the gradient; None does not clip.
        ema: decay of the moving average of the weights.
    """

    learning_rate: float | Callable[[jax.Array], jax.Array]
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None
    ema: float = 0.9999


class ShardedTraining:
    """Trains the network of a stage, one jit-compiled step a call; the arrays of the state are donated to it.

        sharding = Sharding()
        with sharding.scope():
            network = stage.build_network(seed)
        training = ShardedTraining(stage, network, settings, seed, sharding)
        for batch in batches:
            result = training.step(batch)

    Args:
        stage: has `name`, `objective`, `randomness(shapes)` and `training_loss(network, batch, random, seed)`, as
            Stage and StageParts have.
        network: built, with its variables in the layout of `sharding`.
        settings: of optimizer, clipping and average.
        seed: all that is random in step n depends on (seed, name of the stage, n) alone.
        sharding: that the variables were made under.

    Attributes:
        state: "raw", "ema", "first" and "second", each a list in the order of the network's trainable variables; what
            a checkpoint holds, with `steps`.
        steps: optimizer steps taken.
    """

    def __init__(self, stage: Any, network: keras.Model, settings: Settings, seed: int, sharding: Sharding) -> None:
        if getattr(stage.objective, "levels", None) is not None:
            raise ValueError("Objective.levels must be None: training on JAX draws the steps uniformly")
        self.stage, self.network, self.settings, self.sharding = stage, network, settings, sharding
        self.key = _named(jax.random.key(seed), f"{stage.name}/training")
        self.steps = 0
        weights = [variable.value for variable in network.trainable_variables]
        self._layouts = [sharding.sharding(*sharded_axes(weight.shape, sharding.count)) for weight in weights]
        # copies: the step may write into what it is given, and the network keeps its variables
        self.state: dict[str, Arrays] = {
            "raw": self._make(jnp.copy, weights),
            "ema": self._make(jnp.copy, weights),
            "first": self._make(jnp.zeros_like, weights),
            "second": self._make(jnp.zeros_like, weights),
        }
        layouts = dict.fromkeys(self.state, self._layouts)
        whole = sharding.sharding()
        self._compiled = jax.jit(self._step, donate_argnums=0, out_shardings=(layouts, Result(whole, whole)))

    def step(self, batch: Batch) -> Result:
        """One optimizer step.

        Args:
            batch: `image` [B, H, W, C] in [-1, 1], `label` [B] and `low_resolution` [B, h, w, C], as the stage needs
                them: of several processes each gives its share. The devices must divide B.
        """
        shares = {name: self._distribute(np.asarray(value)) for name, value in batch.items()}
        self.state, result = self._compiled(self.state, shares, np.int32(self.steps))
        self.steps += 1
        return result

    def write_average(self) -> None:
        """Gives the network the averaged weights, to sample from; training goes on from the raw ones."""
        for variable, value in zip(self.network.trainable_variables, self.state["ema"], strict=True):
            variable.assign(jnp.copy(value))

    def bytes_on(self, device: jax.Device) -> int:
        """Bytes of the state that a device of this process holds."""
        shards = [shard for array in jax.tree.leaves(self.state) for shard in array.addressable_shards]
        return sum(shard.data.nbytes for shard in shards if shard.device == device)

    def _make(self, function: Callable[[jax.Array], jax.Array], weights: Arrays) -> Arrays:
        """New arrays in the layout of the weights, made in parts."""
        return jax.jit(lambda values: [function(value) for value in values], out_shardings=self._layouts)(weights)

    def _distribute(self, value: np.ndarray) -> jax.Array:
        layout = self.sharding.sharding(DATA_AXIS, *(None for _ in value.shape[1:]))
        return jax.make_array_from_process_local_data(layout, value)

    def _step(self, state: dict[str, Arrays], batch: dict[str, jax.Array], step: jax.Array) -> tuple[Any, Result]:
        key = jax.random.fold_in(self.key, step)
        shapes = {name: value.shape for name, value in batch.items()}
        random = draw(key, self.stage.randomness(shapes))
        seed = jax.random.key_data(_named(key, "dropout")).astype(jnp.int32)

        def mean_loss(shards: Arrays) -> jax.Array:
            # Gathered here, so that the gradient of a weight is scattered: else the compiler may choose to cut the
            # activations along channels, which moves more than the weights.
            weights = [jax.lax.with_sharding_constraint(shard, self.sharding.sharding()) for shard in shards]

            def network(inputs: dict[str, Any]) -> Any:
                return self.network.stateless_call(weights, [], inputs)[0]

            return jnp.mean(self.stage.training_loss(network, batch, random, seed))

        loss, gradients = jax.value_and_grad(mean_loss)(state["raw"])
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient)) for gradient in gradients))
        if self.settings.clip is not None:
            factor = self.settings.clip / jnp.maximum(norm, self.settings.clip)
            gradients = [gradient * factor for gradient in gradients]
        return update(state, gradients, self.settings, step), Result(loss, norm)


def draw(key: jax.Array, draws: Draws) -> dict[str, jax.Array]:
    """Arrays for `draws`: name -> (distribution, shape), each from a stream of its own; the same on any devices."""
    kinds = {"normal": jax.random.normal, "uniform": jax.random.uniform}
    return {name: kinds[kind](_named(key, name), shape) for name, (kind, shape) in draws.items()}


def _named(key: jax.Array, name: str) -> jax.Array:
    """The key of a stream of its own."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def update(state: dict[str, Arrays], gradients: Arrays, settings: Settings, step: jax.Array) -> dict[str, Arrays]:
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay, and the moving average of the weights.

    The share of the newest weights in the average is (1 - decay) / (1 - decay^(step + 1)): zoo.training.optimizers.
    """
    rate = settings.learning_rate(step) if callable(settings.learning_rate) else settings.learning_rate
    count = step.astype(jnp.float32) + 1
    size = rate * jnp.sqrt(_history(settings.beta_2, count)) / _history(settings.beta_1, count)
    epsilon = settings.epsilon * jnp.sqrt(_history(settings.beta_2, count))
    share = (1 - settings.ema) / _history(settings.ema, count)
    new: dict[str, Arrays] = {name: [] for name in state}
    for raw, ema, first, second, gradient in zip(
        state["raw"], state["ema"], state["first"], state["second"], gradients, strict=True
    ):
        first = first + (1 - settings.beta_1) * (gradient - first)
        second = second + (1 - settings.beta_2) * (jnp.square(gradient) - second)
        raw = raw - rate * settings.weight_decay * raw - size * first / (jnp.sqrt(second) + epsilon)
        ema = ema + share * (raw - ema)
        for name, value in (("raw", raw), ("ema", ema), ("first", first), ("second", second)):
            new[name].append(value)
    return new


def _history(decay: float, count: jax.Array) -> jax.Array:
    """1 - decay^count, to the last digit of float32."""
    return -jnp.expm1(count * math.log(decay)) if decay > 0 else jnp.ones_like(count)


def recompute(function: Callable[..., Any], *tensors: Any) -> Any:
    """function(*tensors), whose insides are computed again for its gradient instead of kept; for `UNet.recompute`."""
    return jax.checkpoint(function)(*tensors)
