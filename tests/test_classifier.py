"""The noisy classifier of classifier guidance: every kind of pooling, and the gradient that guides."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special
from test_networks import BATCH, CLASSES, built, inputs, members, near, normal

from zoo.diffusion import guidance
from zoo.networks import attention, blocks, layers, pooling, resampling
from zoo.networks.classifier import NoisyClassifier
from zoo.networks.embeddings import StepEmbedding
from zoo.training.gradients import input_gradient


def classifier(pool: pooling.Pooling, **changes: Any) -> NoisyClassifier:
    """A classifier of two levels, 64 and 32 channels."""
    parts: dict[str, Any] = {
        "channels": 32,
        "multipliers": (2, 1),
        "blocks": 1,
        "out_classes": CLASSES,
        "time": StepEmbedding(),
        "modulation": blocks.AdaptiveModulation(),
        "resampling": resampling.ResidualResampling(),
        "attention": attention.SelfAttention((4,), attention.HeadCount(2), attention.HeadsLast()),
        "normalisation": layers.GroupNormalisation(groups=8),
        "pooling": pool,
        "dropout": 0.5,
    }
    return NoisyClassifier(**(parts | changes))


@pytest.mark.parametrize("pool", members("poolings"))
def test_every_pooling_gives_logits_that_hear_image_and_noise_level(pool: pooling.Pooling):
    network, given = classifier(pool), inputs()
    whole = np.asarray(built(network, given)(given))
    assert whole.shape == (BATCH, CLASSES)
    for example in range(BATCH):
        alone = network({name: value[example : example + 1] for name, value in given.items()})
        near(alone[0], whole[example], 1e-4)
    for name in given:
        assert (np.abs(np.asarray(network(given | {name: given[name] + 1})) - whole).max(axis=1) > 1e-4).all(), name
    one, other = (network(given | {"seed": np.array((7, seed), "int32")}) for seed in (1, 2))
    assert (np.abs(np.asarray(one) - np.asarray(other)) > 1e-4).any()


@pytest.mark.parametrize("pool", members("poolings"))
def test_logits_are_precise_where_the_classifier_is_not(pool: pooling.Pooling):
    given, full = inputs(), classifier(pool)
    expected = np.asarray(built(full, given)(given))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = classifier(pool)
        assert keras.backend.standardize_dtype(half(given).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
    for variable, other in zip(half.variables, full.variables, strict=True):
        assert variable.dtype == "float32"
        variable.assign(other)
    assert np.abs(np.asarray(half(given)) - expected).max() < 0.05 * np.abs(expected).max()


def test_the_gradient_of_a_class_is_that_of_its_log_probability():
    """Of a linear classifier: w_y minus the mean of w under the predicted distribution."""
    x, weights = normal(BATCH, 3, 4, 2), normal(24, CLASSES, seed=1)
    label = np.array([1, 3], "int32")

    def linear(given: dict[str, Any]) -> Any:
        return ops.matmul(ops.reshape(given["image"], (BATCH, 24)), weights)

    found = guidance.class_gradient(linear, {"image": x}, label, input_gradient)
    logits = x.reshape(BATCH, 24) @ weights
    probabilities = special.softmax(logits, axis=1)
    near(found, (weights.T[label] - probabilities @ weights.T).reshape(x.shape), 1e-4)
    near(guidance.log_probability(logits, label), np.log(probabilities[[0, 1], label]), 1e-4)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: classifier(pooling.AdaptivePooling(), out_classes=0), "out_classes must be positive, got 0"),
        (lambda: classifier(pooling.AdaptivePooling())(inputs(5)), "need an image size divisible by 2, got 5"),
        (lambda: pooling.SpatialPooling(width=0), "width must be positive, got 0"),
    ],
)
def test_mistakes_name_the_parameter(mistake: Callable[[], Any], message: str):
    with pytest.raises(ValueError) as raised:
        mistake()
    assert message in str(raised.value)
