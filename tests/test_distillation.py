"""Distillation in closed form: what a student is to answer, by a teacher that is known; the contract of the family."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo import registry
from zoo.diffusion.distillation import Distillation, GuidanceDistillation, ProgressiveDistillation, first_share
from zoo.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from zoo.diffusion.logsnr_process import LogSNRProcess, LogSNRSteps
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule, InterpolatedSchedule
from zoo.diffusion.losses import HybridLoss, SimpleLoss
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import ContinuousNoiseProcess, DiscreteProcess
from zoo.diffusion.samplers import DDIMSampler, StaticClipping
from zoo.diffusion.schedules import CosineSchedule
from zoo.diffusion.targets import ImageTarget, NoiseTarget, Target, VelocityTarget
from zoo.diffusion.variances import FixedSmallVariance, LearnedRangeVariance
from zoo.diffusion.weightings import MinSNRWeighting, TargetWeighting, VariationalWeighting

PROCESS = LogSNRProcess(CosineLogSNRSchedule())
MEAN, SPREAD = 0.3, 0.6
"""Every pixel of the data is normal."""
EPSILON = float(np.finfo("float32").eps)


def objective(target: Target | None = None, **parts: Any) -> Objective:
    given = {"process": PROCESS, "variance": FixedSmallVariance(), "loss": SimpleLoss()} | parts
    return Objective(target=target or VelocityTarget(), **given)


class Exact:
    """The best denoiser of the data, in the form of a target; counts the examples that it is asked."""

    def __init__(self, target: Target, dtype: str = "float32") -> None:
        self.target, self.dtype, self.asked = target, dtype, 0

    def __call__(self, inputs: dict[str, Any]) -> Any:
        z, logsnr = inputs["image"], ops.reshape(ops.cast(inputs["logsnr"], self.dtype), (-1, 1, 1, 1))
        self.asked += z.shape[0]
        alpha, sigma = ops.sqrt(ops.sigmoid(logsnr)), ops.sqrt(ops.sigmoid(-logsnr))
        total = ops.square(alpha * SPREAD) + ops.square(sigma)
        x = MEAN + alpha * SPREAD**2 / total * (z - alpha * MEAN)
        noise = sigma * (z - alpha * MEAN) / total  # without the difference of two large numbers
        level: Any = SimpleNamespace(alpha=alpha, sigma=sigma)
        return self.target.value(x, noise, z, level, PROCESS)


def images(count: int, dtype: str = "float32", seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 3)).astype(dtype)


def noisy(plan: LogSNRSteps, dtype: str) -> tuple[Any, Any]:
    """z of the data at every step of a plan, and its level."""
    level = plan.level(np.arange(plan.steps, dtype="int32"), dtype)
    x = (MEAN + SPREAD * images(plan.steps, dtype)).astype(dtype)
    return plan.corrupt(x, images(plan.steps, dtype, seed=2), level), level


def walked(network: Any, one: Objective, z: Any, index: np.ndarray, plan: LogSNRSteps, sampler: DDIMSampler) -> Any:
    """One step of a sampler."""
    level = plan.level(index, ops.dtype(z))
    prediction = sampler.predict(one, network({**level.inputs, "image": z}), z, level, plan)
    return sampler.step(prediction, z, index, ops.zeros_like(z), plan)


# ---- the family


DISTILLATIONS: dict[str, Callable[[], Distillation]] = {
    "GuidanceDistillation": lambda: GuidanceDistillation(ClassifierFreeGuidance(3.0)),
    "ProgressiveDistillation": lambda: ProgressiveDistillation(4),
}
SINGLE = DISTILLATIONS | {"one step": lambda: ProgressiveDistillation(1)}


def test_every_distillation_is_under_contract():
    assert {n for n, c in registry.load().components.items() if c.family == "distillations"} == set(DISTILLATIONS)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_contract_of_distillations(name: str):
    """The teacher is asked as often as is said; who gives its answer has no loss, and nothing moves the teacher."""
    distillation, one = DISTILLATIONS[name](), objective()
    weight, teacher = tf.Variable(1.0), Exact(VelocityTarget())
    random = {"noise": images(5), "level": np.linspace(0, 0.99, 10, dtype="float32").reshape(5, 2)}
    inputs = {"label": np.zeros(5, "int32")}

    def weighted(given: dict[str, Any]) -> Any:
        return weight * teacher(given)

    def loss_of(student: Any) -> Any:
        return distillation.training_loss(student, weighted, one, images(5), inputs, random)

    with tf.GradientTape() as tape:
        found = loss_of(lambda given: 0 * given["image"])
    assert found.shape == (5,)
    assert (found.numpy() > 0).all()
    assert teacher.asked == 5 * distillation.evaluations
    assert tape.gradient(found, weight) is None
    level = distillation.plan(PROCESS).draw(random["level"])

    def perfect(given: dict[str, Any]) -> Any:
        np.testing.assert_array_equal(given["logsnr"], level.inputs["logsnr"])
        assert given["label"] is inputs["label"]
        return distillation.answer(weighted, one, given["image"], level, inputs)

    np.testing.assert_allclose(loss_of(perfect), 0, atol=1e-12)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    "parts",
    [
        {"weighting": VariationalWeighting()},
        {"weighting": TargetWeighting(NoiseTarget())},
        {"weighting": MinSNRWeighting()},
        {"variance": LearnedRangeVariance(), "loss": HybridLoss()},
    ],
    ids=lambda parts: " and ".join(type(part).__name__ for part in parts.values()),
)
def test_losses_and_weightings_are_those_of_the_objective(name: str, parts: dict[str, Any]):
    distillation, one = SINGLE[name](), objective(**parts)
    teacher = Exact(VelocityTarget())
    random = {"noise": images(3), "level": np.array([[0.0, 0], [0.5, 0], [0.99, 0]], "float32")}

    def wide(network: Any) -> Any:
        def said(given: dict[str, Any]) -> Any:
            return ops.concatenate([network(given), 0.1 * given["image"]][: one.variance.outputs], axis=-1)

        return said

    def student(given: dict[str, Any]) -> Any:
        return 0.5 * given["image"]

    given = (one, images(3), {"label": np.zeros(3, "int32")}, random)
    found = distillation.training_loss(wide(student), wide(teacher), *given)
    assert np.isfinite(found).all()
    assert (np.asarray(found) > 0).all()
    if one.weighting is not None:
        plan = distillation.plan(PROCESS)
        plain = distillation.training_loss(student, teacher, objective(), *given[1:])
        weight = one.weighting(plan.draw(random["level"]), plan, one.target)
        np.testing.assert_allclose(found, np.ravel(weight) * np.asarray(plain), rtol=1e-5)


# ---- stage one


def test_the_student_learns_the_guided_answer():
    """To the bit: it is no image in between."""
    guidance = ClassifierFreeGuidance(2.5)
    level = PROCESS.level(np.array([1e-3, 0.5, 1.0], "float32"))
    z, inputs = images(3), {"label": np.array([0, 1, 1], "int32")}

    def teacher(given: dict[str, Any]) -> Any:
        told = ops.reshape(ops.cast(given["label"], "float32"), (-1, 1, 1, 1))
        return ops.concatenate([ops.sin(given["image"]) * (told + 3), ops.cos(given["image"])], axis=-1)

    one = objective(variance=LearnedRangeVariance(), loss=HybridLoss())
    found = GuidanceDistillation(guidance).answer(teacher, one, z, level, inputs)
    expected = guidance.answer(teacher, {**inputs, **level.inputs, "image": z})
    np.testing.assert_array_equal(found, expected[..., :3])


# ---- stage two


@pytest.mark.parametrize("target", [VelocityTarget(), NoiseTarget(), ImageTarget()], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("steps", [1, 2, 8, 512])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clipping", [None, StaticClipping()])
def test_one_step_of_the_student_is_two_of_the_teacher(target: Target, steps: int, dtype: str, clipping: Any):
    """At every step of the student, from the noise to the image."""
    one, distillation = objective(target), ProgressiveDistillation(steps, clipping)
    plan, halves = distillation.plan(PROCESS), distillation.asked(PROCESS)
    z, level = noisy(plan, dtype)
    teacher, sampler = Exact(target, dtype), DDIMSampler(clipping=clipping)
    halfway = walked(teacher, one, z, 2 * level.index + 1, halves, sampler)
    expected = walked(teacher, one, halfway, 2 * level.index, halves, sampler)
    answer = distillation.answer(teacher, one, z, level, {})
    found = walked(lambda _: answer, one, z, level.index, plan, DDIMSampler())
    error = np.abs(np.asarray(found) - np.asarray(expected)).max(axis=(1, 2, 3))
    if dtype == "float64":
        assert error.max() < 1e-9
        return
    # An image that is read from a noise is only as sure as that noise's last digit divided by the signal.
    signal = np.sqrt(plan.alphas_cumprod) if isinstance(target, NoiseTarget) else 1.0
    assert (error < np.maximum(1e-5, 8 * EPSILON / signal)).all()


def test_the_image_is_that_of_algorithm_2():
    """As printed, with z'' of the last step the image: in float64, where the printed quotient keeps its digits."""
    plan, halves = PROCESS.respace(8), PROCESS.respace(16)
    z, level = noisy(plan, "float64")
    one, teacher, sampler = objective(ImageTarget()), Exact(ImageTarget(), "float64"), DDIMSampler()
    halfway = walked(teacher, one, z, 2 * level.index + 1, halves, sampler)
    last = walked(teacher, one, halfway, 2 * level.index, halves, sampler)
    alpha, sigma = np.sqrt(plan.alphas_cumprod), np.sqrt(plan.variances)
    alpha_s, sigma_s = np.append(1.0, alpha[:-1]), np.append(0.0, sigma[:-1])
    ratio, shape = sigma_s / sigma, (-1, 1, 1, 1)
    printed = (np.asarray(last) - ratio.reshape(shape) * z) / (alpha_s - ratio * alpha).reshape(shape)
    found = ProgressiveDistillation(8).answer(teacher, one, z, level, {})
    np.testing.assert_allclose(found, printed, rtol=1e-9, atol=1e-9)
    # that of the last step is the teacher's own
    own = teacher({**halves.level(np.array([0], "int32"), "float64").inputs, "image": halfway[:1]})
    np.testing.assert_allclose(found[:1], own, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 1000, 100_000])
def test_the_share_of_the_first_image_keeps_its_digits(steps: int):
    """However close the levels are: against the rates in extended precision."""
    schedule = InterpolatedSchedule(CosineLogSNRSchedule(), 512, 32, 256)
    logsnr = LogSNRProcess(schedule).respace(2 * steps).logsnr
    found = first_share(logsnr)
    rate = np.exp(logsnr.astype(np.longdouble) / 2)
    start, middle = rate[1::2], rate[0::2]
    expected = np.append(0.0, (middle - start)[1:] / (start[:-1] - start[1:]))
    assert ((found >= 0) & (found < 1)).all()
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-12)


def test_a_student_of_one_step_is_the_teachers_walk():
    """Halved down to one step with perfect students, it is still the walk of sixteen steps."""
    one, sampler, teacher = objective(), DDIMSampler(), Exact(VelocityTarget(), "float64")
    start, plan = images(2, "float64"), PROCESS.respace(16)
    expected: Any = start
    for step in reversed(range(16)):
        expected = walked(teacher, one, expected, np.full(2, step, "int32"), plan, sampler)

    def student(steps: int) -> Any:
        if steps == 16:
            return teacher
        distillation = ProgressiveDistillation(steps)

        def said(given: dict[str, Any]) -> Any:
            # to whole steps: it is asked at those of its plan
            index = np.abs(distillation.plan(PROCESS).logsnr[None] - np.asarray(given["logsnr"])[:, None]).argmin(1)
            level = distillation.plan(PROCESS).level(index.astype("int32"), "float64")
            return distillation.answer(student(2 * steps), one, given["image"], level, {})

        return said

    found = walked(student(1), one, start, np.zeros(2, "int32"), PROCESS.respace(1), sampler)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_student_knows_its_own_levels():
    progressive, guided = ProgressiveDistillation(8), GuidanceDistillation(ClassifierFreeGuidance(2.0))
    known = {steps for steps in range(1, 20) if progressive.knows(PROCESS.respace(steps), PROCESS)}
    assert known == {1, 2, 4, 8}
    assert guided.knows(PROCESS.respace(50), PROCESS)
    assert (guided.asked(PROCESS), progressive.asked(PROCESS).steps) == (None, 16)


# ---- mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProgressiveDistillation(0), "steps must be positive, got 0"),
        (lambda: GuidanceDistillation(ClassifierFreeGuidance(1.0)), "scale other than 1.* got ClassifierFreeGuidance"),
        (lambda: GuidanceDistillation(ClassifierGuidance(2.0)), "guidance must be ClassifierFreeGuidance .*got Class"),
        (
            lambda: ProgressiveDistillation(4).plan(DiscreteProcess(CosineSchedule(), 1000)),
            "4 steps of a DiscreteProcess do not divide into 8, .* needs a process in continuous time",
        ),
        (
            lambda: ProgressiveDistillation(8).plan(ContinuousNoiseProcess(CosineSchedule(), 16)),
            "8 steps of a ContinuousNoiseProcess do not divide into 16",
        ),
    ],
)
def test_mistakes_say_what_is_allowed(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        make()
