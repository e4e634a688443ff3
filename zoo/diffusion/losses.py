"""The loss of each image, from its squared error and its term of the variational bound."""

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops


class Loss(abc.ABC):
    """Contract of the family: one number an image."""

    @abc.abstractmethod
    def __call__(self, error: Any, bound: Callable[[bool], Any], steps: int) -> Any:
        """The loss [B].

        Args:
            error: target minus what the network said of it, weighted, [B, H, W, C].
            bound: gives the term of the variational bound [B] in bits per dimension; called with True, no
                gradient reaches the mean through it.
            steps: number of steps of the process.
        """


class SimpleLoss(Loss):
    """L_simple (DDPM, equation 14)."""

    def __call__(self, error: Any, bound: Callable[[bool], Any], steps: int) -> Any:
        return mean_over_pixels(ops.square(error))


class MultiscaleLoss(Loss):
    """The squared error at every resolution from `base` pixels up (simple diffusion, section 3.2).

    The sum over s of 1 / s times the mean of |D_s[error]|^2, where D_s averages over squares to s pixels; s is the size
    of the image, a half, a quarter of it, and so on. An image that is not square goes by its shorter side.
    """

    def __init__(self, base: int = 32) -> None:
        if base < 1:
            raise ValueError(f"base must be a size in pixels, got {base}")
        self.base = base

    def __call__(self, error: Any, bound: Callable[[bool], Any], steps: int) -> Any:
        size = min(error.shape[1:3])
        if size < self.base:
            raise ValueError(f"base must be at most the size of the images, {size} pixels, got {self.base}")
        total = mean_over_pixels(ops.square(error)) / size
        while size // 2 >= self.base and not (error.shape[1] % 2 or error.shape[2] % 2):
            error, size = halve(error), size // 2
            total = total + mean_over_pixels(ops.square(error)) / size
        return total


class HybridLoss(Loss):
    """L_simple + weight L_vlb (Improved DDPM, equation 16); L_vlb is T times the mean of its terms.

    The bound trains the variance alone: no gradient reaches the mean through it (section 3.1).
    """

    def __init__(self, weight: float = 0.001) -> None:
        if weight < 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.weight = weight

    def __call__(self, error: Any, bound: Callable[[bool], Any], steps: int) -> Any:
        return mean_over_pixels(ops.square(error)) + self.weight * steps * bound(True)


class VLBLoss(Loss):
    """L_vlb (Improved DDPM, equation 4), estimated at one step: T times its term, in bits per dimension."""

    def __call__(self, error: Any, bound: Callable[[bool], Any], steps: int) -> Any:
        return steps * bound(False)


def halve(images: Any) -> Any:
    """[B, H, W, C] -> [B, H / 2, W / 2, C]: means of 2 x 2 pixels."""
    _, height, width, channels = images.shape
    return ops.mean(ops.reshape(images, (-1, height // 2, 2, width // 2, 2, channels)), axis=(2, 4))


def mean_over_pixels(x: Any) -> Any:
    """[B, ...] -> [B]."""
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))


def normal_kl(mean: Any, log_variance: Any, other_mean: Any, other_log_variance: Any) -> Any:
    """KL(N(mean, exp(log_variance)) || N(other_mean, exp(other_log_variance))), in nats, elementwise."""
    difference = log_variance - other_log_variance
    square = ops.square(mean - other_mean) * ops.exp(-other_log_variance)
    return 0.5 * (-1.0 - difference + ops.exp(difference) + square)


def discretised_log_likelihood(x: Any, mean: Any, log_scale: Any) -> Any:
    """Log probability, in nats, of the 8-bit bin that holds x in [-1, 1] (DDPM, equation 13), elementwise.

    The normal distribution function is the tanh approximation of the reference implementation.
    """
    inverse = ops.exp(-log_scale)
    upper = _normal_cdf(inverse * (x - mean + 1 / 255))
    lower = _normal_cdf(inverse * (x - mean - 1 / 255))
    tiny = 1e-12  # below it a float32 difference of two probabilities means nothing
    middle = ops.log(ops.maximum(upper - lower, tiny))
    first = ops.log(ops.maximum(upper, tiny))
    last = ops.log(ops.maximum(1 - lower, tiny))
    return ops.where(x < -0.999, first, ops.where(x > 0.999, last, middle))


def _normal_cdf(z: Any) -> Any:
    return 0.5 * (1.0 + ops.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))


def bound_term(
    x: Any, mean: Any, log_variance: Any, posterior_mean: Any, posterior_log_variance: Any, last: Any
) -> Any:
    """A term of the variational bound [B], in bits per dimension (DDPM, equation 5).

    KL of the posterior from the model or, where `last` [B] says that the step ends at the image, its discretised
    likelihood.
    """
    divergence = mean_over_pixels(normal_kl(posterior_mean, posterior_log_variance, mean, log_variance))
    likelihood = -mean_over_pixels(discretised_log_likelihood(x, mean, 0.5 * log_variance))
    return ops.where(last, likelihood, divergence) / np.log(2.0)


def prior_term(x: Any, alpha: float, variance: float) -> Any:
    """KL(q(z_T | x) || N(0, 1)) [B] in bits per dimension: alpha and variance are those of the last step."""
    zero = ops.zeros_like(x)
    return mean_over_pixels(normal_kl(alpha * x, zero + np.log(variance), zero, zero)) / np.log(2.0)
