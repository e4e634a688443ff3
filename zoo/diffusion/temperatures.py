"""Temperature: less diverse samples, by less noise in every step or by a larger score (ADM, appendix G)."""

import abc
from typing import Any

from zoo.diffusion.process import DiscreteProcess, Level
from zoo.diffusion.targets import Target


class Temperature(abc.ABC):
    """Contract of the family: what is scaled in every step of a sample; 1 is sampling as it was trained.

    Args:
        value: tau; below 1 there is less diversity.
    """

    def __init__(self, value: float) -> None:
        if value <= 0:
            raise ValueError(f"value must be positive (1 leaves samples as they are), got {value}")
        self.value = value

    @abc.abstractmethod
    def output(self, output: Any, z: Any, level: Level, target: Target, process: DiscreteProcess) -> Any:
        """The target half of a network output [B, H, W, C] at z, as it is to be read."""

    @abc.abstractmethod
    def noise(self, noise: Any) -> Any:
        """The noise [B, H, W, C] of a step, as it is to be added; not that which a sample starts from."""


class NoiseTemperature(Temperature):
    """The noise of every transition times tau."""

    def output(self, output: Any, z: Any, level: Level, target: Target, process: DiscreteProcess) -> Any:
        return output

    def noise(self, noise: Any) -> Any:
        return self.value * noise


class EpsilonTemperature(Temperature):
    """eps / tau: the score, -eps / sigma, made larger as classifier guidance makes it.

    Whatever the network predicts: its output is replaced by the one that says eps / tau of the same z. The image that
    this implies is clipped afterwards, as that of any output.
    """

    def output(self, output: Any, z: Any, level: Level, target: Target, process: DiscreteProcess) -> Any:
        x = target.image(output, z, level, process)
        eps = (z - level.alpha * x) / level.sigma / self.value
        return target.value((z - level.sigma * eps) / level.alpha, eps, z, level, process)

    def noise(self, noise: Any) -> Any:
        return noise
