"""The variance of the reverse process p(z_s | z_t)."""

import abc
from typing import Any

from keras import ops

from zoo.diffusion.process import Process


class Variance(abc.ABC):
    """Contract of the family: variance and log-variance of a reverse step."""

    outputs: int = 1
    """Network output channels for each image channel: 2 where the variance is learned."""

    @abc.abstractmethod
    def __call__(self, extra: Any, process: Process, index: Any, dtype: str) -> tuple[Any, Any]:
        """Variance and its logarithm of the step from `index`.

        Args:
            extra: the network's second half [B, H, W, C] where `outputs` is 2, else None.
            process: the trained one, or the steps of a sampler.
            index: [B], where in the process.
            dtype: of the result.

        Returns:
            Two tensors that broadcast over [B, H, W, C].
        """


class FixedSmallVariance(Variance):
    """The posterior variance beta~ (DDPM, section 3.2), 0 at the first step; its logarithm is clipped there."""

    def __call__(self, extra: Any, process: Process, index: Any, dtype: str) -> tuple[Any, Any]:
        return process.small_variance(index, dtype)


class FixedLargeVariance(Variance):
    """beta_t (DDPM, section 3.2), with the posterior's value at the first step to keep its likelihood finite."""

    def __call__(self, extra: Any, process: Process, index: Any, dtype: str) -> tuple[Any, Any]:
        return process.large_variance(index, dtype)


class LearnedVariance(Variance):
    """The network gives the log-variance itself."""

    outputs = 2

    def __call__(self, extra: Any, process: Process, index: Any, dtype: str) -> tuple[Any, Any]:
        return ops.exp(extra), extra


class LearnedRangeVariance(Variance):
    """An interpolation between beta and beta~ in the logarithm (Improved DDPM, equation 15)."""

    outputs = 2

    def __call__(self, extra: Any, process: Process, index: Any, dtype: str) -> tuple[Any, Any]:
        _, lower = process.small_variance(index, dtype)
        upper = process.log_beta(index, dtype)
        fraction = (extra + 1) / 2  # the network speaks in [-1, 1]
        log_variance = fraction * upper + (1 - fraction) * lower
        return ops.exp(log_variance), log_variance


class InterpolatedVariance(Variance):
    """noise_param of the way from beta~ to beta in the logarithm (simple diffusion, appendix A).

    The pseudo-code prints (1 - exp(..)) + log_sigmoid(..) for a log variance: the logarithm of the first factor is
    meant. It is a setting of sampling: a squared error does not know it. (The mean that `VLBLoss` trains does.)
    """

    def __init__(self, noise_param: float = 0.2) -> None:
        if not 0 <= noise_param <= 1:
            raise ValueError(f"noise_param must be in [0, 1], got {noise_param}")
        self.noise_param = noise_param

    def __call__(self, extra: Any, process: Process, index: Any, dtype: str) -> tuple[Any, Any]:
        _, min_lvar = process.small_variance(index, dtype)
        max_lvar = process.log_beta(index, dtype)
        log_variance = self.noise_param * max_lvar + (1 - self.noise_param) * min_lvar
        return ops.exp(log_variance), log_variance
