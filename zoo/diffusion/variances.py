"""The variance of the reverse process p(z_s | z_t)."""

import abc
from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.process import DiscreteProcess


class Variance(abc.ABC):
    """Contract of the family: variance and log-variance of a reverse step."""

    outputs: int = 1
    """Network output channels for each image channel: 2 where the variance is learned."""

    @abc.abstractmethod
    def __call__(self, extra: Any, process: DiscreteProcess, index: Any, dtype: str) -> tuple[Any, Any]:
        """Variance and its logarithm at step `index`.

        Args:
            extra: the network's second half [B, H, W, C] where `outputs` is 2, else None.
            process: the (respaced) process.
            index: int [B].
            dtype: of the result.

        Returns:
            Two tensors that broadcast over [B, H, W, C].
        """


class FixedSmallVariance(Variance):
    """The posterior variance beta~ (DDPM, section 3.2), 0 at the first step; its logarithm is clipped there."""

    def __call__(self, extra: Any, process: DiscreteProcess, index: Any, dtype: str) -> tuple[Any, Any]:
        variance = process.gather(process.posterior_variance, index, dtype)
        return variance, process.gather(process.posterior_log_variance, index, dtype)


class FixedLargeVariance(Variance):
    """beta_t (DDPM, section 3.2), with the posterior's value at the first step to keep its likelihood finite."""

    def __call__(self, extra: Any, process: DiscreteProcess, index: Any, dtype: str) -> tuple[Any, Any]:
        table = np.append(process.posterior_variance[1], process.betas[1:])
        return process.gather(table, index, dtype), process.gather(np.log(table), index, dtype)


class LearnedVariance(Variance):
    """The network gives the log-variance itself."""

    outputs = 2

    def __call__(self, extra: Any, process: DiscreteProcess, index: Any, dtype: str) -> tuple[Any, Any]:
        return ops.exp(extra), extra


class LearnedRangeVariance(Variance):
    """An interpolation between beta and beta~ in the logarithm (Improved DDPM, equation 15)."""

    outputs = 2

    def __call__(self, extra: Any, process: DiscreteProcess, index: Any, dtype: str) -> tuple[Any, Any]:
        lower = process.gather(process.posterior_log_variance, index, dtype)
        upper = process.gather(np.log(process.betas), index, dtype)
        fraction = (extra + 1) / 2  # the network speaks in [-1, 1]
        log_variance = fraction * upper + (1 - fraction) * lower
        return ops.exp(log_variance), log_variance
