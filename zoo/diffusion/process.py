"""What noise does to an image: the forward process, its posterior, and respacing."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from zoo.diffusion.respacing import retained_steps
from zoo.diffusion.schedules import Schedule


class Level(NamedTuple):
    """The noise level of each example of a batch: z = alpha x + sigma eps."""

    index: Any
    """int32 [B]: step among the steps of the process, 0 the least noise."""
    alpha: Any
    """[B, 1, 1, 1]: signal rate, the square root of abar."""
    sigma: Any
    """[B, 1, 1, 1]: noise rate, the square root of 1 - abar."""
    inputs: dict[str, Any]
    """What the network is told of it: `time` [B] or `logsnr` [B]."""


class DiscreteProcess:
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
        """The process that visits only the steps kept by `spacing` (see `retained_steps`); None keeps all."""
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
        """abar of z_s, which s steps of this process have made noisier: 1 for s = 0."""
        return float(np.append(1.0, self.alphas_cumprod)[s])

    def nearest(self, trained: "DiscreteProcess", s: int) -> str:
        """The levels s of the trained process beside `s` at which a step of this process begins, for a message."""
        cumprod = trained.alphas_cumprod
        met = [level + 1 for level in range(trained.steps) if self.index_after(float(cumprod[level])) is not None]
        beside = [*[level for level in met if level < s][-1:], *[level for level in met if level > s][:1]]
        return " or ".join(map(str, beside)) or "none of them is a step of the trained process"

    def model_time(self, index: Any, dtype: str = "float32") -> Any:
        """[B]: the step as the network receives it."""
        table = self.timestep_map.astype("float64")
        if self.time_range is not None:
            table = table * (self.time_range / self.trained_steps)
        return ops.take(ops.convert_to_tensor(table.astype(dtype)), index, axis=0)

    def level(self, index: Any, dtype: str = "float32") -> Level:
        """The noise level at step `index` int [B]."""
        alpha = self.gather(np.sqrt(self.alphas_cumprod), index, dtype)
        sigma = self.gather(np.sqrt(1 - self.alphas_cumprod), index, dtype)
        return Level(index, alpha, sigma, {"time": self.model_time(index, dtype)})

    def draw(self, uniform: Any) -> Level:
        """A training level from `uniform` [B, 2] in [0, 1): t ~ U{0 .. T - 1}, from the first column."""
        return self.level(self._draw_index(uniform))

    def between(self, index: Any, part: Any) -> Level:
        """The level at step `index` int [B]: of a process whose network knows steps alone, whatever `part` [B] says."""
        return self.level(index)

    def _draw_index(self, uniform: Any) -> Any:
        index = ops.cast(ops.floor(uniform[:, 0] * self.steps), "int32")
        return ops.minimum(index, self.steps - 1)  # float32 rounding can reach T

    def corrupt(self, x: Any, noise: Any, level: Level) -> Any:
        """q(z_t | x), DDPM equation 4: alpha x + sigma noise."""
        return level.alpha * x + level.sigma * noise

    def posterior_mean(self, x: Any, z: Any, index: Any) -> Any:
        """Mean of q(z_s | z_t, x), DDPM equation 7."""
        dtype = ops.dtype(z)
        coefficient_x = self.gather(self.posterior_coefficient_x, index, dtype)
        return coefficient_x * x + self.gather(self.posterior_coefficient_z, index, dtype) * z


class ContinuousNoiseProcess(DiscreteProcess):
    """A process whose network is told the noise level itself, log(alpha^2 / sigma^2), as in WaveGrad and SR3.

    In training abar is drawn uniformly in sqrt(abar) between the two neighbours of a uniformly drawn step
    (SR3, section 2.4), so that the network may be sampled with another schedule and any number of steps.
    """

    told = "logsnr"

    def level(self, index: Any, dtype: str = "float32") -> Level:
        level = super().level(index, dtype)
        logsnr = np.log(self.alphas_cumprod) - np.log1p(-self.alphas_cumprod)
        return level._replace(inputs={"logsnr": ops.take(ops.convert_to_tensor(logsnr.astype(dtype)), index, axis=0)})

    def draw(self, uniform: Any) -> Level:
        return self.between(self._draw_index(uniform), uniform[:, 1])

    def between(self, index: Any, part: Any) -> Level:
        """The level `part` [B] of the way, in sqrt(abar), from step `index` int [B] to the one before it."""
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
