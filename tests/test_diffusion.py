"""Contracts of every listed schedule, process, target, variance, loss, sampler and clipping, and their mathematics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo import registry
from zoo.diffusion import losses, samplers, schedules, targets, variances
from zoo.diffusion.dpm_solver import DPMSolverSampler
from zoo.diffusion.guidance import shift_mean, shift_score
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule
from zoo.diffusion.objective import Objective, Prediction
from zoo.diffusion.process import ContinuousNoiseProcess, DiscreteProcess, Process
from zoo.diffusion.respacing import retained_steps
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler, StaticClipping, noise_of
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.diffusion.temperatures import EpsilonTemperature, NoiseTemperature, Temperature
from zoo.diffusion.weightings import TargetWeighting, Weighting

STEPS = 40
SHAPE = (3, 4, 5, 2)  # height and width differ, so that a transposition shows

# A component that cannot be made without arguments is made by its family's entry here.
MAKE: dict[str, Callable[[type], Any]] = {
    "processes": lambda cls: cls(CosineLogSNRSchedule() if cls is LogSNRProcess else CosineSchedule(), STEPS),
    "losses": lambda cls: cls(base=2) if cls is losses.MultiscaleLoss else cls(),
    "temperatures": lambda cls: cls(1.0),
    "weightings": lambda cls: cls(targets.NoiseTarget()) if cls is TargetWeighting else cls(),
}


def members(family: str) -> list[Any]:
    """One object of each listed component of a family, to parametrise with."""
    found = [component.load() for component in registry.load().components.values() if component.family == family]
    assert found, f"registry.yaml lists no {family}"
    return [pytest.param(MAKE.get(family, lambda cls: cls())(cls), id=cls.__name__) for cls in found]


def every(family: str) -> pytest.MarkDecorator:
    name = {"processes": "process", "losses": "loss"}.get(family, family.removesuffix("s"))
    return pytest.mark.parametrize(name, members(family))


# Those that have tables of their own steps, and the steps of one that has none.
tables = pytest.mark.parametrize(
    "process",
    [
        DiscreteProcess(CosineSchedule(), STEPS),
        ContinuousNoiseProcess(CosineSchedule(), STEPS),
        LogSNRProcess(CosineLogSNRSchedule(), STEPS).respace(None),
    ],
    ids=lambda process: type(process).__name__,
)


def place(process: Process, step: int) -> np.ndarray:
    """Where in a process the examples of a batch are: at a step or, in continuous time, at its time."""
    return at(step) if isinstance(process, DiscreteProcess) else np.full(SHAPE[:1], (step + 1) / STEPS)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, SHAPE)


def at(step: int) -> np.ndarray:
    return np.full(SHAPE[:1], step, "int32")


def near(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def perfect(objective: Objective, x: np.ndarray, z: Any, index: np.ndarray, process: DiscreteProcess) -> Prediction:
    """What a denoiser that knows the image says of z."""
    level = process.level(index, "float64")
    output = objective.target.value(x, noise_of(x, z, index, process), z, level, process)
    return objective.predict(output, z, level, process, None)


def objective_of(target: targets.Target | None = None, variance: Any = None, loss: Any = None, process: Any = None):
    return Objective(
        process or DiscreteProcess(CosineSchedule(), STEPS),
        target or targets.NoiseTarget(),
        variance or variances.FixedSmallVariance(),
        loss or losses.SimpleLoss(),
    )


# ------------------------------------------------------------------ schedules and processes


@every("schedules")
@pytest.mark.parametrize("steps", [STEPS, 1000, 4000])
def test_schedule_gives_variances(schedule: Any, steps: int):
    betas = schedule.betas(steps)
    assert betas.dtype == np.float64
    assert betas.shape == (steps,)
    assert (betas > 0).all() and (betas < 1).all()
    assert np.prod(1 - betas) < 1e-2, "the image must be nearly gone after all steps, at any number of them"
    assert betas[0] < 0.02 * 1000 / steps, "the image must be nearly whole after a thousandth of the steps"


@every("schedules")
def test_schedule_describes_the_same_process_at_any_number_of_steps(schedule: Any):
    coarse, fine = (np.cumprod(1 - schedule.betas(steps)) for steps in (500, 4000))
    near(coarse[:-1], fine[7::8][:-1], 0.01)


def test_the_schedule_of_contributing_fulfils_the_contract():
    text = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text()
    code = next(block.split("```")[0] for block in text.split("```python\n")[1:] if "(Schedule)" in block)
    names = {"Schedule": schedules.Schedule, "np": np}
    exec(code, names)
    for steps in (STEPS, 1000, 4000):
        test_schedule_gives_variances(names["ConstantSchedule"](), steps)
    test_schedule_describes_the_same_process_at_any_number_of_steps(names["ConstantSchedule"]())


@tables
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_signal_and_noise_keep_the_variance(process: DiscreteProcess, dtype: str):
    level = process.level(np.arange(STEPS), dtype)
    near(level.alpha**2 + level.sigma**2, np.ones((STEPS, 1, 1, 1)), 1e-6 if dtype == "float32" else 1e-14)
    assert (np.diff(np.ravel(level.alpha)) < 0).all()
    assert set(level.inputs) == {process.told}
    assert level.inputs[process.told].shape == (STEPS,)


@every("processes")
def test_every_drawn_level_keeps_the_variance(process: Process):
    uniform = np.random.default_rng(0).random((200, 2)).astype("float32")
    level = process.draw(uniform)
    near(level.alpha**2 + level.sigma**2, np.ones((200, 1, 1, 1)), 1e-6)
    assert (np.asarray(level.sigma) > 0).all()
    assert set(level.inputs) == {process.told}
    assert process.respace(None).steps == process.steps == STEPS
    assert process.signal(0) == 1.0
    for s in (1, STEPS):
        assert process.respace(None).index_after(process.signal(s)) == s - 1


@every("schedules")
def test_posterior_composes_with_the_forward_process(schedule: Any):
    """The integral of q(z_s | z_t, x) q(z_t | x) over z_t is q(z_s | x)."""
    process = DiscreteProcess(schedule, STEPS)
    alpha, sigma2 = np.sqrt(process.alphas_cumprod), 1 - process.alphas_cumprod
    near(
        process.posterior_coefficient_x + process.posterior_coefficient_z * alpha,
        np.sqrt(process.alphas_cumprod_previous),
    )
    variance = process.posterior_coefficient_z**2 * sigma2 + process.posterior_variance
    near(variance, 1 - process.alphas_cumprod_previous)


@every("processes")
def test_draw_is_uniform_over_the_steps(process: Process):
    if isinstance(process, LogSNRProcess):
        uniform = np.linspace(0, 1, 4 * STEPS, endpoint=False, dtype="float32")[:, None] * np.ones(2, "float32")
        near(process.draw(uniform).index, uniform[:, 0], 0)
        return
    uniform = np.stack([(np.arange(4 * STEPS) + 0.5) / (4 * STEPS), np.full(4 * STEPS, 0.3)], axis=1).astype("float32")
    assert (np.bincount(process.draw(uniform).index) == 4).all()
    ends = np.array([[0, 0], [np.nextafter(1, 0, dtype="float32"), 0]], "float32")
    assert np.asarray(process.draw(ends).index).tolist() == [0, STEPS - 1]


@tables
def test_respacing_keeps_the_noise_levels(process: DiscreteProcess):
    assert process.respace(None) is process
    near(process.respace(STEPS).betas, process.betas, 1e-12)
    respaced = process.respace("ddim10")
    kept = retained_steps(STEPS, "ddim10")
    assert type(respaced) is type(process)
    assert respaced.steps == len(kept) == 10
    near(respaced.alphas_cumprod, process.alphas_cumprod[kept], 1e-12)
    here, there = respaced.level(np.arange(10), "float64"), process.level(np.array(kept), "float64")
    for name, value in here.inputs.items():  # the network is told what it was trained with
        near(value, there.inputs[name])
    again = respaced.respace(5)
    near(again.alphas_cumprod, respaced.alphas_cumprod[retained_steps(10, 5)], 1e-12)


def test_time_is_scaled_to_the_range():
    process = DiscreteProcess(CosineSchedule(), STEPS, time_range=1000.0)
    near(process.model_time(np.arange(STEPS)), np.arange(STEPS) * 25.0)
    near(process.respace("ddim10").model_time(np.arange(10)), np.arange(10) * 100.0)


def test_continuous_draw_lies_between_neighbours():
    process = ContinuousNoiseProcess(LinearSchedule(), STEPS)
    uniform = np.random.default_rng(0).random((500, 2)).astype("float32")
    level = process.draw(uniform)
    alpha, sigma = np.ravel(level.alpha), np.ravel(level.sigma)
    index = np.asarray(level.index)
    assert (alpha >= np.sqrt(process.alphas_cumprod)[index] - 1e-6).all()
    assert (alpha <= np.sqrt(process.alphas_cumprod_previous)[index] + 1e-6).all()
    near(alpha**2 + sigma**2, np.ones(500), 1e-6)
    assert set(level.inputs) == {"logsnr"}
    near(level.inputs["logsnr"], 2 * np.log(alpha / sigma), 1e-4)
    # uniform in alpha between the two: the step itself at 0, which is told the same, and half-way at 0.5
    steps = (np.arange(STEPS) + 0.5) / STEPS
    end, middle = (process.draw(np.stack([steps, 0 * steps + u], axis=1).astype("float32")) for u in (0.0, 0.5))
    exact = process.level(np.arange(STEPS))
    near(end.alpha, exact.alpha, 1e-6)
    near(end.inputs["logsnr"], exact.inputs["logsnr"], 1e-3)
    neighbours = np.sqrt(process.alphas_cumprod) + np.sqrt(process.alphas_cumprod_previous)
    near(np.ravel(middle.alpha), neighbours / 2, 1e-6)


def test_continuous_draw_stays_finite_beside_the_clean_image():
    process = ContinuousNoiseProcess(CosineSchedule(), 4000)
    level = process.draw(np.array([[0, np.nextafter(1, 0, dtype="float32")]], "float32"))
    assert np.isfinite(level.inputs["logsnr"]).all()
    assert np.ravel(level.sigma)[0] > 0


# ------------------------------------------------------------------ targets and variances


@every("processes")
@every("targets")
def test_target_gives_the_image_back(target: targets.Target, process: Process):
    x, noise = image(), normal(*SHAPE)
    for step in range(STEPS):
        level = process.level(place(process, step), "float64")
        z = process.corrupt(x, noise, level)
        value = target.value(x, noise, z, level, process)
        near(target.image(value, z, level, process), x, 1e-9)
        near(target.mean(value, x, z, level, process), process.posterior_mean(x, z, level.index), 1e-9)


@every("processes")
@every("targets")
def test_errors_in_two_targets_are_as_their_rates(target: targets.Target, process: Process):
    """An output that implies another image is wrong by the rate of its target times the difference of the images."""
    x, noise, wrong = image(), normal(*SHAPE), image(seed=2)
    for step in (0, 1, 17, STEPS - 1):
        level = process.level(place(process, step), "float64")
        z = process.corrupt(x, noise, level)
        other = (z - level.alpha * wrong) / level.sigma
        error = target.value(wrong, other, z, level, process) - target.value(x, noise, z, level, process)
        near(error, target.rate(level, process) * (wrong - x), 1e-8)
        for second in (targets.NoiseTarget(), targets.VelocityTarget()):
            error = second.value(wrong, other, z, level, process) - second.value(x, noise, z, level, process)
            scale = np.sqrt(TargetWeighting(second)(level, process, target))
            near(np.abs(error), scale * np.abs(target.rate(level, process) * (wrong - x)), 1e-8)


@every("processes")
@every("variances")
def test_variance_agrees_with_its_logarithm(variance: variances.Variance, process: Process):
    index = np.arange(1, STEPS)
    if isinstance(process, LogSNRProcess):
        index = (index + 1) / STEPS
    extra = normal(STEPS - 1, 1, 1, 1) if variance.outputs == 2 else None
    value, logarithm = variance(extra, process, index, "float64")
    assert (np.asarray(value) > 0).all()
    near(np.exp(logarithm), value)
    # at the first step, where the posterior is a point, the logarithm must be finite
    first_index = index[:1] - index[:1] if index.dtype == int else np.array([1 / STEPS])
    _, first = variance(None if extra is None else extra[:1], process, first_index, "float64")
    assert np.isfinite(first).all()


def test_learned_range_reaches_from_small_to_large():
    process, index = DiscreteProcess(LinearSchedule(), STEPS), np.arange(1, STEPS)
    ends = {}
    for extra in (-1.0, 1.0):
        output = np.full((STEPS - 1, 1, 1, 1), extra)
        ends[extra], _ = variances.LearnedRangeVariance()(output, process, index, "float64")
    near(ends[-1.0], variances.FixedSmallVariance()(None, process, index, "float64")[0])
    near(ends[1.0], variances.FixedLargeVariance()(None, process, index, "float64")[0])


# ------------------------------------------------------------------ losses


@every("losses")
@every("processes")
def test_loss_is_a_number_for_each_image(loss: losses.Loss, process: Process):
    objective = objective_of(variance=variances.LearnedRangeVariance(), loss=loss, process=process)
    x = image().astype("float32")
    random = {
        "noise": normal(*SHAPE).astype("float32"),
        "level": np.array([[0, 0.5], [0.4, 0.5], [0.99, 0.5]], "float32"),
    }
    assert {name: value.shape for name, value in random.items()} == {
        name: shape for name, (_, shape) in objective.randomness(SHAPE).items()
    }

    def network(inputs: dict[str, Any]) -> Any:
        assert set(inputs) == {"image", "label", "seed", process.told}
        return ops.concatenate([0.1 * inputs["image"], 0.2 * inputs["image"]], axis=-1)

    whole = objective.training_loss(network, x, {"label": at(0)}, random, seed=np.zeros(2, "int32"))
    assert whole.shape == SHAPE[:1]
    assert np.isfinite(whole).all()
    alone = {name: value[1:2] for name, value in random.items()}
    near(objective.training_loss(network, x[1:2], {"label": 0}, alone, seed=0)[0], whole[1], 1e-5)


@every("processes")
@every("targets")
def test_perfect_network_has_no_simple_loss(target: targets.Target, process: Process):
    x, noise = image().astype("float32"), normal(*SHAPE).astype("float32")
    random = {"noise": noise, "level": np.random.default_rng(3).random((3, 2)).astype("float32")}
    level = process.draw(random["level"])
    objective = objective_of(target, process=process)

    def network(inputs: dict[str, Any]) -> Any:
        assert "seed" not in inputs  # nothing was to be dropped out
        return target.value(x, noise, inputs["image"], level, process)

    near(objective.training_loss(network, x, {}, random), np.zeros(3), 1e-10)


@every("weightings")
@every("processes")
def test_weighting_weighs_the_squared_error(weighting: Weighting, process: Process):
    """Whatever the network predicts, an error of its image costs the same."""
    x, noise = image(), normal(*SHAPE)
    level = process.level(place(process, 17), "float64")
    z, costs = process.corrupt(x, noise, level), []
    for target in (targets.NoiseTarget(), targets.ImageTarget(), targets.VelocityTarget()):
        wrong = target.value(0.9 * x, (z - level.alpha * 0.9 * x) / level.sigma, z, level, process)
        objective = Objective(process, target, variances.FixedSmallVariance(), losses.SimpleLoss(), weighting=weighting)
        costs.append(np.asarray(objective.loss_at(wrong, x, z, noise, level)))
        assert (costs[-1] > 0).all()
    near(costs[1], costs[0], 1e-9)
    near(costs[2], costs[0], 1e-9)


def test_multiscale_loss_is_a_sum_over_resolutions():
    """Worked by hand: 1/4 |e|^2 at 4 pixels, and 1/2 of the mean square of the means of 2 x 2 at 2."""
    error = normal(2, 4, 4, 3)
    pooled = error.reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    once = np.mean(error**2, axis=(1, 2, 3)) / 4
    expected = once + np.mean(pooled**2, axis=(1, 2, 3)) / 2

    def loss(base: int, error: np.ndarray = error) -> Any:
        return losses.MultiscaleLoss(base)(ops.convert_to_tensor(error), lambda detach: 0.0, 10)

    near(loss(2), expected)
    near(loss(3), once)
    near(loss(4), once)
    # an error that averaging removes counts at the full resolution alone; a constant one at all
    checks = np.indices((4, 4)).sum(axis=0) % 2 * 2.0 - 1
    near(loss(1, np.broadcast_to(checks[..., None], (1, 4, 4, 3))), [1 / 4])
    near(loss(1, np.ones((1, 4, 4, 3))), [1 / 4 + 1 / 2 + 1])
    # by the shorter side: 6 and 3 pixels
    near(loss(3, np.ones((1, 6, 8, 1))), [1 / 6 + 1 / 3])
    with pytest.raises(ValueError, match="base must be at most the size of the images, 4 pixels, got 8"):
        loss(8)


def gradients(loss: losses.Loss) -> tuple[np.ndarray, np.ndarray]:
    """Of a loss at three steps, in the target half and the variance half of the network's output."""
    objective = objective_of(variance=variances.LearnedRangeVariance(), loss=loss)
    x, noise, index = image(), normal(*SHAPE), np.array([0, 5, STEPS - 1], "int32")
    level = objective.process.level(index, "float64")
    z = objective.process.corrupt(x, noise, level)
    output = tf.constant(0.5 * normal(*SHAPE[:3], 4, seed=2))
    with tf.GradientTape() as tape:
        tape.watch(output)
        total = tf.reduce_sum(objective.loss_at(output, x, z, noise, level))
    first, second = np.split(tape.gradient(total, output).numpy(), 2, axis=-1)
    return first, second


def test_hybrid_loss_trains_the_variance_alone_by_the_bound():
    simple, hybrid, bound = (gradients(loss) for loss in (losses.SimpleLoss(), losses.HybridLoss(), losses.VLBLoss()))
    near(hybrid[0], simple[0], 1e-12)  # no gradient of the bound in the mean
    assert not simple[1].any()
    near(hybrid[1], 0.001 * bound[1], 1e-12)
    assert (np.abs(hybrid[1]).max(axis=(1, 2, 3)) > 0).all()
    assert (np.abs(bound[0]).max(axis=(1, 2, 3)) > 0).all()


def bounds(objective: Objective, x: np.ndarray, output: Callable[[Any, Any], Any]) -> np.ndarray:
    """The terms of the variational bound [T, B]; `output` of z and its level."""
    terms = []
    for step in range(objective.process.steps):
        level = objective.process.level(at(step), "float64")
        z = objective.process.corrupt(x, normal(*SHAPE, seed=step), level)
        prediction = objective.predict(output(z, level), z, level, objective.process, None)
        terms.append(np.asarray(objective.bound(prediction, x, z, level, objective.process)))
    return np.stack(terms)


def test_perfect_denoiser_pays_for_the_last_bits_alone():
    x = image()
    terms = bounds(objective_of(targets.ImageTarget()), x, lambda z, level: x)
    near(terms[1:], np.zeros_like(terms[1:]), 1e-12)
    assert (terms[0] > 0).all()
    # With too large a variance each step pays KL = (r - 1 - log r) / 2 of the ratio r of the variances.
    objective = objective_of(targets.ImageTarget(), variances.FixedLargeVariance())
    process = objective.process
    ratio = process.posterior_variance[1:] / process.betas[1:]
    exact = (ratio - 1 - np.log(ratio)) / 2 / np.log(2)
    near(bounds(objective, x, lambda z, level: x)[1:], np.repeat(exact[:, None], 3, axis=1))


def test_vlb_loss_is_an_unbiased_estimate_of_the_sum():
    x = image()
    objective = objective_of(variance=variances.LearnedRangeVariance(), loss=losses.VLBLoss())

    def output(z: Any, level: Any) -> Any:
        return np.concatenate([0.3 * np.asarray(z), 0.2 * np.asarray(z)], axis=-1)

    total = bounds(objective, x, output).sum(axis=0)
    drawn = []
    for step in range(STEPS):
        level, noise = objective.process.level(at(step), "float64"), normal(*SHAPE, seed=step)
        z = objective.process.corrupt(x, noise, level)
        drawn.append(objective.loss_at(output(z, level), x, z, noise, level))
    near(np.mean(drawn, axis=0), total)


def test_probabilities_of_the_grey_levels_sum_to_one():
    levels = np.arange(256) / 127.5 - 1
    for mean, log_scale in ((0.0, -1.0), (-0.97, -4.0), (0.999, -5.0)):
        shaped = ops.convert_to_tensor(levels)
        logarithm = losses.discretised_log_likelihood(shaped, shaped * 0 + mean, shaped * 0 + log_scale)
        near(np.exp(logarithm).sum(), 1.0, 1e-8)


# ------------------------------------------------------------------ samplers


@every("targets")
@every("samplers")
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()], ids=["linear", "cosine"])
def test_perfect_denoiser_ends_at_the_image(sampler: samplers.Sampler, target: targets.Target, schedule: Any):
    objective = objective_of(target, process=DiscreteProcess(schedule, STEPS))
    x, z = image(), normal(*SHAPE)
    plan = sampler.plan(objective.process)
    for step in reversed(range(plan.steps)):
        index = at(step)
        z = np.asarray(sampler.step(perfect(objective, x, z, index, plan), z, index, normal(*SHAPE, seed=step), plan))
        assert z.shape == SHAPE
    near(z, x, 1e-9)


@every("targets")
@pytest.mark.parametrize("steps", [None, 7, "ddim10"])
def test_ddim_keeps_the_noise_of_a_perfect_denoiser(target: targets.Target, steps: Any):
    objective, sampler = objective_of(target), DDIMSampler(steps)
    plan = sampler.plan(objective.process)
    x, noise = image(), normal(*SHAPE)
    z = plan.corrupt(x, noise, plan.level(at(plan.steps - 1), "float64"))
    for step in reversed(range(1, plan.steps)):
        z = sampler.step(perfect(objective, x, z, at(step), plan), z, at(step), noise, plan)
        near(z, plan.corrupt(x, noise, plan.level(at(step - 1), "float64")), 1e-8)


def test_ddim_inverts():
    objective, sampler = objective_of(), DDIMSampler("ddim10")
    plan, x = sampler.plan(objective.process), image()
    for step in range(1, plan.steps):
        z = normal(*SHAPE, seed=step)
        less = sampler.step(perfect(objective, x, z, at(step), plan), z, at(step), z, plan)
        near(sampler.invert(perfect(objective, x, less, at(step - 1), plan), less, at(step - 1), plan), z)


def test_ddim_with_all_the_noise_is_ancestral():
    """At eta = 1, DDIM is a draw from the posterior with its own variance (Song et al. 2021, section 4.1)."""
    objective = objective_of()
    z, noise = normal(*SHAPE), normal(*SHAPE, seed=9)
    for step in range(STEPS):
        level = objective.process.level(at(step), "float64")
        prediction = objective.predict(0.7 * z, z, level, objective.process, None)
        one, other = (
            sampler.step(prediction, z, at(step), noise, objective.process)
            for sampler in (DDIMSampler(eta=1.0), AncestralSampler())
        )
        near(one, other, 1e-9)


@pytest.mark.parametrize("sampler", [*members("samplers"), pytest.param(DDIMSampler(eta=0.5), id="DDIMSampler, eta")])
def test_sampler_says_whether_it_is_random(sampler: samplers.Sampler):
    objective, z = objective_of(), normal(*SHAPE)
    for step in (0, 1, STEPS - 1):
        prediction = perfect(objective, image(), z, at(step), objective.process)
        one, other = (
            np.asarray(sampler.step(prediction, z, at(step), noise, objective.process))
            for noise in (normal(*SHAPE, seed=1), normal(*SHAPE, seed=2))
        )
        assert bool((one != other).all()) == (sampler.random and step > 0)


@every("samplers")
def test_sampler_walks_what_it_is_asked_to(sampler: samplers.Sampler):
    make = type(sampler)
    discrete, continuous = DiscreteProcess(CosineSchedule(), STEPS), ContinuousNoiseProcess(CosineSchedule(), STEPS)
    assert make().plan(discrete) is discrete
    assert make(steps="ddim10").plan(discrete).steps == 10
    own = ContinuousNoiseProcess(LinearSchedule(), 25)
    assert make(process=own).plan(continuous) is own
    with pytest.raises(ValueError, match=r"process needs a network that is told the log SNR.*on a DiscreteProcess"):
        make(process=own).plan(discrete)
    with pytest.raises(ValueError, match="process must be one that tells the log SNR, got DiscreteProcess"):
        make(process=discrete)
    with pytest.raises(ValueError, match="steps must be None where process is given"):
        make(steps=10, process=own)
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        make(steps=0)
    own = LogSNRProcess(CosineLogSNRSchedule())
    assert make(steps=7).plan(own).steps == 7
    assert make(process=own).plan(continuous).steps == own.steps
    with pytest.raises(ValueError, match="steps '41'"):
        make(steps=STEPS + 1).plan(discrete)


@every("clippings")
def test_clipping_leaves_images_alone(clipping: Callable[[Any], Any]):
    near(clipping(ops.convert_to_tensor(image())), image(), 0)
    wild = np.asarray(clipping(ops.convert_to_tensor(5 * normal(*SHAPE))))
    assert np.abs(wild).max() <= 1
    near(clipping(ops.convert_to_tensor(wild)), wild, 0)


def test_clipped_image_moves_the_mean():
    objective, z = objective_of(), 3 * normal(*SHAPE)
    level = objective.process.level(at(5), "float64")
    prediction = objective.predict(0 * z, z, level, objective.process, StaticClipping())
    near(prediction.x, np.clip(z / np.asarray(level.alpha), -1, 1))
    near(prediction.mean, objective.process.posterior_mean(prediction.x, z, at(5)))


def test_guidance_moves_mean_and_noise_by_the_gradient():
    objective, z, gradient = objective_of(), normal(*SHAPE), normal(*SHAPE, seed=4)
    process, index = objective.process, at(7)
    prediction = perfect(objective, image(), z, index, process)
    near(shift_mean(prediction, gradient).mean - prediction.mean, prediction.variance * gradient)
    shifted = shift_score(prediction, gradient, z, index, process)
    sigma = np.sqrt(1 - process.alphas_cumprod[7])
    near(noise_of(shifted.x, z, index, process), noise_of(prediction.x, z, index, process) - sigma * gradient)
    near(shifted.mean, process.posterior_mean(shifted.x, z, index))


@every("temperatures")
@every("targets")
def test_temperature_one_leaves_samples_as_they_are(temperature: Temperature, target: targets.Target):
    plain = read(None, target)
    for one, other in zip(read(temperature, target), plain, strict=True):
        near(one, other, 1e-9)
    assert temperature.noise(3.0) == 3.0


@every("targets")
def test_epsilon_is_divided_by_its_temperature(target: targets.Target):
    """Whatever is predicted; the variance is left, and the image is clipped afterwards."""
    z, process = normal(*SHAPE), DiscreteProcess(CosineSchedule(), STEPS)
    plain, cool = read(None, target), read(EpsilonTemperature(0.8), target)
    near(noise_of(cool.x, z, at(9), process), noise_of(plain.x, z, at(9), process) / 0.8, 1e-8)
    near(cool.mean, process.posterior_mean(cool.x, z, at(9)), 1e-8)
    near(cool.log_variance, plain.log_variance)
    clipped = read(EpsilonTemperature(0.8), target, StaticClipping())
    near(clipped.x, np.clip(cool.x, -1, 1))


def test_noise_is_multiplied_by_its_temperature():
    near(AncestralSampler(temperature=NoiseTemperature(0.9)).scaled(normal(*SHAPE)), 0.9 * normal(*SHAPE))
    near(AncestralSampler(temperature=EpsilonTemperature(0.9)).scaled(normal(*SHAPE)), normal(*SHAPE))
    near(read(NoiseTemperature(0.5), targets.NoiseTarget()).x, read(None, targets.NoiseTarget()).x)


def read(temperature: Temperature | None, target: targets.Target, clipping: Any = None) -> Prediction:
    """A prediction with learned variance at step 9, of any network."""
    objective = objective_of(target, variances.LearnedRangeVariance())
    sampler = AncestralSampler(clipping=clipping, temperature=temperature)
    z = normal(*SHAPE)
    output = ops.convert_to_tensor(np.concatenate([0.3 * z, 0.1 * z], axis=-1))
    return sampler.predict(objective, output, z, objective.process.level(at(9), "float64"), objective.process)


# ------------------------------------------------------------------ mistakes

COSINE = CosineSchedule()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSchedule(start=0.0), "start must be positive"),
        (lambda: LinearSchedule(start=0.1, end=0.01), "start must be positive and below end"),
        (lambda: LinearSchedule(end=1.5), "end must be below 1, got 1.5"),
        (lambda: LinearSchedule().betas(10), "end must be below 0.01 for 10 steps"),
        (lambda: CosineSchedule(offset=-0.1), "offset must be in"),
        (lambda: CosineSchedule(largest=1.0), "largest must be in"),
        (lambda: DiscreteProcess(COSINE, 1), "steps must be at least 2, got 1"),
        (lambda: DiscreteProcess(COSINE, 10, time_range=0.0), "time_range must be positive"),
        (lambda: DiscreteProcess(COSINE, 10).respace(1), "steps must keep at least 2"),
        (
            lambda: DiscreteProcess(COSINE, 10).respace("ddim7"),
            "steps 'ddim7': no integer stride through 10 steps visits exactly 7; the nearest: 'ddim5' or 'ddim10'",
        ),
        (lambda: DiscreteProcess(COSINE, 10).respace("ddim1"), "visits exactly 1; the nearest: 'ddim2'"),
        (lambda: DiscreteProcess(COSINE, 10).respace("ddim11"), "the process has 10 steps, so at most 'ddim10'"),
        (lambda: DiscreteProcess(COSINE, 10).respace(11), "steps '11': the process has 10 steps, and 11 of them"),
        (lambda: DiscreteProcess(COSINE, 10).respace("5,6"), "steps '5,6': section 2 of 2 has 5 steps, and 6 of them"),
        (lambda: DiscreteProcess(COSINE, 3).respace("1,1,1,1"), "3 steps cannot be divided into 4 sections"),
        (lambda: DiscreteProcess(COSINE, 10).respace("5,,5"), "or a list of counts such as '90,50,40', got '5,,5'"),
        (lambda: DiscreteProcess(COSINE, 10).respace("1,0"), "steps must keep at least 2"),
        (lambda: DiscreteProcess(COSINE, 10).respace("many"), "steps must be a count"),
        (lambda: losses.HybridLoss(weight=-1.0), "weight must not be negative, got -1.0"),
        (lambda: DDIMSampler(eta=-0.5), "eta must not be negative, got -0.5"),
        (lambda: NoiseTemperature(0.0), "value must be positive (1 leaves samples as they are), got 0.0"),
        (lambda: DDIMSampler(temperature=NoiseTemperature(0.9)), "and this DDIMSampler adds none"),
        (lambda: DPMSolverSampler(temperature=NoiseTemperature(0.9)), "and this DPMSolverSampler adds none"),
    ],
)
def test_mistakes_name_the_parameter(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError) as raised:
        make()
    assert message in str(raised.value)
