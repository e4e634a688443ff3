"""A process in continuous time, given by its log signal-to-noise ratio, and the steps that samplers visit of it."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from zoo.diffusion.logsnr_schedules import LogSNRSchedule
from zoo.diffusion.process import DiscreteProcess, Level, Process
from zoo.diffusion.respacing import retained_steps, spread_times


class Transition(NamedTuple):
    """q(z_s | z_t, x) = N(coefficient_x x + coefficient_z z_t, beta~), and beta of q(z_t | z_s)."""

    coefficient_x: Any
    coefficient_z: Any
    log_small: Any
    """log beta~: minus infinity where z_s is the image."""
    log_beta: Any


def transition(logsnr_t: Any, logsnr_s: Any, xp: Any = ops) -> Transition:
    """The step from t back to s (simple diffusion, equation 3 and ddpm_sampler_step).

    With alpha_ts = alpha_t / alpha_s and sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2 = beta of equation 2, the mean
    has the coefficients alpha_s sigma_ts^2 / sigma_t^2 and alpha_ts sigma_s^2 / sigma_t^2. What equation 3 calls
    sigma_{t->s} is its variance sigma_ts^2 sigma_s^2 / sigma_t^2.

    Args:
        logsnr_t: of any shape.
        logsnr_s: larger; infinity is the image.
        xp: keras.ops, or NumPy for float64 tables.
    """

    def log_sigmoid(value: Any) -> Any:
        return -xp.logaddexp(xp.zeros_like(value), -value)

    signal_t, signal_s = log_sigmoid(logsnr_t), log_sigmoid(logsnr_s)  # log alpha^2
    noise_t, noise_s = log_sigmoid(-logsnr_t), log_sigmoid(-logsnr_s)  # log sigma^2
    fresh = -xp.expm1(logsnr_t - logsnr_s)  # sigma_ts^2 / sigma_t^2
    return Transition(
        coefficient_x=fresh * xp.exp(0.5 * signal_s),
        coefficient_z=xp.exp(0.5 * (signal_t - signal_s) + noise_s - noise_t),
        log_small=xp.log(fresh) + noise_s,
        log_beta=xp.log(fresh) + noise_t,
    )


class LogSNRSteps(DiscreteProcess):
    """Steps of a process in continuous time, as tables; the network is told their log SNR.

    Args:
        schedule: of the process.
        times: float64 [N], ascending in (0, 1]. The step from the first of them ends at the image.
    """

    told = "logsnr"

    def __init__(self, schedule: LogSNRSchedule, times: np.ndarray) -> None:
        self.schedule, self.times, self.time_range = schedule, times, None
        self.steps = self.trained_steps = len(times)
        self.timestep_map = np.arange(self.steps)
        self._logsnr = np.asarray(schedule.logsnr(times, np), np.float64)
        with np.errstate(over="ignore"):  # exp(infinity) of a step without any signal
            self.alphas_cumprod, self.variances = 1 / (1 + np.exp(-self._logsnr)), 1 / (1 + np.exp(self._logsnr))
        self.alphas_cumprod_previous = np.append(1.0, self.alphas_cumprod[:-1])
        self.alphas_cumprod_next = np.append(self.alphas_cumprod[1:], 0.0)
        with np.errstate(divide="ignore"):  # beta~ of the step that ends at the image is 0
            step = transition(self._logsnr, np.append(np.inf, self._logsnr[:-1]), np)
        self.betas, self.posterior_variance = np.exp(step.log_beta), np.exp(step.log_small)
        borrowed = step.log_small[1] if self.steps > 1 else step.log_beta[0]
        self.posterior_log_variance = np.append(borrowed, step.log_small[1:])
        self.posterior_coefficient_x, self.posterior_coefficient_z = step.coefficient_x, step.coefficient_z

    @property
    def logsnr(self) -> np.ndarray:
        return self._logsnr

    def respace(self, spacing: int | str | None) -> "LogSNRSteps":
        """Of these steps those that `retained_steps` keeps; None keeps all."""
        return self if spacing is None else LogSNRSteps(self.schedule, self.times[retained_steps(self.steps, spacing)])

    def level(self, index: Any, dtype: str = "float32") -> Level:
        alpha = self.gather(np.sqrt(self.alphas_cumprod), index, dtype)
        sigma = self.gather(np.sqrt(self.variances), index, dtype)
        return Level(index, alpha, sigma, {"logsnr": ops.reshape(self.gather(self._logsnr, index, dtype), (-1,))})

    def large_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        table = np.append(self.posterior_log_variance[0], np.log(self.betas[1:]))
        return self.gather(np.exp(table), index, dtype), self.gather(table, index, dtype)

    def decay(self, index: Any, dtype: str = "float32") -> Any:
        """That of continuous time: a single step has no other to take a difference to."""
        return self.gather(-self.schedule.derivative(self.times, np), index, dtype)


class LogSNRProcess(Process):
    """The process of a log SNR in continuous time: alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr).

    Training draws t ~ U(0, 1). A sampler visits t = 1/N, 2/N .. 1 and ends with the mean of the image at 1/N (simple
    diffusion, appendix A, with lowest_idx = 1). The variational bound is that of T steps of length 1/T, of which the
    drawn t begins one, so that on the grid of T steps all numbers are those of `LogSNRSteps`.

    Args:
        schedule: log SNR over t.
        steps: T; the training by a squared error does not depend on it.
    """

    told = "logsnr"

    def __init__(self, schedule: LogSNRSchedule, steps: int = 1000) -> None:
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        self.schedule, self.steps = schedule, steps

    @property
    def logsnr_range(self) -> tuple[float, float]:
        """The log SNR at t = 1 and at t = 0, which the network's embedding of it must reach."""
        late, early = np.asarray(self.schedule.logsnr(np.array([1.0, 0.0]), np))
        return float(late), float(early)

    def respace(self, spacing: int | str | None) -> LogSNRSteps:
        """The steps t = 1/N .. 1; of a list of counts, as many evenly in each equal section of time."""
        return LogSNRSteps(self.schedule, spread_times(self.steps if spacing is None else spacing))

    def level(self, index: Any, dtype: str = "float32") -> Level:
        logsnr = self.schedule.logsnr(ops.cast(index, dtype))
        alpha, sigma = (ops.sqrt(ops.sigmoid(_shaped(value, dtype))) for value in (logsnr, -logsnr))
        return Level(index, alpha, sigma, {"logsnr": logsnr})

    def draw(self, uniform: Any) -> Level:
        """t is the first column of `uniform`."""
        return self.level(uniform[:, 0])

    def between(self, index: Any, part: Any) -> Level:
        """At t = (index + 1 - part) / T."""
        return self.level((ops.cast(index, "float32") + 1 - part) / self.steps)

    def signal(self, s: int) -> float:
        return float(LogSNRSteps(self.schedule, np.array([s / self.steps])).alphas_cumprod[0]) if s else 1.0

    # ---- q(z_s | z_t, x) with s = t - 1/T; float32 numbers, where the steps of a sampler have tables

    def ends(self, index: Any) -> Any:
        return index < (1 + 1e-4) / self.steps  # 1/T ends at the image, however it is rounded

    def posterior_mean(self, x: Any, z: Any, index: Any) -> Any:
        coefficient_x, coefficient_z = self._coefficients(index, ops.dtype(z))
        return coefficient_x * x + coefficient_z * z

    def image_of_mean(self, mean: Any, z: Any, index: Any) -> Any:
        coefficient_x, coefficient_z = self._coefficients(index, ops.dtype(z))
        return (mean - coefficient_z * z) / coefficient_x

    def mean_rate(self, index: Any, dtype: str = "float32") -> Any:
        return self._coefficients(index, dtype)[0]

    def small_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        t, last, step = self._step(index, dtype)
        return ops.where(last, ops.zeros_like(t), ops.exp(step.log_small)), step.log_small

    def large_variance(self, index: Any, dtype: str = "float32") -> tuple[Any, Any]:
        _, last, step = self._step(index, dtype)
        logarithm = ops.where(last, step.log_small, step.log_beta)
        return ops.exp(logarithm), logarithm

    def log_beta(self, index: Any, dtype: str = "float32") -> Any:
        t, last, step = self._step(index, dtype)
        return ops.where(last, ops.log_sigmoid(-self.schedule.logsnr(t)), step.log_beta)

    def decay(self, index: Any, dtype: str = "float32") -> Any:
        return -self.schedule.derivative(_shaped(index, dtype))

    def _coefficients(self, index: Any, dtype: str) -> tuple[Any, Any]:
        """Of x and z in the mean."""
        t, last, step = self._step(index, dtype)
        zero = ops.zeros_like(t)
        return ops.where(last, zero + 1, step.coefficient_x), ops.where(last, zero, step.coefficient_z)

    def _step(self, index: Any, dtype: str) -> tuple[Any, Any, Transition]:
        """t, whether its step ends at the image, and the step back to t - 1/T or, if so, the one before it."""
        t = _shaped(index, dtype)
        last = self.ends(t)
        later = ops.where(last, t + 1 / self.steps, t)
        before = ops.maximum(later - 1 / self.steps, 0.0)
        return t, last, transition(self.schedule.logsnr(later), self.schedule.logsnr(before))


def _shaped(index: Any, dtype: str) -> Any:
    """[B] -> [B, 1, 1, 1], so that it multiplies images."""
    return ops.reshape(ops.cast(index, dtype), (-1, 1, 1, 1))
