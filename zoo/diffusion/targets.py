"""What the network predicts, and how a prediction becomes an image."""

import abc
from typing import Any

from keras import ops

from zoo.diffusion.process import DiscreteProcess, Level


class Target(abc.ABC):
    """Contract of the family: the regression target, and the image that an output stands for.

    All tensors are [B, H, W, C].
    """

    @abc.abstractmethod
    def value(self, x: Any, noise: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        """What the network should have said of z = alpha x + sigma noise."""

    @abc.abstractmethod
    def image(self, output: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        """The image x that `output` implies."""

    def mean(self, output: Any, x: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        """The mean of p(z_s | z_t): the posterior's, given the (possibly clipped) image x."""
        return process.posterior_mean(x, z, level.index)


class NoiseTarget(Target):
    """The noise eps (DDPM, equation 11)."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return noise

    def image(self, output: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return (z - level.sigma * output) / level.alpha


class ImageTarget(Target):
    """The image x itself."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return x

    def image(self, output: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return output


class VelocityTarget(Target):
    """The velocity v = alpha eps - sigma x (Salimans and Ho 2022, section 4)."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return level.alpha * noise - level.sigma * x

    def image(self, output: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return level.alpha * z - level.sigma * output


class PosteriorMeanTarget(Target):
    """The mean of q(z_s | z_t, x) (DDPM, section 3.2: the first of its parameterisations)."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        return process.posterior_mean(x, z, level.index)

    def image(self, output: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        dtype = ops.dtype(z)
        ratio = process.posterior_coefficient_z / process.posterior_coefficient_x
        scale = process.gather(1 / process.posterior_coefficient_x, level.index, dtype)
        return scale * output - process.gather(ratio, level.index, dtype) * z

    def mean(self, output: Any, x: Any, z: Any, level: Level, process: DiscreteProcess) -> Any:
        """The output itself, whatever was done to the image."""
        return output
