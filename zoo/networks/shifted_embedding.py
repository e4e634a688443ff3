"""The embedding of a log signal-to-noise ratio whose ends are shifted with the noise schedule."""

import math

from zoo.networks.embeddings import LogSNREmbedding


class ShiftedLogSNREmbedding(LogSNREmbedding):
    """The log SNR, mapped linearly to 0 .. 1000 between ends that are shifted along with the schedule.

    simple diffusion, appendix A: the end points move by 2 log(noise_d / image_d). An interpolated schedule
    t low(t) + (1 - t) high(t) begins at the upper end of `noise_d_high` and ends at the lower end of `noise_d_low`.

    Args:
        image_d: size of the images in pixels.
        noise_d: resolution that the schedule is shifted to; of an interpolated one, noise_d_low.
        noise_d_high: of an interpolated schedule; None for a shifted one.
        smallest: log SNR at t = 1 before the shift.
        largest: log SNR at t = 0 before the shift.
    """

    def __init__(
        self,
        image_d: int,
        noise_d: int,
        noise_d_high: int | None = None,
        smallest: float = -15.0,
        largest: float = 15.0,
    ) -> None:
        high = noise_d if noise_d_high is None else noise_d_high
        for name, value in (("image_d", image_d), ("noise_d", noise_d), ("noise_d_high", high)):
            if value < 1:
                raise ValueError(f"{name} must be a size in pixels, got {value}")
        super().__init__(smallest + 2 * math.log(noise_d / image_d), largest + 2 * math.log(high / image_d))
