"""The variational bound step by step: what a model pays to send an image, and how far off it is (DDPM, section 3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from zoo.diffusion.losses import mean_over_pixels, prior_term
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import DiscreteProcess, Level


class Terms(NamedTuple):
    """Of one step of the process, each [B]."""

    bound: Any
    """L_t of DDPM, equation 5, in bits per dimension; at step 0 the image itself in 8 bits (equation 13)."""
    image_error: Any
    """Mean squared error of the predicted image, in units of [-1, 1]."""
    noise_error: Any
    """Mean squared error of the noise that this image implies."""


def terms(
    objective: Objective,
    output: Any,
    x: Any,
    noise: Any,
    level: Level,
    process: DiscreteProcess,
    clip: Callable[[Any], Any] | None = None,
) -> Terms:
    """What a network output at z = alpha x + sigma noise says of x.

    Args:
        objective: of the network.
        output: at z, [B, H, W, C] or, with learned variance, [B, H, W, 2C].
        x: images [B, H, W, C] in [-1, 1], whole grey levels.
        noise: [B, H, W, C].
        level: one of the steps of `process`.
        process: whose steps are paid for: the trained one, or a respacing of it.
        clip: what is done to the predicted image.
    """
    z = process.corrupt(x, noise, level)
    prediction = objective.predict(output, z, level, process, clip)
    eps = (z - level.alpha * prediction.x) / level.sigma
    return Terms(
        objective.bound(prediction, x, z, level, process),
        mean_over_pixels(ops.square(prediction.x - x)),
        mean_over_pixels(ops.square(eps - noise)),
    )


def prior(x: Any, process: DiscreteProcess) -> Any:
    """L_T [B] in bits per dimension: what the noise at the last step still tells of the image (DDPM, equation 5)."""
    signal = process.alphas_cumprod[-1]
    return prior_term(x, float(np.sqrt(signal)), float(1 - signal))
