"""Conditioning augmentation (CDM, section 3), quantisation between stages, and what the network is given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from zoo import registry
from zoo.diffusion.conditioning import (
    Augmentation,
    ClassLabel,
    EightBit,
    GaussianBlur,
    GaussianNoise,
    LowResolution,
    Rounding,
)
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.schedules import CosineSchedule

STEPS = 50
SHAPE = (6, 7, 5, 3)
PROCESS = DiscreteProcess(CosineSchedule(), STEPS)

# How a listed augmentation is made for the contract of its family; the others need no arguments.
MAKE: dict[str, dict[str, Any]] = {
    "GaussianNoise": {"process": PROCESS, "s": 10},
    "GaussianBlur": {"smallest": 0.4, "largest": 0.6},
}


def members(family: str) -> list[Any]:
    found = [component.load() for component in registry.load().components.values() if component.family == family]
    assert found, f"registry.yaml lists no {family}"
    return [pytest.param(cls(**MAKE.get(cls.__name__, {})), id=cls.__name__) for cls in found]


def images(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def drawn(part: Any, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> dict[str, np.ndarray]:
    """What `randomness` of an augmentation asks for."""
    generator = np.random.default_rng(seed)
    kinds = {"normal": generator.standard_normal, "uniform": generator.random}
    return {name: kinds[kind](size).astype("float32") for name, (kind, size) in part.randomness(shape).items()}


def levels(first: list[float] | np.ndarray, second: list[float] | np.ndarray | float = 0.5) -> np.ndarray:
    """Uniform numbers [B, 2]."""
    return np.stack(np.broadcast_arrays(np.asarray(first), second), axis=1).astype("float32")


@pytest.mark.parametrize("augmentation", members("augmentations"))
def test_augmentation_gives_the_same_inputs_in_training_and_sampling(augmentation: Augmentation):
    given, random = images(), drawn(augmentation)
    trained, sampled = augmentation.augment(given, random), augmentation.apply(given, random)
    assert set(trained) == set(sampled)
    assert set(trained) <= {"low_resolution", "low_resolution_time"}
    for inputs in (trained, sampled):
        assert inputs["low_resolution"].shape == SHAPE
        assert all(np.isfinite(value).all() for value in inputs.values())
        if "low_resolution_time" in inputs:
            assert inputs["low_resolution_time"].shape == SHAPE[:1]
    # the augmentation of an image depends on that image and its own numbers alone
    alone = augmentation.augment(given[2:3], {name: value[2:3] for name, value in random.items()})
    for name, value in alone.items():
        np.testing.assert_allclose(value[0], trained[name][2], atol=1e-6)


# ------------------------------------------------------------------ Gaussian noise


@pytest.mark.parametrize("s", [1, 10, STEPS])
def test_noise_of_level_s_has_used_s_steps(s: int):
    augmentation = GaussianNoise(PROCESS, s=s)
    given, random = images(), drawn(augmentation)
    result = augmentation.apply(given, random)
    kept = np.prod(1 - PROCESS.betas[:s])
    expected = np.sqrt(kept) * given + np.sqrt(1 - kept) * random["augmentation_noise"]
    np.testing.assert_allclose(result["low_resolution"], expected, atol=1e-6)
    np.testing.assert_array_equal(result["low_resolution_time"], np.full(6, s, "float32"))


def test_noise_has_the_variance_of_its_level():
    shape = (8, 32, 32, 3)
    augmentation = GaussianNoise(PROCESS, s=10)
    noise = np.asarray(augmentation.apply(np.zeros(shape, "float32"), drawn(augmentation, shape))["low_resolution"])
    expected = 1 - np.prod(1 - PROCESS.betas[:10])
    assert abs(noise.var() / expected - 1) < 0.05  # 24,576 numbers: five standard errors are 0.045
    assert abs(noise.mean()) < 5 * np.sqrt(expected / noise.size)


def test_level_zero_is_the_image():
    augmentation = GaussianNoise(PROCESS, s=0, clean=0.1)
    given = images()
    result = augmentation.apply(given, drawn(augmentation))
    np.testing.assert_array_equal(result["low_resolution"], given)
    np.testing.assert_array_equal(result["low_resolution_time"], np.zeros(6))


def test_training_levels_are_uniform_from_smallest_to_largest():
    augmentation = GaussianNoise(PROCESS, s=3, smallest=3, largest=12)
    count = 40
    given = images((count, 1, 1, 1))
    random = {
        "augmentation_noise": np.ones((count, 1, 1, 1), "float32"),
        "augmentation_level": levels((np.arange(count) + 0.5) / count),
    }
    result = augmentation.augment(given, random)
    times = np.asarray(result["low_resolution_time"]).astype(int)
    np.testing.assert_array_equal(times, np.repeat(np.arange(3, 13), 4))
    # the level that is told is the level of the image
    kept = np.cumprod(1 - PROCESS.betas)[times - 1]
    np.testing.assert_allclose(
        np.ravel(result["low_resolution"]), np.sqrt(kept) * np.ravel(given) + np.sqrt(1 - kept), atol=1e-6
    )


def test_training_levels_reach_both_ends_by_default():
    augmentation = GaussianNoise(PROCESS, s=1)
    uniform = levels([0.0, float(np.nextafter(1, 0, dtype="float32"))])
    random = {"augmentation_noise": images((2, 1, 1, 1)), "augmentation_level": uniform}
    told = augmentation.augment(images((2, 1, 1, 1)), random)["low_resolution_time"]
    assert np.asarray(told).tolist() == [1, STEPS]


def test_a_share_of_training_images_stays_clean():
    augmentation = GaussianNoise(PROCESS, s=5, clean=0.25)
    given, chance = images((4, 2, 2, 1)), [0.0, 0.2, 0.3, 0.9]
    random = {"augmentation_noise": images((4, 2, 2, 1), seed=5), "augmentation_level": levels([0.5] * 4, chance)}
    result = augmentation.augment(given, random)
    assert (np.asarray(result["low_resolution_time"]) == 0).tolist() == [True, True, False, False]
    np.testing.assert_array_equal(result["low_resolution"][:2], given[:2])
    assert (np.asarray(result["low_resolution"][2:]) != given[2:]).all()


def test_level_is_told_in_the_range_of_the_network():
    process = DiscreteProcess(CosineSchedule(), STEPS, time_range=1000.0)
    for s in (0, 1, STEPS):
        augmentation = GaussianNoise(process, s=s, clean=0.1)
        told = augmentation.apply(images(), drawn(augmentation))["low_resolution_time"]
        np.testing.assert_allclose(told, np.full(6, s * 20.0))


# ------------------------------------------------------------------ Gaussian blur


def test_blur_is_the_gaussian_filter_cut_to_three_pixels():
    augmentation = GaussianBlur(smallest=0.4, largest=0.9, probability=1.0)
    given = images()
    uniform = np.linspace(0, 0.999, 6)
    result = augmentation.augment(given, {"augmentation_level": levels(uniform)})["low_resolution"]
    for example, fraction in enumerate(uniform):
        sigma = 0.4 + 0.5 * fraction
        # SciPy's "mirror" reflects about the centre of the border pixel, without repeating it
        expected = ndimage.gaussian_filter(given[example], sigma, radius=1, mode="mirror", axes=(0, 1))
        np.testing.assert_allclose(result[example], expected, atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_blur_happens_with_its_probability(probability: float):
    augmentation = GaussianBlur(smallest=0.4, largest=0.6, probability=probability)
    given = images()
    chance = np.array([0.0, 0.1, 0.49, 0.51, 0.9, 0.999])
    result = augmentation.augment(given, {"augmentation_level": levels([0.5] * 6, chance)})["low_resolution"]
    blurred = (np.asarray(result) != given).any(axis=(1, 2, 3))
    assert blurred.tolist() == (chance < probability).tolist()


def test_no_blur_at_sampling():
    augmentation = GaussianBlur(smallest=0.4, largest=0.6, probability=1.0)
    result = augmentation.apply(images(), drawn(augmentation))
    assert set(result) == {"low_resolution"}
    np.testing.assert_array_equal(result["low_resolution"], images())


# ------------------------------------------------------------------ rounding and inputs


@pytest.mark.parametrize("rounding", members("roundings"))
def test_rounding_twice_is_rounding_once(rounding: Rounding):
    once = np.asarray(rounding(1.5 * images()))
    np.testing.assert_allclose(rounding(once), once, atol=1e-7)
    assert np.abs(once).max() <= 1


def test_eight_bit_is_the_round_trip_through_a_file():
    given = 1.5 * images()
    stored = np.round((np.clip(given, -1, 1) + 1) * 127.5).astype("uint8")
    np.testing.assert_allclose(EightBit()(given), stored.astype("float32") / 127.5 - 1, atol=1e-7)
    grey = np.arange(256, dtype="uint8").astype("float32") / 127.5 - 1
    np.testing.assert_allclose(EightBit()(grey), grey, atol=1e-7)


def test_class_label_is_passed_on():
    batch = {"label": np.array([3, 1]), "image": images()}
    for inputs in (ClassLabel().training_inputs(batch, {}), ClassLabel().sampling_inputs(batch, {})):
        assert set(inputs) == {"label"}
        assert inputs["label"].tolist() == [3, 1]
    assert ClassLabel().randomness({"image": SHAPE, "label": (6,)}) == {}


def test_low_resolution_alone_is_passed_on():
    part, batch = LowResolution(), {"low_resolution": images(), "image": images((6, 14, 10, 3))}
    assert part.randomness({"low_resolution": SHAPE, "image": (6, 14, 10, 3)}) == {}
    for inputs in (part.training_inputs(batch, {}), part.sampling_inputs(batch, {})):
        assert set(inputs) == {"low_resolution"}
        np.testing.assert_array_equal(inputs["low_resolution"], images())


def test_low_resolution_is_rounded_and_then_noised_in_sampling_alone():
    augmentation = GaussianNoise(PROCESS, s=7)
    part, batch = LowResolution(augmentation, EightBit()), {"low_resolution": 1.2 * images()}
    assert part.randomness({"low_resolution": SHAPE, "image": (6, 14, 10, 3)}) == augmentation.randomness(SHAPE)
    random = drawn(augmentation)
    sampled = part.sampling_inputs(batch, random)
    expected = augmentation.apply(EightBit()(batch["low_resolution"]), random)
    np.testing.assert_array_equal(sampled["low_resolution"], expected["low_resolution"])
    trained = part.training_inputs(batch, random)
    expected = augmentation.augment(batch["low_resolution"], random)
    for name in ("low_resolution", "low_resolution_time"):
        np.testing.assert_array_equal(trained[name], expected[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(PROCESS, s=51), "s must be in 0 .. 50, got 51"),
        (lambda: GaussianNoise(PROCESS, s=-1), "s must be in 0 .. 50, got -1"),
        (lambda: GaussianNoise(PROCESS, s=21, largest=20), "in 1 .. 20 by smallest and largest, got 21"),
        (lambda: GaussianNoise(PROCESS, s=0), "(0 needs clean, the share of clean images), got 0"),
        (lambda: GaussianNoise(PROCESS, s=0, smallest=0), "smallest and largest must satisfy"),
        (lambda: GaussianNoise(PROCESS, s=0, smallest=20, largest=10), "smallest = 20, largest = 10"),
        (lambda: GaussianNoise(PROCESS, s=0, largest=60), "largest = 60"),
        (lambda: GaussianNoise(PROCESS, s=0, clean=1.5), "clean must be a probability, got 1.5"),
        (lambda: GaussianBlur(0.6, 0.4), "smallest must be positive and at most largest"),
        (lambda: GaussianBlur(0.0, 0.4), "smallest must be positive"),
        (lambda: GaussianBlur(0.4, 0.6, probability=2.0), "probability must be in [0, 1], got 2.0"),
    ],
)
def test_mistakes_name_the_parameter(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError) as raised:
        make()
    assert message in str(raised.value)
