"""How much an error counts at each noise level."""

import abc
from typing import Any

from keras import ops

from zoo.diffusion.process import Level, Process
from zoo.diffusion.targets import ImageTarget, NoiseTarget, Target


class Weighting(abc.ABC):
    """Contract of the family: what the squared error of the network's target is multiplied by."""

    @abc.abstractmethod
    def __call__(self, level: Level, process: Process, target: Target) -> Any:
        """[B, 1, 1, 1], not negative.

        Args:
            level: of the examples.
            process: that they were drawn from.
            target: what the network predicts.
        """


class TargetWeighting(Weighting):
    """The squared error of another target than the one that the network predicts.

    simple diffusion, appendix A: v-prediction with the epsilon loss, where eps = sigma z + alpha v, so that
    |eps - eps'|^2 is alpha^2 |v - v'|^2.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, level: Level, process: Process, target: Target) -> Any:
        return ops.square(self.target.rate(level, process) / target.rate(level, process))


class VariationalWeighting(Weighting):
    """-d log SNR / dt / 2 of the squared error of the noise: the bound of continuous time (VDM, equation 17).

    In nats per dimension, without the terms of the two ends. simple diffusion, section 2, leaves out the half.
    """

    def __call__(self, level: Level, process: Process, target: Target) -> Any:
        decay = process.decay(level.index, ops.dtype(level.alpha))
        return 0.5 * decay * TargetWeighting(NoiseTarget())(level, process, target)


class MinSNRWeighting(Weighting):
    """min(SNR, gamma) of the squared error of the image (Hang et al. 2023, section 3.4)."""

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        self.gamma = gamma

    def __call__(self, level: Level, process: Process, target: Target) -> Any:
        snr = ops.square(level.alpha / level.sigma)
        return ops.minimum(snr, self.gamma) * TargetWeighting(ImageTarget())(level, process, target)
