"""Guidance: a gradient that turns every step towards what is asked for."""

from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.objective import Prediction
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import noise_of


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
