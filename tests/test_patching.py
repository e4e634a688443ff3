"""Patchings: the contract of every listed one, the wavelet's bands, and the convolution's equal in Keras."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from zoo import registry
from zoo.networks import patching, wavelet

ARGUMENTS: dict[str, dict[str, Any]] = {"SpaceToDepthPatching": {"size": 4}, "ConvolutionPatching": {"size": 4}}


def members() -> list[Any]:
    found = [component.load() for component in registry.load().components.values() if component.family == "patchings"]
    made = [pytest.param(cls(**ARGUMENTS.get(cls.__name__, {})), id=cls.__name__) for cls in found]
    return [*made, pytest.param(patching.WaveletPatching(levels=2), id="two levels")]


def invertible() -> list[Any]:
    return [member for member in members() if isinstance(member.values[0], patching.InvertiblePatching)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize("part", members())
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_first_and_last_layer(part: patching.Patching, policy: str):
    """Right shapes for images that are not square; zeros at first; images stay precise whatever layers compute in."""
    x = normal(2, 16, 24, 3)
    keras.config.set_dtype_policy(policy)
    try:
        first, last = part.embed(32, "first"), part.project(5, "last")
        features = first(x)
        images = last(features)
    finally:
        keras.config.set_dtype_policy("float32")
    assert features.shape == (2, 16 // part.factor, 24 // part.factor, 32)
    assert keras.backend.standardize_dtype(features.dtype) == policy.removeprefix("mixed_")
    assert images.shape == (2, 16, 24, 5)
    assert keras.backend.standardize_dtype(images.dtype) == "float32"
    assert not np.asarray(images).any()
    for index, variable in enumerate(last.trainable_variables):
        variable.assign(normal(*variable.shape, seed=index))
    assert np.asarray(last(features)).std(axis=(1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("part", invertible())
def test_reconstruction_is_perfect(part: patching.InvertiblePatching):
    x = np.clip(normal(3, 32, 16, 3), -1, 1)
    patches = part.split(x)
    assert patches.shape == (3, 32 // part.factor, 16 // part.factor, part.factor**2 * 3)
    assert np.abs(np.asarray(part.join(patches)) - x).max() < 1e-6
    precise = x.astype("float64")
    assert np.abs(np.asarray(part.join(part.split(precise))) - precise).max() < 1e-14
    # and the other way round: patches that come from no image
    assert (
        np.abs(np.asarray(part.split(part.join(normal(*patches.shape, seed=1)))) - normal(*patches.shape, seed=1)).max()
        < 4e-6
    )


@pytest.mark.parametrize("part", invertible())
def test_a_size_that_does_not_divide_is_refused(part: patching.InvertiblePatching):
    with pytest.raises(ValueError, match=f"divisible by {part.factor} pixels, got 16 x 17"):
        part.split(normal(1, 16, 17, 3))


def test_parameters_are_checked():
    for make in (lambda: patching.WaveletPatching(0), lambda: patching.ConvolutionPatching(1)):
        with pytest.raises(ValueError, match="no patching is None"):
            make()
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        patching.SpaceToDepthPatching(0)


# ------------------------------------------------------------------ the wavelet


def test_details_of_slopes_are_zero():
    """The wavelet has two vanishing moments; the low band of a flat image is its value. Borders see the mirror."""
    y, x = np.meshgrid(np.arange(16.0), np.arange(16.0), indexing="ij")
    slope = (0.3 * x - 0.2 * y + 1)[None, :, :, None]
    low, details = (np.asarray(band) for band in wavelet.decompose(slope))
    assert np.abs(details[:, :-1, :-1]).max() < 1e-12
    assert np.abs(details[:, -1]).max() > 0.1
    np.testing.assert_allclose(low[:, 1:-1, 1:-1], slope[:, 2:-2:2, 2:-2:2], atol=1e-12)
    flat = [np.asarray(band) for band in wavelet.decompose(np.full((1, 8, 8, 3), 0.7))]
    np.testing.assert_allclose(flat[0], 0.7, atol=1e-12)
    assert np.abs(flat[1]).max() < 1e-12


def test_bands_of_two_levels_are_brought_to_the_lowest_resolution():
    """Four bands of a quarter of the size, then three of half of it by space-to-depth (figure 6)."""
    x = normal(2, 16, 8, 3)
    patches = np.asarray(patching.WaveletPatching(levels=2).split(x))
    assert patches.shape == (2, 4, 2, 48)
    low, fine = wavelet.decompose(x)
    lowest, coarse = wavelet.decompose(low)
    np.testing.assert_array_equal(patches[..., :3], lowest)
    np.testing.assert_array_equal(patches[..., 3:12], coarse)
    blocks = np.asarray(fine).reshape(2, 4, 2, 2, 2, 9)  # rows and columns of the patches, and within them
    for row in range(2):
        for column in range(2):
            at = 12 + 9 * (2 * row + column)
            np.testing.assert_array_equal(patches[..., at : at + 9], blocks[:, :, row, :, column])


# ------------------------------------------------------------------ the convolution


def test_convolution_patching_is_a_strided_convolution_and_its_transpose():
    part, x = patching.ConvolutionPatching(4), normal(2, 16, 24, 3)
    first, last = part.embed(32, "first"), part.project(3, "last")
    features = first(x)
    last(features)
    for index, variable in enumerate([*first.trainable_variables, *last.trainable_variables]):
        variable.assign(0.1 * normal(*variable.shape, seed=index))
    convolution = keras.layers.Conv2D(32, 4, strides=4)
    transposed = keras.layers.Conv2DTranspose(3, 4, strides=4)
    convolution.build((None, 16, 24, 3))
    transposed.build((None, 4, 6, 32))
    assert first.count_params() == convolution.count_params()
    assert last.count_params() == transposed.count_params()
    weights = {variable.name: np.asarray(variable) for variable in first.trainable_variables}
    convolution.set_weights([weights["kernel"].reshape(4, 4, 3, 32), weights["bias"]])
    np.testing.assert_allclose(first(x), convolution(x), atol=1e-5)
    weights = {variable.name: np.asarray(variable) for variable in last.trainable_variables}
    transposed.set_weights([weights["kernel"].T.reshape(4, 4, 3, 32), weights["bias"]])
    features = ops.convert_to_tensor(normal(2, 4, 6, 32))
    np.testing.assert_allclose(last(features), transposed(features), atol=1e-5)
