"""Feature networks and tf.distribute: images through a network on every device, training on one and the same."""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np
import tensorflow as tf

P = ParamSpec("P")
T = TypeVar("T")


class ForwardPass:
    """A network as a graph for inference, a full batch at once on every device of the current strategy.

    The last batch is padded to the compiled shape, and what the padding gave is cut off. Of several workers each has
    its own devices at work, and none waits for another.

    Args:
        network: float32 images [B, H, W, C] in 0..255 -> a tuple of arrays [B, ...], made outside the strategy.
        batch: images in one call of the network. The same batch gives the same bits, on however many devices.

    Attributes:
        at_once: the most images in one call: a batch for every device of this process.
    """

    def __init__(self, network: keras.Model, batch: int) -> None:
        self.strategy = tf.distribute.get_strategy()
        places = self.strategy.extended.worker_devices if tf.distribute.has_strategy() else [None]
        self.devices, self.at_once = len(places), batch * len(places)
        self._weights = self._share([_copies(network, place) for place in places])

        def forward(weights: tuple[list[tf.Tensor], list[tf.Tensor]], images: tf.Tensor) -> tuple[tf.Tensor, ...]:
            outputs, _ = network.stateless_call(*weights, tf.cast(images, tf.float32), training=False)
            return outputs

        self._forward = tf.function(lambda *arguments: self.strategy.run(forward, args=arguments), autograph=False)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint8 [N, H, W, C], N at most `at_once` -> what the network gives, float32 [N, ...] each."""
        if len(images) > self.at_once:
            raise ValueError(f"a batch of {len(images)} images is larger than the compiled {self.at_once}")
        padded = np.concatenate([images, np.repeat(images[:1], self.at_once - len(images), axis=0)])
        given = self._share([tf.constant(part) for part in np.split(padded, self.devices)])
        with _whole_float32():
            return tuple(self._joined(part)[: len(images)] for part in self._forward(self._weights, given))

    def _share(self, parts: list[Any]) -> Any:
        """One value for each device of this process, as an argument of the compiled function."""
        if self.devices == 1:
            return parts[0]
        # Of several workers each is asked for the values of all devices, and takes the first ones as its own.
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group % self.devices]
        )

    def _joined(self, value: Any) -> np.ndarray:
        return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(value)])


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Products of float32 with all of its digits, as on a CPU; GPUs would otherwise use TensorFloat-32, of 10 bits."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _copies(network: keras.Model, place: str | None) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The trainable and the other variables as values on a device."""
    with tf.device(place):
        trained = [tf.identity(variable.value) for variable in network.trainable_variables]
        return trained, [tf.identity(variable.value) for variable in network.non_trainable_variables]


def on_one_device(function: Callable[P, T]) -> Callable[P, T]:
    """Runs a function outside the strategy of its caller, so that what it makes does not depend on it.

    A scope cannot be left, but it belongs to a thread: where there is a strategy the function gets one of its own.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if not tf.distribute.has_strategy():
            return function(*args, **kwargs)
        thread = concurrent.futures.ThreadPoolExecutor(1)
        future = thread.submit(function, *args, **kwargs)
        thread.shutdown(wait=False)  # an interrupt of the caller does not wait for it
        return future.result()

    return run
