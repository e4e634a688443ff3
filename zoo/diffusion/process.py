"""What noise does to an image: the contract of a process, and processes of T steps with their tables."""

import abc
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from zoo.diffusion.respacing import retained_steps
from zoo.diffusion.schedules import Schedule


class Level(NamedTuple):
    """The noise level of each example of a batch: z = alpha x + sigma eps."""

    index: Any
    """int32 [B]: step among the steps of the process, 0 the least noise; of a process in continuous time the time,
    float [B]."""
    alpha: Any
    """[B, 1, 1, 1]: signal rate, the square root of abar."""
    sigma: Any
    """[B, 1, 1, 1]: noise rate, the square root of 1 - abar."""
    inputs: dict[str, Any]
    """What the network is told of it: `time` [B] or `logsnr` [B]."""


class Process(abc.ABC):
    """Contract of the family: what noise does to an image, z_t = alpha x + sigma eps with alpha^2 + sigma^2 = 1.

    Training draws a level of it; a sampler walks down the steps that `respace` gives, a `DiscreteProcess`. `index` is
    where in the process an example is, [B]: a step where there are steps, a time in (0, 1] where there are none.

    Attributes:
        told: the input by which the network is told the noise level: "time" or "logsnr".
        schedule: of the noise.
        steps: T: of the variational bound, of the levels s of an augmentation, of a sampler that is given no number.
    """

    told: str
    schedule: Any
    steps: int

    @abc.abstractmethod
    def respace(self, spacing: int | str | None) -> "DiscreteProcess":
        """The steps that a sampler visits, by its `steps` (see `retained_steps`); None is every one of T."""

    @abc.abstractmethod
    def level(self, index: Any, dtype: str = "float32") -> Level:
        """The noise level at `index` [B]."""

    @abc.abstractmethod
    def draw(self, uniform: Any) -> Level:
        """A training level from `uniform` [B, 2] in [0, 1)."""

    @abc.abstractmethod
    def between(self, index: Any, part: Any) -> Level:
        """The level `part` [B] of the way from step `index` int [B] of T to the one before it."""

    @abc.abstractmethod
    def signal(self, s: int) -> float:
        """abar of z_s, which s steps of T have made noisier: 1 for s = 0."""

    def corrupt(self, x: Any, noise: Any, level: Level) -> Any:
        """q(z_t | x), DDPM equation 4: alpha x + sigma noise."""
        return level.alpha * x + level.sigma * noise

    # ---- q(z_s | z_t, x), one of T steps back

    @abc.abstractmethod
    def ends(self, index: Any) -> Any:
        """bool [B]: whether the step from `index` ends at the image."""

    @abc.abstractmethod
    def posterior_mean(self, x: Any, z: Any, index: Any) -> Any:
        """Mean of q(z_s | z_t, x), DDPM equation 7."""

    @abc.abstractmethod
    def image_of_mean(self, mean: Any, z: Any, index: Any) -> Any:
        """The image x whose posterior has `mean`."""

    @abc.abstractmethod
    def mean_rate(self, index: Any, dtype: str = "float32") -> Any:
        """[B, 1, 1, 1]: how much the mean of q(z_s | z_t, x) moves with x."""

    @abc.abstractmethod
    def small_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        """beta~, the variance of q(z_s | z_t, x), DDPM equation 7, and its logarithm, each [B, 1, 1, 1].

        Where the step ends at the image it is 0, and its logarithm borrows that of the step before.
        """

    @abc.abstractmethod
    def large_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        """beta, the variance of q(z_t | z_s), and its logarithm, each [B, 1, 1, 1].

        Where the step ends at the image, both borrow beta~ of the step before.
        """

    @abc.abstractmethod
    def log_beta(self, index: Any, dtype: str = "float32") -> Any:
        """log beta [B, 1, 1, 1], everywhere."""

    @abc.abstractmethod
    def decay(self, index: Any, dtype: str = "float32") -> Any:
        """-d log SNR / dt, with t from 0 to 1, [B, 1, 1, 1]."""


class DiscreteProcess(Process):
    """The Gaussian process of T steps (DDPM, equations 2-7), with its tables in float64.

    The network is told the step index, scaled to 0 .. `time_range` where that is given.

    Attributes:
        told: the name of the network's input for the noise level.
    """

    told = "time"

    def __init__(self, schedule: Schedule, steps: int, time_range: float | None = None) -> None:
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        if time_range is not None and time_range <= 0:
            raise ValueError(f"time_range must be positive or None, got {time_range}")
        self.schedule, self.time_range = schedule, time_range
        self._set_tables(schedule.betas(steps), np.arange(steps), steps)

    def _set_tables(self, betas: np.ndarray, timestep_map: np.ndarray, trained_steps: int) -> None:
        self.betas, self.timestep_map, self.trained_steps = betas, timestep_map, trained_steps
        self.steps = len(betas)
        self.alphas_cumprod = np.cumprod(1.0 - betas)
        previous = np.append(1.0, self.alphas_cumprod[:-1])
        following = np.append(self.alphas_cumprod[1:], 0.0)
        self.alphas_cumprod_previous, self.alphas_cumprod_next = previous, following
        # q(z_s | z_t, x), DDPM equations 6 and 7
        self.posterior_variance = betas * (1 - previous) / (1 - self.alphas_cumprod)
        # The variance is 0 at the first step: its logarithm borrows the second step's.
        self.posterior_log_variance = np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))
        self.posterior_coefficient_x = betas * np.sqrt(previous) / (1 - self.alphas_cumprod)
        self.posterior_coefficient_z = (1 - previous) * np.sqrt(1 - betas) / (1 - self.alphas_cumprod)

    def respace(self, spacing: int | str | None) -> "DiscreteProcess":
        if spacing is None:
            return self
        kept = np.array(retained_steps(self.steps, spacing))
        if len(kept) < 2:
            raise ValueError(f"steps must keep at least 2 steps, got {spacing}")
        cumprod = self.alphas_cumprod[kept]
        respaced = object.__new__(type(self))
        respaced.__dict__.update(self.__dict__)
        respaced._set_tables(1 - cumprod / np.append(1.0, cumprod[:-1]), self.timestep_map[kept], self.trained_steps)
        return respaced

    def gather(self, table: np.ndarray, index: Any, dtype: str = "float32") -> Any:
        """Values of a table at `index` [B], shaped [B, 1, 1, 1] so that they multiply images."""
        values = ops.take(ops.convert_to_tensor(table.astype(dtype)), index, axis=0)
        return ops.reshape(values, (-1, 1, 1, 1))

    def index_after(self, signal: float) -> int | None:
        """The step that takes on z which keeps `signal` = abar of the image; None where no step begins there."""
        found = np.flatnonzero(np.isclose(self.alphas_cumprod, signal, rtol=1e-9, atol=0))
        return int(found[0]) if len(found) else None

    def signal(self, s: int) -> float:
        return float(np.append(1.0, self.alphas_cumprod)[s])

    def nearest(self, trained: Process, s: int) -> str:
        """The levels s of the trained process beside `s` at which a step of this process begins, for a message."""
        levels = range(1, trained.steps + 1)
        met = [level for level in levels if self.index_after(trained.signal(level)) is not None]
        beside = [*[level for level in met if level < s][-1:], *[level for level in met if level > s][:1]]
        return " or ".join(map(str, beside)) or "none of them is a step of the trained process"

    def model_time(self, index: Any, dtype: str = "float32") -> Any:
        """[B]: the step as the network receives it."""
        table = self.timestep_map.astype("float64")
        if self.time_range is not None:
            table = table * (self.time_range / self.trained_steps)
        return ops.take(ops.convert_to_tensor(table.astype(dtype)), index, axis=0)

    @property
    def logsnr(self) -> np.ndarray:
        """float64 [T]: log(alpha^2 / sigma^2)."""
        return np.log(self.alphas_cumprod) - np.log1p(-self.alphas_cumprod)

    def level(self, index: Any, dtype: str = "float32") -> Level:
        alpha = self.gather(np.sqrt(self.alphas_cumprod), index, dtype)
        sigma = self.gather(np.sqrt(1 - self.alphas_cumprod), index, dtype)
        return Level(index, alpha, sigma, {"time": self.model_time(index, dtype)})

    def draw(self, uniform: Any) -> Level:
        """t ~ U{0 .. T - 1}, from the first column of `uniform`."""
        return self.level(self._draw_index(uniform))

    def between(self, index: Any, part: Any) -> Level:
        """At step `index` whatever `part` says: the network knows steps alone."""
        return self.level(index)

    def _draw_index(self, uniform: Any) -> Any:
        index = ops.cast(ops.floor(uniform[:, 0] * self.steps), "int32")
        return ops.minimum(index, self.steps - 1)  # float32 rounding can reach T

    # ---- q(z_s | z_t, x)

    def ends(self, index: Any) -> Any:
        return index == 0

    def posterior_mean(self, x: Any, z: Any, index: Any) -> Any:
        dtype = ops.dtype(z)
        coefficient_x = self.gather(self.posterior_coefficient_x, index, dtype)
        return coefficient_x * x + self.gather(self.posterior_coefficient_z, index, dtype) * z

    def image_of_mean(self, mean: Any, z: Any, index: Any) -> Any:
        dtype = ops.dtype(z)
        ratio = self.posterior_coefficient_z / self.posterior_coefficient_x
        scale = self.gather(1 / self.posterior_coefficient_x, index, dtype)
        return scale * mean - self.gather(ratio, index, dtype) * z

    def mean_rate(self, index: Any, dtype: str = "float32") -> Any:
        return self.gather(self.posterior_coefficient_x, index, dtype)

    def small_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        variance = self.gather(self.posterior_variance, index, dtype)
        return variance, self.gather(self.posterior_log_variance, index, dtype)

    def large_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        table = np.append(self.posterior_variance[1], self.betas[1:])
        return self.gather(table, index, dtype), self.gather(np.log(table), index, dtype)

    def log_beta(self, index: Any, dtype: str = "float32") -> Any:
        return self.gather(np.log(self.betas), index, dtype)

    def decay(self, index: Any, dtype: str = "float32") -> Any:
        """By the difference to the step before; the first step borrows that of the second."""
        steps = -np.diff(self.logsnr) * self.steps
        return self.gather(np.append(steps[0], steps), index, dtype)


class ContinuousNoiseProcess(DiscreteProcess):
    """A process whose network is told the noise level itself, log(alpha^2 / sigma^2), as in WaveGrad and SR3.

    In training abar is drawn uniformly in sqrt(abar) between the two neighbours of a uniformly drawn step
    (SR3, section 2.4), so that the network may be sampled with another schedule and any number of steps.
    """

    told = "logsnr"

    def level(self, index: Any, dtype: str = "float32") -> Level:
        level = super().level(index, dtype)
        told = ops.take(ops.convert_to_tensor(self.logsnr.astype(dtype)), index, axis=0)
        return level._replace(inputs={"logsnr": told})

    def draw(self, uniform: Any) -> Level:
        return self.between(self._draw_index(uniform), uniform[:, 1])

    def between(self, index: Any, part: Any) -> Level:
        """The level `part` [B] of the way in sqrt(abar)."""
        lower = self.gather(np.sqrt(self.alphas_cumprod), index)
        upper = self.gather(np.sqrt(self.alphas_cumprod_previous), index)
        alpha = lower + (upper - lower) * ops.reshape(part, (-1, 1, 1, 1))
        variance = ops.maximum(1 - alpha * alpha, 1e-8)  # alpha can round to 1 beside the clean image
        logsnr = ops.reshape(2 * ops.log(alpha) - ops.log(variance), (-1,))
        return Level(index, alpha, ops.sqrt(variance), {"logsnr": logsnr})


def noise_of(x: Any, z: Any, index: Any, process: DiscreteProcess) -> Any:
    """The noise eps for which z = alpha x + sigma eps."""
    dtype = ops.dtype(z)
    alpha = process.gather(np.sqrt(process.alphas_cumprod), index, dtype)
    return (z - alpha * x) / process.gather(np.sqrt(1 - process.alphas_cumprod), index, dtype)
