"""Guidance: a gradient that turns every step towards what is asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.objective import Prediction
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import noise_of

Gradient = Callable[[Callable[[Any], Any], Any], Any]
"""(function, x) -> d function(x) / d x: Keras has none, so it comes as an argument (zoo/training/gradients.py)."""


def log_probability(logits: Any, label: Any) -> Any:
    """log p(y | z_t) [B] of logits [B, classes] and label int [B]."""
    chosen = ops.take_along_axis(logits, ops.expand_dims(label, 1), axis=1)[:, 0]
    return chosen - ops.logsumexp(logits, axis=-1)


def class_gradient(
    classifier: Callable[[dict[str, Any]], Any], inputs: dict[str, Any], label: Any, gradient: Gradient
) -> Any:
    """The gradient of log p(y | z_t) in z_t [B, H, W, C], by a classifier of noised images (ADM, section 4).

    Args:
        classifier: inputs -> logits [B, classes].
        inputs: `image` = z_t and the noise level.
        label: y, int [B].
        gradient: of a function with one number as its value.
    """

    def total(z: Any) -> Any:
        return ops.sum(log_probability(classifier({**inputs, "image": z}), label))

    return gradient(total, inputs["image"])


def shift_mean(prediction: Prediction, gradient: Any) -> Prediction:
    """Moves the mean of the reverse step by its variance times the gradient (ADM, algorithm 1).

    Args:
        prediction: at z_t.
        gradient: of log p(y | z_t) in z_t, times the scale, [B, H, W, C].
    """
    return prediction._replace(mean=prediction.mean + prediction.variance * gradient)


def shift_score(prediction: Prediction, gradient: Any, z: Any, index: Any, process: DiscreteProcess) -> Prediction:
    """Moves the noise estimate by -sigma times the gradient (ADM, algorithm 2), for DDIM.

    The noise is derived from the (clipped) image; the new image is not clipped again, as in the public code.
    """
    dtype = ops.dtype(z)
    eps = noise_of(prediction.x, z, index, process)
    eps = eps - process.gather(np.sqrt(1 - process.alphas_cumprod), index, dtype) * gradient
    scale = process.gather(np.sqrt(1 / process.alphas_cumprod), index, dtype)
    x = scale * z - process.gather(np.sqrt(1 / process.alphas_cumprod - 1), index, dtype) * eps
    return prediction._replace(x=x, mean=process.posterior_mean(x, z, index))
