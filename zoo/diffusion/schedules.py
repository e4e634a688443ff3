"""How much noise: schedules of a discrete process, as float64 tables."""

import abc
import math

import numpy as np


class Schedule(abc.ABC):
    """Contract of the family: how the forward variances grow over a number of steps."""

    @abc.abstractmethod
    def betas(self, steps: int) -> np.ndarray:
        """The forward variances beta_1 .. beta_T.

        The process is the same at any T: abar at a share of the steps does not depend on it. A thousandth of it leaves
        the image nearly whole (beta_1 < 20 / T), all of it nearly nothing (abar_T < 0.01).

        Args:
            steps: T, the number of steps.

        Returns:
            float64 [T], each in (0, 1).
        """


class LinearSchedule(Schedule):
    """Equally spaced beta (DDPM, section 4), its end points given for 1,000 steps and scaled by 1000 / T.

    The scaling keeps the process the same at any T (guided-diffusion does so); SR3's 1e-6 .. 1e-2 over
    2,000 steps is start = 2e-6, end = 2e-2 here.
    """

    def __init__(self, start: float = 1e-4, end: float = 0.02) -> None:
        if not 0 < start < end:
            raise ValueError(f"start must be positive and below end, got start = {start}, end = {end}")
        if end >= 1:
            raise ValueError(f"end must be below 1, got {end}")
        self.start, self.end = start, end

    def betas(self, steps: int) -> np.ndarray:
        scale = 1000 / steps
        if self.end * scale >= 1:
            raise ValueError(f"end must be below {steps / 1000} for {steps} steps, got {self.end}")
        return np.linspace(self.start * scale, self.end * scale, steps, dtype=np.float64)


class CosineSchedule(Schedule):
    """The squared-cosine schedule: Improved DDPM, equation 17."""

    def __init__(self, offset: float = 0.008, largest: float = 0.999) -> None:
        if not 0 <= offset < 1:
            raise ValueError(f"offset must be in [0, 1), got {offset}")
        if not 0 < largest < 1:
            raise ValueError(f"largest must be in (0, 1), got {largest}")
        self.offset, self.largest = offset, largest

    def betas(self, steps: int) -> np.ndarray:
        def signal(u: float) -> float:
            return math.cos((u + self.offset) / (1 + self.offset) * math.pi / 2) ** 2

        # beta_t = 1 - abar(t) / abar(t-1), capped so that the last step keeps a trace of the image
        betas = [1 - signal((i + 1) / steps) / signal(i / steps) for i in range(steps)]
        return np.minimum(np.array(betas, dtype=np.float64), self.largest)
