"""Real images as latents of DDIM: there and back, and between two of them, with a denoiser that is known."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

from zoo.console import UserError
from zoo.diffusion.guidance import ClassifierGuidance, log_probability
from zoo.latents import Latents
from zoo.networks.embeddings import class_embedding
from zoo.pipeline import Stage
from zoo.sampling import Guide

SPREAD = 0.3  # standard deviation of the data within a class


class GaussianDenoiser(keras.Model):
    """The best denoiser of classes that are Gaussian around a grey level of their own; says the velocity."""

    classes = 10

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.process = stage.objective.process

    def build(self, shapes: dict[str, Any]) -> None:
        levels = keras.initializers.Constant(np.linspace(-0.5, 0.5, 10)[:, None])
        self.level = keras.layers.Embedding(10, 1, embeddings_initializer=levels, name="level")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        level = self.process.level(ops.cast(inputs["time"], "int32"))
        alpha, sigma, z = level.alpha, level.sigma, inputs["image"]
        mean = class_embedding(self.level, inputs)[:, None, None]
        x = mean + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (z - alpha * mean)
        return alpha * (z - alpha * x) / sigma - sigma * x


def known_stage() -> Stage:
    """The first stage of the tiny cascade with a denoiser that is known."""
    stage = tiny.stage("base", "DDIMSampler.steps = 250", "DDIMSampler.clipping = None")
    assert isinstance(stage, Stage)
    stage.network = GaussianDenoiser(stage)
    return stage


@pytest.fixture(scope="module")
def latents() -> Latents:
    stage = known_stage()
    return Latents(stage, stage.build_network(0), batch=3)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, SPREAD, (count, 8, 8, 3))
    return np.clip(np.round((values + 1) * 127.5), 0, 255).astype(np.uint8)


def test_there_and_back(latents: Latents):
    images, labels = pictures(5), [0, 3, 3, 9, 5]
    assert latents.steps == 250
    found = latents.encode(images, labels)
    assert (found.dtype, found.shape) == (np.float32, (5, 8, 8, 3))
    error = np.abs(latents.decode(found, labels).astype(int) - images)
    assert error.max() <= 4 and error.mean() < 1.5  # steps are 250, not infinitely many
    # The latents are those of the exact flow, which stretches the data to standard normal noise.
    levels = np.linspace(-0.5, 0.5, 10)[labels][:, None, None, None]
    exact = (images / 127.5 - 1 - levels) / SPREAD
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    # Another class is another picture.
    assert np.abs(latents.decode(found, [9, 3, 3, 9, 5])[0].astype(int) - images[0]).mean() > 50


def test_between_two_images(latents: Latents):
    first, second = pictures(2), pictures(2, seed=1)
    labels = [[0, 9], [4, 4]]
    found = latents.interpolate(first, second, labels, count=3)
    assert (found.dtype, found.shape) == (np.uint8, (2, 3, 8, 8, 3))
    for end, images in ((0, first), (2, second)):
        assert np.abs(found[:, end].astype(int) - images).max() <= 4
    # Half-way: noise and class are each (a + b) / sqrt 2, so that their variance is kept.
    grey = np.linspace(-0.5, 0.5, 10)
    for row, (one, other) in enumerate(labels):
        mixed = [(images[row] / 127.5 - 1 - grey[label]) / SPREAD for images, label in ((first, one), (second, other))]
        expected = (grey[one] + grey[other]) / np.sqrt(2) + SPREAD * sum(mixed) / np.sqrt(2)
        shown = np.clip((expected + 1) * 127.5, 0, 255)
        assert np.abs(found[row, 1] - shown).mean() < 5


class GreyClassifier(keras.Model):
    """Log-probabilities that fall with the distance of the mean grey to that of the class."""

    def call(self, inputs: dict[str, Any]) -> Any:
        mean = ops.mean(inputs["image"], axis=(1, 2, 3))
        return -20 * ops.square(mean[:, None] - ops.linspace(-0.5, 0.5, 10))


def test_guidance_decodes_and_does_not_encode(latents: Latents):
    stage = known_stage()
    stage.sampler.guidance = ClassifierGuidance(3.0)
    classifier = GreyClassifier()
    classifier.build({})
    guided = Latents(stage, stage.build_network(0), 3, Guide(classifier, stage.objective.process))
    images, labels = pictures(2), [9, 0]
    found = guided.encode(images, labels)
    np.testing.assert_allclose(found, latents.encode(images, labels), atol=1e-5)
    plain, turned = latents.decode(found, labels), guided.decode(found, labels)
    assert turned[0].mean() - plain[0].mean() > 5  # lighter, and the other one darker
    assert plain[1].mean() - turned[1].mean() > 5
    # A mix that is all of one class is that class, for network and classifier alike.
    mixed = guided.decode(found, [[9, 4], [3, 0]], np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert np.abs(mixed.astype(int) - turned).max() <= 1
    between = guided.interpolate(images[:1], images[1:], labels, count=2)
    assert np.abs(between[0].astype(int) - turned).max() <= 1


def test_a_mix_of_log_probabilities():
    logits = np.random.default_rng(0).standard_normal((2, 5))
    label, weight = np.array([[1, 4], [2, 2]]), np.array([[0.6, 0.8], [1.0, 0.0]])
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = np.asarray(log_probability(ops.convert_to_tensor(logits), label, ops.convert_to_tensor(weight)))
    np.testing.assert_allclose(found, [0.6 * exact[0, 1] + 0.8 * exact[0, 4], exact[1, 2]], rtol=1e-12)


def test_a_mix_of_classes_in_a_network():
    """One class with weight 1 is the class, and weights mix embeddings."""
    stage = tiny.stage("base")
    network = stage.build_network(0)
    inputs = {"image": tf.ones((1, 8, 8, 3)), "time": tf.constant([500.0])}
    one, other = (network.embed({**inputs, "label": tf.constant([label])}) for label in (2, 7))
    time = network.embed({**inputs, "label": tf.constant([[0]]), "label_weight": tf.constant([[0.0]])})
    mixed = network.embed({**inputs, "label": tf.constant([[2, 7]]), "label_weight": tf.constant([[0.6, 0.8]])})
    np.testing.assert_allclose(mixed - time, 0.6 * (one - time) + 0.8 * (other - time), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (pictures(2), None, "labels must be one an image, 2: stage 'base' has classes; got none"),
        (pictures(2), [1], "labels must be one an image, 2: .* got 1"),
        (pictures(2), [1, 10], r"labels must be in 0 .. 9, got \[10\]"),
        (np.zeros((2, 9, 8, 3), np.uint8), [1, 1], r"must be uint8 \['N', 8, 8, 3\], got uint8 \[2, 9, 8, 3\]"),
        (np.zeros((2, 8, 8, 3), np.float32), [1, 1], "must be uint8 .* got float32"),
    ],
)
def test_mistakes(latents: Latents, images: np.ndarray, labels: list[int] | None, message: str):
    with pytest.raises(UserError, match=message):
        latents.encode(images, labels)


def test_a_stage_that_enlarges_encodes_nothing():
    stage = tiny.stage("sr")
    assert isinstance(stage, Stage)
    with pytest.raises(UserError, match="only a stage that starts from noise alone encodes them"):
        Latents(stage, stage.network, 4)
