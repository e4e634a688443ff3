"""Padded batches on every device of the current strategy: what sampling and likelihoods have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class DeviceBatches:
    """A computation on rows, a padded batch of them on every device of this process.

    It is made and called in the scope of the strategy that the network was built in (or of none). Of several workers
    each has its own devices at work, and none waits for another.

    Args:
        batch: rows in one call, on one device. The same batch gives the same bits, on however many devices.

    Attributes:
        at_once: the most rows in one call: a batch for every device of this process.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.strategy = tf.distribute.get_strategy()
        self.devices = len(self.strategy.extended.worker_devices) if tf.distribute.has_strategy() else 1
        self.at_once = batch * self.devices

    def _compiled(self, step: Callable[..., Any]) -> tf.types.experimental.PolymorphicFunction:
        """The function as one graph with a copy for every device."""
        return tf.function(lambda *arguments: self.strategy.run(step, args=arguments), autograph=False)

    def _share(self, parts: Sequence[Any]) -> Any:
        """One value for each device of this process, as an argument of a compiled function."""
        if self.devices == 1:
            return parts[0]
        # Of several workers each is asked for the values of all devices, and takes the first ones as its own.
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group % self.devices]
        )

    def _split(self, values: np.ndarray) -> Any:
        """Rows for each device; the first row is repeated where there are too few.

        Raises:
            ValueError: there are too many.
        """
        if len(values) > self.at_once:
            raise ValueError(f"a batch of {len(values)} images is larger than the compiled {self.at_once}")
        padded = np.concatenate([values, np.repeat(values[:1], self.at_once - len(values), axis=0)])
        return self._share([tf.constant(part) for part in np.split(padded, self.devices)])

    def _gathered(self, rows: Any) -> np.ndarray:
        """The rows of all devices of this process."""
        return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(rows)])

    def _values(self, weights: Sequence[tf.Variable]) -> Any:
        """The weights as each device has them: a copy that another device asks for in every step would be slow."""
        copies = [self.strategy.experimental_local_results(variable) for variable in weights]
        return self._share(
            [[tf.convert_to_tensor(copy[min(i, len(copy) - 1)]) for copy in copies] for i in range(self.devices)]
        )
