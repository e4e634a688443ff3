"""What a denoiser is conditioned on, and how low-resolution images are augmented (CDM, section 3)."""

import abc
from typing import Any

from keras import ops

from zoo.diffusion.process import DiscreteProcess

Draws = dict[str, tuple[str, tuple[int, ...]]]


class Conditioning(abc.ABC):
    """Contract of the family: from a batch to inputs of the network, in training and in sampling."""

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What must be drawn: name -> (distribution, shape), given the shapes of the batch."""
        return {}

    @abc.abstractmethod
    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        """Network inputs for a training batch (`label` int [B], `low_resolution` [B, h, w, C])."""

    @abc.abstractmethod
    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        """Network inputs for sampling: labels as asked, low-resolution images from the stage before."""


class ClassLabel(Conditioning):
    """The class of the image."""

    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        return {"label": batch["label"]}

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        return {"label": batch["label"]}


class Augmentation(abc.ABC):
    """Contract of the family: how low-resolution images are spoilt, so that the next stage forgives artefacts."""

    @abc.abstractmethod
    def randomness(self, shape: tuple[int, ...]) -> Draws:
        """What must be drawn for low-resolution images of `shape`."""

    @abc.abstractmethod
    def augment(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        """Training: network inputs `low_resolution` and, where the level is told, `low_resolution_time`."""

    @abc.abstractmethod
    def apply(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        """Sampling: the same, at the level chosen for sampling."""


class GaussianNoise(Augmentation):
    """Corrupts the low-resolution image to z_s of its own process, and tells the network s (CDM, algorithms 1, 2).

    s is drawn from U{smallest .. largest}; s = 0 is the clean image, which algorithm 1 never draws: it is
    trained with probability `clean`. `s` is the level at sampling (non-truncated augmentation, section 3.3).
    """

    def __init__(
        self, process: DiscreteProcess, s: int, smallest: int = 1, largest: int | None = None, clean: float = 0.0
    ) -> None:
        largest = process.steps if largest is None else largest
        if not 1 <= smallest <= largest <= process.steps:
            raise ValueError(
                f"smallest and largest must satisfy 1 <= smallest <= largest <= {process.steps} (the steps of the "
                f"process), got smallest = {smallest}, largest = {largest}"
            )
        if not 0 <= s <= process.steps:
            raise ValueError(f"s must be in 0 .. {process.steps}, got {s}")
        if not 0 <= clean <= 1:
            raise ValueError(f"clean must be a probability, got {clean}")
        self.process, self.s, self.smallest, self.largest, self.clean = process, s, smallest, largest, clean

    def randomness(self, shape: tuple[int, ...]) -> Draws:
        return {"augmentation_noise": ("normal", shape), "augmentation_level": ("uniform", (shape[0], 2))}

    def augment(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        uniform = random["augmentation_level"]
        count = self.largest - self.smallest + 1
        s = self.smallest + ops.minimum(ops.cast(ops.floor(uniform[:, 0] * count), "int32"), count - 1)
        return self.at(images, ops.where(uniform[:, 1] < self.clean, 0, s), random["augmentation_noise"])

    def apply(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        s = ops.full((images.shape[0],), self.s, dtype="int32")
        return self.at(images, s, random["augmentation_noise"])

    def at(self, images: Any, s: Any, noise: Any) -> dict[str, Any]:
        """z_s of `images` [B, h, w, C] at levels s int [B]; z_s has used s steps, index s - 1 of the tables."""
        index = ops.maximum(s - 1, 0)
        level = self.process.level(index)
        noisy = self.process.corrupt(images, noise, level)
        clean = ops.reshape(s == 0, (-1, 1, 1, 1))
        time = ops.where(s == 0, 0.0, self.process.model_time(index) + self._unit())
        return {"low_resolution": ops.where(clean, images, noisy), "low_resolution_time": time}

    def _unit(self) -> float:
        """One step in the network's time, so that s = 0 and s = 1 differ."""
        return 1.0 if self.process.time_range is None else self.process.time_range / self.process.trained_steps


class GaussianBlur(Augmentation):
    """A 3x3 Gaussian filter with sigma ~ U(smallest, largest) on a share of the training images, none at sampling.

    CDM, section 3.4. Borders are reflected.
    """

    def __init__(self, smallest: float, largest: float, probability: float = 0.5) -> None:
        if not 0 < smallest <= largest:
            raise ValueError(f"smallest must be positive and at most largest, got {smallest} and {largest}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        self.smallest, self.largest, self.probability = smallest, largest, probability

    def randomness(self, shape: tuple[int, ...]) -> Draws:
        return {"augmentation_level": ("uniform", (shape[0], 2))}

    def augment(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        uniform = random["augmentation_level"]
        sigma = self.smallest + (self.largest - self.smallest) * uniform[:, 0]
        chosen = ops.reshape(uniform[:, 1] < self.probability, (-1, 1, 1, 1))
        return {"low_resolution": ops.where(chosen, blur3(images, sigma), images)}

    def apply(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        return {"low_resolution": images}


def blur3(images: Any, sigma: Any) -> Any:
    """A 3x3 Gaussian filter [B, h, w, C] with its own sigma [B] for each image, in pixels; borders reflected."""
    side = ops.exp(-0.5 / ops.square(ops.reshape(sigma, (-1, 1, 1, 1))))
    total = 1 + 2 * side
    padded = ops.pad(images, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="reflect")
    rows = (padded[:, 1:-1] + side * (padded[:, :-2] + padded[:, 2:])) / total
    padded = ops.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect")
    return (padded[:, :, 1:-1] + side * (padded[:, :, :-2] + padded[:, :, 2:])) / total


class Rounding(abc.ABC):
    """Contract of the family: what happens to z_0 between two stages."""

    @abc.abstractmethod
    def __call__(self, images: Any) -> Any:
        """[B, h, w, C] in [-1, 1] -> the same."""


class EightBit(Rounding):
    """Rounds to the 256 grey levels of an image file, as when one stage's samples are stored for the next."""

    def __call__(self, images: Any) -> Any:
        return ops.round((ops.clip(images, -1.0, 1.0) + 1) * 127.5) / 127.5 - 1


class LowResolution(Conditioning):
    """The image of the stage before, at its own size, augmented in training (CDM, section 3)."""

    def __init__(self, augmentation: Augmentation | None = None, rounding: Rounding | None = None) -> None:
        self.augmentation, self.rounding = augmentation, rounding

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        return {} if self.augmentation is None else self.augmentation.randomness(shapes["low_resolution"])

    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        images = batch["low_resolution"]
        return {"low_resolution": images} if self.augmentation is None else self.augmentation.augment(images, random)

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        images = batch["low_resolution"]
        if self.rounding is not None:
            images = self.rounding(images)
        return {"low_resolution": images} if self.augmentation is None else self.augmentation.apply(images, random)
