"""What the network predicts, and how a prediction becomes an image."""

import abc
from typing import Any

from keras import ops

from zoo.diffusion.process import Level, Process


class Target(abc.ABC):
    """Contract of the family: the regression target, and the image that an output stands for.

    All tensors are [B, H, W, C].
    """

    @abc.abstractmethod
    def value(self, x: Any, noise: Any, z: Any, level: Level, process: Process) -> Any:
        """What the network should have said of z = alpha x + sigma noise."""

    @abc.abstractmethod
    def image(self, output: Any, z: Any, level: Level, process: Process) -> Any:
        """The image x that `output` implies."""

    @abc.abstractmethod
    def rate(self, level: Level, process: Process) -> Any:
        """[B, 1, 1, 1]: how much the target moves with the image, z being given.

        So an error in one target is an error in another: of the same image they are as their rates.
        """

    def mean(self, output: Any, x: Any, z: Any, level: Level, process: Process) -> Any:
        """The mean of p(z_s | z_t): the posterior's, given the (possibly clipped) image x."""
        return process.posterior_mean(x, z, level.index)


class NoiseTarget(Target):
    """The noise eps (DDPM, equation 11)."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: Process) -> Any:
        return noise

    def image(self, output: Any, z: Any, level: Level, process: Process) -> Any:
        return (z - level.sigma * output) / level.alpha

    def rate(self, level: Level, process: Process) -> Any:
        return -level.alpha / level.sigma


class ImageTarget(Target):
    """The image x itself."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: Process) -> Any:
        return x

    def image(self, output: Any, z: Any, level: Level, process: Process) -> Any:
        return output

    def rate(self, level: Level, process: Process) -> Any:
        return ops.ones_like(level.alpha)


class VelocityTarget(Target):
    """The velocity v = alpha eps - sigma x (Salimans and Ho 2022, section 4)."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: Process) -> Any:
        return level.alpha * noise - level.sigma * x

    def image(self, output: Any, z: Any, level: Level, process: Process) -> Any:
        return level.alpha * z - level.sigma * output

    def rate(self, level: Level, process: Process) -> Any:
        # -alpha (alpha / sigma) - sigma
        return -1 / level.sigma


class PosteriorMeanTarget(Target):
    """The mean of q(z_s | z_t, x) (DDPM, section 3.2: the first of its parameterisations)."""

    def value(self, x: Any, noise: Any, z: Any, level: Level, process: Process) -> Any:
        return process.posterior_mean(x, z, level.index)

    def image(self, output: Any, z: Any, level: Level, process: Process) -> Any:
        return process.image_of_mean(output, z, level.index)

    def rate(self, level: Level, process: Process) -> Any:
        return process.mean_rate(level.index, ops.dtype(level.alpha))

    def mean(self, output: Any, x: Any, z: Any, level: Level, process: Process) -> Any:
        """The output itself, whatever was done to the image."""
        return output
