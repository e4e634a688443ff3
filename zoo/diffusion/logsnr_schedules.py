"""How much noise: schedules of a process in continuous time, as the log signal-to-noise ratio over t in [0, 1]."""

import abc
import math
from typing import Any

from keras import ops


class LogSNRSchedule(abc.ABC):
    """Contract of the family: log SNR = log(alpha^2 / sigma^2), falling with t.

    `xp` is keras.ops for tensors, or NumPy for float64 tables.
    """

    @abc.abstractmethod
    def logsnr(self, t: Any, xp: Any = ops) -> Any:
        """log SNR at t, of any shape."""

    @abc.abstractmethod
    def derivative(self, t: Any, xp: Any = ops) -> Any:
        """d log SNR / dt at t, of any shape: negative."""


class CosineLogSNRSchedule(LogSNRSchedule):
    """-2 log tan(t pi / 2), bounded at both ends (simple diffusion, appendix A, logsnr_schedule_cosine)."""

    def __init__(self, smallest: float = -15.0, largest: float = 15.0) -> None:
        if not smallest < largest:
            raise ValueError(f"smallest must be below largest, got {smallest} and {largest}")
        self.smallest, self.largest = smallest, largest
        self.t_min = math.atan(math.exp(-0.5 * largest))
        # pi / 2 - t_max, and t_max - t_min
        self.rest = math.atan(math.exp(0.5 * smallest))
        self.span = math.pi / 2 - self.rest - self.t_min

    def logsnr(self, t: Any, xp: Any = ops) -> Any:
        # From the nearer end: the tangent near pi / 2 would lose the digits of float32.
        early = -2 * xp.log(xp.tan(self.t_min + t * self.span))
        late = 2 * xp.log(xp.tan(self.rest + (1 - t) * self.span))
        return xp.where(t < 0.5, early, late)

    def derivative(self, t: Any, xp: Any = ops) -> Any:
        # d/dt log tan u = u' / (sin u cos u); sin 2u is the same of pi - 2u
        u = xp.where(t < 0.5, self.t_min + t * self.span, self.rest + (1 - t) * self.span)
        return -4 * self.span / xp.sin(2 * u)


class ShiftedSchedule(LogSNRSchedule):
    """A schedule of images of `noise_d` pixels for images of `image_d` (simple diffusion, equation 5).

    log SNR moves by 2 log(noise_d / image_d) everywhere, its ends too; averaged over squares to noise_d pixels, the
    images then have the signal-to-noise ratio of the schedule (equation 4).

    Args:
        schedule: at noise_d pixels.
        image_d: size of the images; of one that is not square the shorter side.
        noise_d: resolution that the schedule is made for; 64 is the paper's recommendation.
    """

    def __init__(self, schedule: LogSNRSchedule, image_d: int, noise_d: int) -> None:
        for name, value in (("image_d", image_d), ("noise_d", noise_d)):
            if value < 1:
                raise ValueError(f"{name} must be a size in pixels, got {value}")
        self.schedule, self.shift = schedule, 2 * math.log(noise_d / image_d)

    def logsnr(self, t: Any, xp: Any = ops) -> Any:
        return self.schedule.logsnr(t, xp) + self.shift

    def derivative(self, t: Any, xp: Any = ops) -> Any:
        return self.schedule.derivative(t, xp)


class InterpolatedSchedule(LogSNRSchedule):
    """t low(t) + (1 - t) high(t) of two shifted schedules (simple diffusion, appendix A, pseudo-code).

    Sampling starts, at t = 1, with the schedule shifted to `noise_d_low` and ends with that of `noise_d_high`.
    Equation 6 has the two the other way round, which for wide ratios is not even monotone.

    Args:
        schedule: before the shifts.
        image_d: size of the images; of one that is not square the shorter side.
        noise_d_low: resolution that the noisy end is made for.
        noise_d_high: resolution that the clean end is made for.
    """

    def __init__(self, schedule: LogSNRSchedule, image_d: int, noise_d_low: int, noise_d_high: int) -> None:
        if not noise_d_low <= noise_d_high:
            raise ValueError(
                f"noise_d_low must be at most noise_d_high: sampling starts with the noise for small images, got "
                f"{noise_d_low} and {noise_d_high}"
            )
        self.low = ShiftedSchedule(schedule, image_d, noise_d_low)
        self.high = ShiftedSchedule(schedule, image_d, noise_d_high)

    def logsnr(self, t: Any, xp: Any = ops) -> Any:
        return t * self.low.logsnr(t, xp) + (1 - t) * self.high.logsnr(t, xp)

    def derivative(self, t: Any, xp: Any = ops) -> Any:
        return self.low.derivative(t, xp) + self.low.shift - self.high.shift
