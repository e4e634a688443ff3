"""Gradients on TensorFlow, which Keras has no operation for: the networks take them as an argument."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def recompute(function: Callable[..., Any], *tensors: Any) -> Any:
    """function(*tensors); what it computes inside is forgotten, and computed again when its gradient is needed.

    For `UNet.recompute`. `keras.remat` and `keras.RematScope` fail in graph mode; this holds there, under
    MirroredStrategy and under XLA, with the variables that the function reads. The function must be the same each time:
    its randomness keyed, and no state changed.
    """
    return tf.recompute_grad(function)(*tensors)


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """d function(x) / d x for a function with one number as its value; of the shape of x.

    For `guidance.class_gradient`.
    """
    x = tf.convert_to_tensor(x)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)
