"""Steps from noise to image. A sampler is stateless: the loop over steps lives in zoo/sampling.py.

What a walk remembers from one step to the next is an argument and a result of `advance`.
"""

import abc
from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.guidance import Guidance, shift_mean, shift_score
from zoo.diffusion.objective import Objective, Prediction
from zoo.diffusion.process import DiscreteProcess, Level, Process, noise_of
from zoo.diffusion.temperatures import NoiseTemperature, Temperature

Memory = tuple[Any, ...]
"""Tensors of fixed shapes, [B, ...]; empty for a sampler that needs no more than z."""


class Clipping(abc.ABC):
    """Contract of the family: what is done to every predicted image before it is used."""

    @abc.abstractmethod
    def __call__(self, x: Any) -> Any:
        """[B, H, W, C] -> [B, H, W, C]."""


class StaticClipping(Clipping):
    """Clips the predicted image to [-1, 1] (DDPM's public code)."""

    def __call__(self, x: Any) -> Any:
        return ops.clip(x, -1.0, 1.0)


class DynamicClipping(Clipping):
    """Clips the predicted image to [-s, s] and divides by s, a percentile of its absolute values, at least 1.

    Imagen (Saharia et al. 2022, section 2.3, dynamic thresholding), to which simple diffusion refers.

    Args:
        percentile: share of the values of an image that stay as they are.
    """

    def __init__(self, percentile: float = 0.995) -> None:
        if not 0 < percentile <= 1:
            raise ValueError(f"percentile must be in (0, 1], got {percentile}")
        self.percentile = percentile

    def __call__(self, x: Any) -> Any:
        values = ops.abs(ops.reshape(x, (x.shape[0], -1)))
        s = ops.maximum(ops.quantile(values, self.percentile, axis=-1), 1.0)
        s = ops.reshape(s, (-1, 1, 1, 1))
        return ops.clip(x, -s, s) / s


class Restart:
    """More sampling steps: the sample is made noisy again to step `step` of T, and walks down from there once more.

    CDM, table 2a: to step 2,000 of 4,000. `times` repeats it.
    """

    def __init__(self, step: int, times: int = 1) -> None:
        if step < 1 or times < 1:
            raise ValueError(f"step and times must be positive, got step = {step}, times = {times}")
        self.step, self.times = step, times

    def first(self, plan: DiscreteProcess, trained: Process) -> int:
        """The step of the plan that takes z_step on."""
        if self.step > trained.steps:
            raise ValueError(f"step must be in 1 .. {trained.steps}, the steps of the process, got {self.step}")
        index = plan.index_after(trained.signal(self.step))
        if index is None:
            raise ValueError(
                f"step must be one that the sampler's {plan.steps} steps visit: {plan.nearest(trained, self.step)}, "
                f"got {self.step}"
            )
        return index


class Sampler(abc.ABC):
    """Contract of the family: one step of the reverse process.

    `steps` respaces the trained process (see `retained_steps`; None: every step). `process` samples on a
    schedule of its own instead, which only a network that is told the noise level itself allows. `restart` walks
    part of the way a second time. `temperature` makes samples less diverse; None leaves them. `guidance` turns every
    step towards what is asked for.
    """

    def __init__(
        self,
        steps: int | str | None = None,
        clipping: Clipping | None = None,
        process: Process | None = None,
        restart: Restart | None = None,
        temperature: Temperature | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        if steps is not None and process is not None:
            raise ValueError(f"steps must be None where process is given (it has its own steps), got {steps}")
        if process is not None and process.told != "logsnr":
            raise ValueError(
                f"process must be one that tells the log SNR, got {type(process).__name__}: a network that was told "
                "step indices knows no others"
            )
        if isinstance(steps, int) and steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        self.steps, self.clipping, self.process, self.restart = steps, clipping, process, restart
        self.temperature, self.guidance = temperature, guidance
        if isinstance(temperature, NoiseTemperature) and not self.random:
            name = type(self).__name__
            raise ValueError(f"temperature: NoiseTemperature scales the noise of every step, and this {name} adds none")

    def plan(self, trained: Process) -> DiscreteProcess:
        """The steps that are walked, given the process that the network was trained on."""
        if self.process is None:
            return trained.respace(self.steps)
        if trained.told != "logsnr":
            raise ValueError(
                "Sampler.process needs a network that is told the log SNR, such as one trained on a "
                f"ContinuousNoiseProcess; this one is trained on a {type(trained).__name__}"
            )
        return self.process.respace(None)

    def walks(self, trained: Process) -> list[int]:
        """The first step of every walk down the plan: its last one, and where each restart begins."""
        plan = self.plan(trained)
        again = [] if self.restart is None else [self.restart.first(plan, trained)] * self.restart.times
        return [plan.steps - 1, *again]

    def predict(self, objective: Objective, output: Any, z: Any, level: Level, process: DiscreteProcess) -> Prediction:
        """Reads a network output at z on the steps of `process`, with temperature and clipping."""
        if self.temperature is not None:
            value, extra = objective.split(output)
            value = self.temperature.output(value, z, level, objective.target, process)
            output = value if extra is None else ops.concatenate([value, extra], axis=-1)
        return objective.predict(output, z, level, process, self.clipping)

    def scaled(self, noise: Any) -> Any:
        """Standard normal noise as `step` is to be given it."""
        return noise if self.temperature is None else self.temperature.noise(noise)

    @property
    def random(self) -> bool:
        """Whether `step` uses its noise."""
        return True

    @abc.abstractmethod
    def step(self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess) -> Any:
        """z_t -> z_s, one step less noisy.

        Args:
            prediction: of the network at z, read on `process`.
            z: [B, H, W, C].
            index: int [B], the step of z; at 0 the result is the image.
            noise: [B, H, W, C], standard normal and then `scaled`.
            process: the plan.
        """

    def shift(self, prediction: Prediction, pull: Any, z: Any, index: Any, process: DiscreteProcess) -> Prediction:
        """The prediction turned along `pull` [B, H, W, C], the scaled gradient of a log-probability in z.

        A sampler that follows the score shifts that (ADM, algorithm 2).
        """
        return shift_score(prediction, pull, z, index, process)

    def start(self, z: Any) -> Memory:
        """What a walk that begins at z [B, H, W, C] remembers."""
        return ()

    def advance(
        self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess, memory: Memory
    ) -> tuple[Any, Memory]:
        """`step` within a walk, whose steps all follow one another: with what it remembers, and what it then does."""
        return self.step(prediction, z, index, noise, process), memory


class AncestralSampler(Sampler):
    """A draw from p(z_s | z_t) (DDPM, algorithm 2); the last step is its mean. Guidance shifts the mean (ADM,
    algorithm 1).
    """

    def shift(self, prediction: Prediction, pull: Any, z: Any, index: Any, process: DiscreteProcess) -> Prediction:
        return shift_mean(prediction, pull)

    def step(self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess) -> Any:
        spread = ops.exp(0.5 * prediction.log_variance) * noise
        return prediction.mean + _unless_last(index, spread)


class DDIMSampler(Sampler):
    """DDIM (Song et al. 2021, equation 12): eta = 0 is deterministic, eta = 1 as random as ancestral sampling.

    The noise is derived again from the clipped image, as the public ADM code does.
    """

    def __init__(
        self,
        steps: int | str | None = None,
        eta: float = 0.0,
        clipping: Clipping | None = None,
        process: Process | None = None,
        restart: Restart | None = None,
        temperature: Temperature | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        if eta < 0:
            raise ValueError(f"eta must not be negative, got {eta}")
        self.eta = eta  # before the rest is checked: it says whether there is noise
        super().__init__(steps, clipping, process, restart, temperature, guidance)

    @property
    def random(self) -> bool:
        return self.eta > 0

    def step(self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess) -> Any:
        cumprod, previous = process.alphas_cumprod, process.alphas_cumprod_previous
        # equation 16: the part of the noise that is drawn anew
        sigma = self.eta * np.sqrt((1 - previous) / (1 - cumprod)) * np.sqrt(1 - cumprod / previous)
        # rounding can take this below zero where abar is almost 0 and eta is 1
        direction = np.sqrt(np.maximum(1 - previous - sigma**2, 0))
        dtype = ops.dtype(z)
        eps = noise_of(prediction.x, z, index, process)
        mean = process.gather(np.sqrt(previous), index, dtype) * prediction.x
        mean = mean + process.gather(direction, index, dtype) * eps
        return mean + _unless_last(index, process.gather(sigma, index, dtype) * noise)

    def invert(self, prediction: Prediction, z: Any, index: Any, process: DiscreteProcess) -> Any:
        """z_s -> z_t, one step noisier: the deterministic walk backwards, which encodes an image (ADM, appendix F)."""
        following = process.alphas_cumprod_next
        dtype = ops.dtype(z)
        eps = noise_of(prediction.x, z, index, process)
        mean = process.gather(np.sqrt(following), index, dtype) * prediction.x
        return mean + process.gather(np.sqrt(1 - following), index, dtype) * eps


def _unless_last(index: Any, value: Any) -> Any:
    keep = ops.cast(ops.reshape(index > 0, (-1, 1, 1, 1)), ops.dtype(value))
    return keep * value
