"""What a machine may change about a training step without changing the experiment, besides its precision."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from zoo.training.gradients import recompute


class RecomputeBlocks:
    """Keeps the inputs of every block and computes its activations again in the backward pass (Chen et al. 2016)."""

    def __call__(self, function: Callable[..., Any], *tensors: Any) -> Any:
        """Like function(*tensors)."""
        return recompute(function, *tensors)


class XLA:
    """Compiles the forward and backward pass by XLA, for accelerators: on a processor it is several times slower."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, compiled when it is first called."""
        return tf.function(function, jit_compile=True)
