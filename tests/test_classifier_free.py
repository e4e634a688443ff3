"""Classifier-free guidance: dropped labels, both answers combined, every sampler, and what must go together."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

from zoo import registry
from zoo.data.crops import CenterCrop
from zoo.diffusion.conditioning import ClassLabel, Text
from zoo.diffusion.guidance import ClassifierFreeGuidance, unconditional
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule
from zoo.diffusion.losses import SimpleLoss
from zoo.diffusion.objective import Objective
from zoo.diffusion.samplers import AncestralSampler
from zoo.diffusion.targets import ImageTarget, NoiseTarget, Target, VelocityTarget
from zoo.diffusion.variances import InterpolatedVariance
from zoo.pipeline import Stage
from zoo.sampling import StageSampler
from zoo.training import randomness
from zoo.training.precisions import Float32
from zoo.training.step import State

SHAPE = (3, 4, 4, 2)
LABELS = np.array([2, 0, 5], "int32")
PROCESS = LogSNRProcess(CosineLogSNRSchedule(), 20)


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype("float32")


def denoiser(inputs: dict[str, Any]) -> Any:
    """An image that depends on z and on the label, -1 too."""
    label = ops.cast(inputs["label"], ops.dtype(inputs["image"]))
    return ops.tanh(inputs["image"]) * ops.reshape(1 + 0.3 * label, (-1, 1, 1, 1))


# ---- the combination


@pytest.mark.parametrize("passes", [1, 2])
def test_equation_7(passes: int):
    z, eta = normal(1), 1.5
    found = ClassifierFreeGuidance(1 + eta, passes).answer(denoiser, {"image": z, "label": LABELS})
    told, untold = denoiser({"image": z, "label": LABELS}), denoiser({"image": z, "label": -np.ones_like(LABELS)})
    np.testing.assert_allclose(found, (1 + eta) * told - eta * untold, rtol=1e-4, atol=1e-6)


def test_scale_1_asks_once():
    asked = []

    def network(inputs: dict[str, Any]) -> Any:
        asked.append(len(inputs["image"]))
        return denoiser(inputs)

    given = {"image": normal(1), "label": LABELS}
    guidance = ClassifierFreeGuidance(1.0)
    np.testing.assert_array_equal(guidance.answer(network, given), denoiser(given))
    assert (guidance.evaluations, guidance.drops, asked) == (1, False, [3])
    ClassifierFreeGuidance(2.0).answer(network, given)
    ClassifierFreeGuidance(2.0, passes=2).answer(network, given)
    assert asked == [3, 6, 3, 3]
    assert ClassifierFreeGuidance(1.05).evaluations == 2


@pytest.mark.parametrize("target", [NoiseTarget(), ImageTarget(), VelocityTarget()], ids=lambda t: type(t).__name__)
def test_it_is_the_same_whatever_the_network_predicts(target: Target):
    """Linearity: guided noise, image and velocity stand for one image."""
    z = normal(1).astype("float64")
    level = PROCESS.level(np.array([0.2, 0.5, 0.9]), "float64")

    def network(inputs: dict[str, Any]) -> Any:
        x = denoiser(inputs)
        return target.value(x, (z - level.alpha * x) / level.sigma, z, level, PROCESS)

    given = {"image": z, "label": LABELS}
    guidance = ClassifierFreeGuidance(3.0, passes=2)
    image = target.image(guidance.answer(network, given), z, level, PROCESS)
    np.testing.assert_allclose(image, guidance.answer(denoiser, given), rtol=1e-9, atol=1e-9)


def test_a_learned_variance_is_the_conditional_one():
    given = {"image": normal(1), "label": LABELS}

    def network(inputs: dict[str, Any]) -> Any:
        return ops.concatenate([denoiser(inputs), 7 * denoiser(inputs)], axis=-1)

    found = ClassifierFreeGuidance(2.0).answer(network, given)
    np.testing.assert_allclose(found[..., :2], ClassifierFreeGuidance(2.0).answer(denoiser, given), rtol=1e-6)
    np.testing.assert_allclose(found[..., 2:], 7 * denoiser(given), rtol=1e-6)


def test_nothing_is_told_instead_of_a_condition():
    weight = np.array([[0.6, 0.8], [1.0, 0.0]], "float32")
    told = {"label": np.array([[1, 2], [3, 4]]), "label_weight": weight, "text": np.ones((2, 3, 4)), "image": weight}
    found = unconditional(told)
    assert set(found) == {"label", "label_weight", "text"}
    assert np.asarray(found["label"]).tolist() == [[-1, -1], [-1, -1]]
    assert np.asarray(found["label_weight"]).tolist() == [[1, 0], [1, 0]]
    assert not np.asarray(found["text"]).any()


# ---- training


def test_dropped_labels():
    count, part = 20_000, ClassLabel(dropout=0.1)
    assert ClassLabel().randomness({"image": SHAPE}) == {}
    assert part.randomness({"image": SHAPE}) == {"label_dropout": ("uniform", (3, 1))}
    draws = randomness.draw(randomness.key(0, "test"), part.randomness({"image": (count, 4, 4, 2)}))
    labels = np.arange(count, dtype="int32") % 10
    found = np.asarray(part.training_inputs({"label": labels}, draws)["label"])
    dropped = found == -1
    assert dropped.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(found[~dropped], labels[~dropped])
    assert found.dtype == np.int32
    # all labels are told in sampling
    assert np.array_equal(part.sampling_inputs({"label": labels}, draws)["label"], labels)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        ClassLabel(dropout=1.0)


def test_no_class_of_the_unet_is_a_zero_embedding():
    stage = tiny.stage("base")
    state = State(stage, seed=0)
    tiny.unsettle(state)
    network = state.network
    given = {"time": np.zeros(3, "float32"), "label": np.array([-1, 0, 4], "int32")}
    found = np.asarray(network.embed(given))
    rows = np.asarray(network.label.embeddings)
    np.testing.assert_allclose(found[1:] - found[:1], rows[[0, 4]], atol=1e-5)


# ---- sampling


class Denoiser(keras.Model):
    """`denoiser` of the velocity, of two classes."""

    classes = 2

    def build(self, shapes: dict[str, Any]) -> None:
        self.unused = self.add_weight(shape=(1,), name="unused")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        return denoiser(inputs) + 0 * self.unused


def stage(sampler: Any, *conditioning: Any) -> Stage:
    training = SimpleNamespace(recomputation=None, precision=Float32())
    data = SimpleNamespace(
        size=4, shape=(4, 4, 2), low_resolution=None, channels=2, classes=2, text=None, crop=CenterCrop()
    )
    objective = Objective(PROCESS, VelocityTarget(), InterpolatedVariance(), SimpleLoss())
    return Stage("base", Denoiser(), objective, data, sampler, training, conditioning)  # type: ignore[arg-type]


def sampled(sampler: Any) -> np.ndarray:
    one = stage(sampler, ClassLabel(dropout=0.1))
    walker = StageSampler(one, one.build_network(0), 3)
    weights: list[tf.Variable] = [one.network.unused.value]
    return walker.sample(randomness.key(0, "base"), np.arange(3), {"label": np.array([0, 1, 1])}, weights)


SAMPLERS = [component.load() for component in registry.load().components.values() if component.family == "samplers"]


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda cls: cls.__name__)
def test_every_sampler_is_guided(make: Any):
    plain, unmoved, guided, again = (
        sampled(make(steps=5, guidance=guidance))
        for guidance in (None, ClassifierFreeGuidance(1.0), ClassifierFreeGuidance(3.0), ClassifierFreeGuidance(3.0, 2))
    )
    np.testing.assert_array_equal(unmoved, plain)
    assert np.abs(guided - plain).mean() > 0.01
    np.testing.assert_allclose(again, guided, rtol=1e-4, atol=1e-5)


# ---- what must go together


def test_guidance_needs_dropped_labels():
    sampler = AncestralSampler(steps=5, guidance=ClassifierFreeGuidance(2.0))
    assert stage(sampler, ClassLabel(dropout=0.1)).sampler_steps == 10
    with pytest.raises(ValueError, match=r"without its ClassLabel, .* set ClassLabel.dropout \(0.1 is usual\)"):
        stage(sampler, ClassLabel())
    with pytest.raises(ValueError, match="the network is told neither"):
        stage(sampler)
    with pytest.raises(ValueError, match=r"lacks|without its Text"):
        stage(sampler, Text())
    assert stage(AncestralSampler(steps=5, guidance=ClassifierFreeGuidance(1.0)), ClassLabel()).sampler_steps == 5


def test_mistakes_name_the_parameter():
    with pytest.raises(ValueError, match="scale must not be negative"):
        ClassifierFreeGuidance(-0.5)
    with pytest.raises(ValueError, match="passes must be 1 or 2, got 3"):
        ClassifierFreeGuidance(2.0, 3)
