"""Continuous time: log SNR schedules against the pseudo-code of simple diffusion, and the process against its steps."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from keras import ops

from zoo import registry
from zoo.data.crops import CenterCrop
from zoo.diffusion import variances
from zoo.diffusion.conditioning import GaussianNoise
from zoo.diffusion.logsnr_process import LogSNRProcess, LogSNRSteps
from zoo.diffusion.logsnr_schedules import (
    CosineLogSNRSchedule,
    InterpolatedSchedule,
    LogSNRSchedule,
    ShiftedSchedule,
)
from zoo.diffusion.losses import SimpleLoss, VLBLoss, mean_over_pixels
from zoo.diffusion.objective import Objective
from zoo.diffusion.respacing import spread_times
from zoo.diffusion.samplers import AncestralSampler, StaticClipping
from zoo.diffusion.targets import ImageTarget, NoiseTarget, VelocityTarget
from zoo.diffusion.weightings import TargetWeighting, VariationalWeighting
from zoo.networks.shifted_embedding import ShiftedLogSNREmbedding
from zoo.pipeline import Stage

TIMES = np.linspace(0, 1, 1001)
COSINE = CosineLogSNRSchedule()
SCHEDULES: dict[str, LogSNRSchedule] = {
    "CosineLogSNRSchedule": COSINE,
    "ShiftedSchedule": ShiftedSchedule(COSINE, image_d=256, noise_d=64),
    "InterpolatedSchedule": InterpolatedSchedule(COSINE, image_d=512, noise_d_low=32, noise_d_high=256),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
SHAPE = (3, 4, 5, 2)
SMALL = variances.FixedSmallVariance()


def normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def near(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------ schedules


def logsnr_schedule_cosine(t: np.ndarray, logsnr_min: float = -15, logsnr_max: float = +15) -> np.ndarray:
    """As printed."""
    t_min = np.arctan(np.exp(-0.5 * logsnr_max))
    t_max = np.arctan(np.exp(-0.5 * logsnr_min))
    return -2 * np.log(np.tan(t_min + t * (t_max - t_min)))


def logsnr_schedule_cosine_shifted(t: np.ndarray, image_d: int, noise_d: int) -> np.ndarray:
    return logsnr_schedule_cosine(t) + 2 * np.log(noise_d / image_d)


def test_every_schedule_is_under_contract():
    assert {n for n, c in registry.load().components.items() if c.family == "log SNR schedules"} == set(SCHEDULES)


@every_schedule
def test_contract_of_schedules(name: str):
    schedule = SCHEDULES[name]
    exact = schedule.logsnr(TIMES, np)
    assert exact.dtype == np.float64
    assert (np.diff(exact) < 0).all()
    # nearly all image at one end, nearly all noise at the other
    assert 1 / (1 + np.exp(exact[0])) < 1e-4
    assert 1 / (1 + np.exp(-exact[-1])) < 1e-4
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-12)):
        found = schedule.logsnr(ops.convert_to_tensor(TIMES.astype(dtype)))
        assert ops.dtype(found) == dtype
        near(found, exact, tolerance)
    step = 1e-5
    inner = TIMES[1:-1]
    slopes = (schedule.logsnr(inner + step, np) - schedule.logsnr(inner - step, np)) / (2 * step)
    near(schedule.derivative(inner, np), slopes, 1e-4)
    near(schedule.derivative(ops.convert_to_tensor(inner)), schedule.derivative(inner, np), 1e-12)


def test_cosine_is_the_pseudo_code():
    near(COSINE.logsnr(TIMES, np), logsnr_schedule_cosine(TIMES))
    near(COSINE.logsnr(np.array([0.0, 0.5, 1.0]), np), [15, 0, -15])
    near(CosineLogSNRSchedule(-12, 9).logsnr(TIMES, np), logsnr_schedule_cosine(TIMES, -12, 9))
    # away from its ends that of section 3.1
    middle = TIMES[200:-200]
    near(COSINE.logsnr(middle, np), -2 * np.log(np.tan(math.pi * middle / 2)), 2e-3)


@pytest.mark.parametrize("d", [64, 128, 256, 512])
def test_a_shift_multiplies_the_ratio(d: int):
    """Equation 5: SNR(d) = SNR(64) (64 / d)^2, at the ends too."""
    shifted = ShiftedSchedule(COSINE, image_d=d, noise_d=64).logsnr(TIMES, np)
    near(np.exp(shifted), np.exp(COSINE.logsnr(TIMES, np)) * (64 / d) ** 2, 1e-12)
    near(shifted, logsnr_schedule_cosine_shifted(TIMES, d, 64))
    ends = LogSNRProcess(ShiftedSchedule(COSINE, d, 64)).logsnr_range
    near(ends, (-15 + 2 * math.log(64 / d), 15 + 2 * math.log(64 / d)))


def test_averaging_brings_a_shifted_process_to_the_one_it_is_shifted_to():
    """Equation 4, on noise: pooled from 512 to 64 pixels, the noise of the shifted process is that of the other."""
    d, noise_d = 512, 64
    shifted, reference = LogSNRProcess(ShiftedSchedule(COSINE, d, noise_d)), LogSNRProcess(COSINE)
    pooled = np.random.default_rng(0).standard_normal((d, d)).reshape(noise_d, 8, noise_d, 8).mean(axis=(1, 3))
    for t in (0.1, 0.5, 0.9):
        here, there = (process.level(np.array([t]), "float64") for process in (shifted, reference))
        deviation = float(here.sigma[0, 0, 0, 0]) * pooled.std()
        # alpha of an image that averaging leaves alone, over the noise that it leaves
        ratio = float(here.alpha[0, 0, 0, 0]) / deviation
        expected = float(there.alpha[0, 0, 0, 0] / there.sigma[0, 0, 0, 0])
        assert ratio == pytest.approx(expected, rel=0.03)  # of 4,096 pixels


def test_interpolation_is_the_pseudo_code():
    low, high = (logsnr_schedule_cosine_shifted(TIMES, 512, noise_d) for noise_d in (32, 256))
    near(SCHEDULES["InterpolatedSchedule"].logsnr(TIMES, np), TIMES * low + (1 - TIMES) * high)
    same = InterpolatedSchedule(COSINE, 512, 64, 64)
    near(same.logsnr(TIMES, np), logsnr_schedule_cosine_shifted(TIMES, 512, 64))


def test_equation_6_is_not_monotone_for_wide_ratios():
    """It has the two schedules the other way round: between 32 and 1024 noise would fall again in the middle."""
    low, high = (logsnr_schedule_cosine_shifted(TIMES, 1024, noise_d) for noise_d in (32, 1024))
    equation_6 = TIMES * high + (1 - TIMES) * low
    assert (np.diff(equation_6) > 0).any()
    assert (np.diff(InterpolatedSchedule(COSINE, 1024, 32, 1024).logsnr(TIMES, np)) < 0).all()
    with pytest.raises(ValueError, match="noise_d_low must be at most noise_d_high"):
        InterpolatedSchedule(COSINE, 1024, 1024, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineLogSNRSchedule(15, -15), "smallest must be below largest, got 15 and -15"),
        (lambda: ShiftedSchedule(COSINE, 0, 64), "image_d must be a size in pixels, got 0"),
        (lambda: LogSNRProcess(COSINE, 1), "steps must be at least 2, got 1"),
        (lambda: LogSNRProcess(COSINE).respace("many"), "steps must be a count"),
        (lambda: variances.InterpolatedVariance(1.5), r"noise_param must be in \[0, 1\], got 1.5"),
    ],
)
def test_mistakes_name_the_parameter(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ the process and its steps


def test_steps_divide_time_evenly():
    near(spread_times(4), [0.25, 0.5, 0.75, 1.0])
    near(spread_times("ddim4"), spread_times(4))
    near(spread_times("3,1"), [1 / 6, 2 / 6, 3 / 6, 1.0])
    near(spread_times(1), [1.0])
    near(spread_times("2,0,1"), [1 / 6, 1 / 3, 1.0])
    with pytest.raises(ValueError, match="must have a step"):
        spread_times("3,0")


@every_schedule
def test_continuous_time_has_the_numbers_of_its_steps(name: str):
    process = LogSNRProcess(SCHEDULES[name], steps=40)
    steps = process.respace(None)
    index, times = np.arange(40, dtype="int32"), steps.times
    for ours, theirs in zip(process.level(times, "float64")[1:3], steps.level(index, "float64")[1:3], strict=True):
        near(ours, theirs, 1e-12)
    x, z = np.random.default_rng(1).standard_normal((2, 40, 2, 2, 1))
    mean = process.posterior_mean(x, z, times)
    near(mean, steps.posterior_mean(x, z, index), 1e-9)
    near(process.image_of_mean(mean, z, times), x, 1e-6)
    near(process.mean_rate(times, "float64"), steps.mean_rate(index, "float64"), 1e-9)
    near(process.log_beta(times, "float64"), steps.log_beta(index, "float64"), 1e-9)
    for quantity in ("small_variance", "large_variance"):
        for ours, theirs in zip(
            getattr(process, quantity)(times, "float64"), getattr(steps, quantity)(index, "float64"), strict=True
        ):
            near(ours, theirs, 1e-9)
    assert np.asarray(process.ends(times)).tolist() == [True] + 39 * [False]


def test_between_two_steps_the_posterior_composes_with_the_forward_process():
    """The integral of q(z_s | z_t, x) q(z_t | x) over z_t is q(z_s | x), s being one step before any t."""
    process = LogSNRProcess(COSINE, steps=25)
    t = np.random.default_rng(0).uniform(1 / 25, 1, 50)
    level, before = process.level(t, "float64"), process.level(t - 1 / 25, "float64")
    one = np.ones((50, 1, 1, 1))
    coefficient_z = process.posterior_mean(0 * one, one, t)
    near(process.posterior_mean(one, 0 * one, t) + coefficient_z * level.alpha, before.alpha)
    near(coefficient_z**2 * level.sigma**2 + process.small_variance(t, "float64")[0], before.sigma**2)
    # and beta is what q(z_t | z_s) adds
    alpha_ts = level.alpha / before.alpha
    near(np.exp(process.log_beta(t, "float64")), level.sigma**2 - alpha_ts**2 * before.sigma**2, 1e-9)


def test_an_embedding_that_does_not_move_with_the_schedule_is_refused():
    def stage(noise_d: int) -> Stage:
        objective = Objective(
            LogSNRProcess(ShiftedSchedule(COSINE, 128, noise_d)), VelocityTarget(), SMALL, SimpleLoss()
        )
        images = SimpleNamespace(low_resolution=None, text=None, crop=CenterCrop())
        network = SimpleNamespace(time=ShiftedLogSNREmbedding(128, 64))
        return Stage("base", network, objective, images, AncestralSampler(steps=4), None)  # type: ignore[arg-type]

    assert stage(64).sampler_steps == 4
    with pytest.raises(ValueError, match=r"from log SNR -16.39 to 13.61, but the schedule runs from -17.77 to 12.23"):
        stage(32)


def test_levels_of_an_augmentation_lie_between_the_steps():
    process = LogSNRProcess(COSINE, steps=10)
    index, part = np.array([0, 3, 9]), np.array([1.0, 0.25, 0.0], "float32")
    near(process.between(index, part).index, [0.0, 0.375, 1.0], 1e-6)


def test_an_augmentation_tells_the_log_snr():
    """Gaussian conditioning augmentation of a process in continuous time: between two steps, and at s = 0."""
    process, images = LogSNRProcess(COSINE, steps=10), np.tanh(normal(3)).astype("float32")
    draws = {"augmentation_noise": normal(4).astype("float32")}
    uniform = np.array([[0.35, 0.5, 0.25], [0.95, 0.5, 0.0], [0.5, 0.01, 0.9]], "float32")
    found = GaussianNoise(process, s=2.5, clean=0.1).augment(images, {**draws, "augmentation_level": uniform})
    # s is 4, 10 and, with the probability of `clean`, 0; the last column is the part of the way to the step before
    near(found["low_resolution_logsnr"], COSINE.logsnr(np.array([0.375, 1.0, 0.0]), np), 1e-4)
    level = process.level(np.array([0.375, 1.0, 0.0], "float32"))
    noisy = np.asarray(process.corrupt(images, draws["augmentation_noise"], level))
    near(found["low_resolution"][:2], noisy[:2], 1e-5)
    near(found["low_resolution"][2], images[2], 0)
    asked = GaussianNoise(process, s=2.5).apply(images, draws)
    near(asked["low_resolution_logsnr"], np.full(3, COSINE.logsnr(np.array(0.25), np)), 1e-4)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def ddpm_sampler_step(z_t: Any, v_pred: Any, logsnr_t: float, logsnr_s: float, noise: Any, noise_param: float) -> Any:
    """As printed, with the logarithm that the log variances need, and alpha_st = alpha_s / alpha_t."""
    alpha_t, sigma_t = math.exp(0.5 * log_sigmoid(logsnr_t)), math.exp(0.5 * log_sigmoid(-logsnr_t))
    alpha_s = math.exp(0.5 * log_sigmoid(logsnr_s))
    alpha_st = alpha_s / alpha_t
    x_pred = np.clip(alpha_t * z_t - sigma_t * v_pred, -1, 1)
    fresh = 1 - math.exp(logsnr_t - logsnr_s)
    mu = math.exp(logsnr_t - logsnr_s) * alpha_st * z_t + fresh * alpha_s * x_pred
    min_lvar = math.log(fresh) + log_sigmoid(-logsnr_s)
    max_lvar = math.log(fresh) + log_sigmoid(-logsnr_t)
    sigma = math.sqrt(math.exp(noise_param * max_lvar + (1 - noise_param) * min_lvar))
    return mu + sigma * noise


@pytest.mark.parametrize("noise_param", [0.0, 0.2, 1.0])
def test_walk_is_the_pseudo_code(noise_param: float):
    """sample() with lowest_idx = 1: num_steps evaluations, the last of which gives the clipped mean."""
    schedule, num_steps = SCHEDULES["ShiftedSchedule"], 6
    objective = Objective(
        LogSNRProcess(schedule), VelocityTarget(), variances.InterpolatedVariance(noise_param), SimpleLoss()
    )
    sampler = AncestralSampler(steps=num_steps, clipping=StaticClipping())
    plan = sampler.plan(objective.process)
    z = expected = normal()
    for t in reversed(range(2, num_steps + 1)):
        logsnr_t, logsnr_s = (logsnr_schedule_cosine_shifted(np.float64(i / num_steps), 256, 64) for i in (t, t - 1))
        expected = ddpm_sampler_step(expected, np.sin(expected), logsnr_t, logsnr_s, normal(t), noise_param)
    logsnr = logsnr_schedule_cosine_shifted(np.float64(1 / num_steps), 256, 64)
    alpha, sigma = math.exp(0.5 * log_sigmoid(logsnr)), math.exp(0.5 * log_sigmoid(-logsnr))
    expected = np.clip(alpha * expected - sigma * np.sin(expected), -1, 1)
    for step in reversed(range(plan.steps)):
        index = np.full(SHAPE[:1], step, "int32")
        prediction = objective.predict(np.sin(z), z, plan.level(index, "float64"), plan, sampler.clipping)
        z = np.asarray(sampler.step(prediction, z, index, normal(step + 1), plan))
    near(z, expected, 1e-9)


# ------------------------------------------------------------------ losses


def test_v_prediction_with_the_epsilon_loss_is_the_pseudo_code():
    """eps_pred = sigma_t z_t + alpha_t v, and its mean squared error."""
    process = LogSNRProcess(COSINE)
    objective = Objective(process, VelocityTarget(), SMALL, SimpleLoss(), weighting=TargetWeighting(NoiseTarget()))
    x, noise, level = np.tanh(normal(1)), normal(2), process.level(np.array([0.01, 0.5, 0.99]), "float64")
    z = process.corrupt(x, noise, level)
    v = np.sin(z)
    eps_pred = level.sigma * z + level.alpha * v
    near(objective.loss_at(v, x, z, noise, level), mean_over_pixels(ops.square(eps_pred - noise)), 1e-9)


def test_the_bound_of_many_steps_is_that_of_continuous_time():
    """T KL(q(z_s | z_t, x) || p) -> 1/2 (-d log SNR / dt) |eps - eps'|^2 (VDM, equation 17)."""
    x, noise, t = np.tanh(normal(1)), normal(2), np.array([0.2, 0.5, 0.8])
    losses = {}
    for steps in (100, 100_000):
        process = LogSNRProcess(COSINE, steps)
        level = process.level(t, "float64")
        z = process.corrupt(x, noise, level)
        discrete = Objective(process, ImageTarget(), SMALL, VLBLoss())
        losses[steps] = np.asarray(discrete.loss_at(np.sin(z), x, z, noise, level)) * math.log(2)
    continuous = Objective(process, ImageTarget(), SMALL, SimpleLoss(), weighting=VariationalWeighting())
    limit = np.asarray(continuous.loss_at(np.sin(z), x, z, noise, level))
    near(losses[100_000], limit, 1e-3)
    assert (np.abs(losses[100] / limit - 1) > 1e-3).any()


def test_one_step_is_a_walk():
    """Of a distilled model: from noise to the image at once."""
    plan = LogSNRProcess(COSINE).respace(1)
    assert isinstance(plan, LogSNRSteps)
    assert plan.steps == 1
    z, x = normal(1), normal(2)
    near(plan.posterior_mean(x, z, np.zeros(3, "int32")), x)
    assert np.isfinite(plan.large_variance(np.zeros(3, "int32"))[1]).all()
