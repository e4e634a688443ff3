"""What a denoiser is conditioned on, and how low-resolution images are augmented (CDM, section 3)."""

import abc
import math
from typing import Any

from keras import ops

from zoo.diffusion.process import Process

Draws = dict[str, tuple[str, tuple[int, ...]]]


class Conditioning(abc.ABC):
    """Contract of the family: from a batch to inputs of the network, in training and in sampling."""

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What must be drawn: name -> (distribution, shape), given the shapes of the batch."""
        return {}

    @abc.abstractmethod
    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        """Network inputs for a training batch (`label` int [B], `text` [B, L, D], `low_resolution` [B, h, w, C])."""

    @abc.abstractmethod
    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        """Network inputs for sampling: labels as asked, low-resolution images from the stage before."""


class Condition(Conditioning):
    """What samples can be turned towards: a share of the training images is not told it.

    Then the network can be guided without a classifier (Ho and Salimans 2022, algorithm 1).

    Args:
        dropout: that share (simple diffusion, appendix B: 0.1).

    Attributes:
        name: of the input, [B, ...].
    """

    name: str

    def __init__(self, dropout: float = 0.0) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.dropout = dropout

    @abc.abstractmethod
    def absent(self, value: Any) -> Any:
        """What says in the place of `value` that nothing is told, of its shape."""

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        return {f"{self.name}_dropout": ("uniform", (shapes["image"][0], 1))} if self.dropout else {}

    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        value = batch[self.name]
        if self.dropout:
            kept = ops.reshape(random[f"{self.name}_dropout"] >= self.dropout, (-1, *[1] * (len(value.shape) - 1)))
            value = ops.where(kept, value, self.absent(value))
        return {self.name: value}


class ClassLabel(Condition):
    """The class of the image; -1 is no class."""

    name = "label"

    def absent(self, value: Any) -> Any:
        return -ops.ones_like(value)

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        return asked_class(batch)


def asked_class(batch: dict[str, Any]) -> dict[str, Any]:
    """`label` [B] or, of a mix of classes, `label` and `label_weight` [B, K]."""
    return {name: batch[name] for name in ("label", "label_weight") if name in batch}


class Text(Condition):
    """A caption, as embeddings of its tokens; rows of zeros are padding, and zeros alone are no text."""

    name = "text"

    def absent(self, value: Any) -> Any:
        return ops.zeros_like(value)

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        return {"text": batch["text"]}


class Orientation(Conditioning):
    """Whether the image is that of a picture taller than wide, turned by a quarter: 1 if so, else 0.

    simple diffusion, text to image at 384x640: one model for landscape and portrait.
    """

    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        return {"portrait": batch["portrait"]}

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        return {"portrait": batch["portrait"]}


class Augmentation(abc.ABC):
    """Contract of the family: how low-resolution images are spoilt, so that the next stage forgives artefacts."""

    @abc.abstractmethod
    def randomness(self, shape: tuple[int, ...]) -> Draws:
        """What must be drawn for low-resolution images of `shape`."""

    @abc.abstractmethod
    def augment(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        """Training: network inputs `low_resolution` and, where the level is told, that as `low_resolution_time` or
        `low_resolution_logsnr`.
        """

    @abc.abstractmethod
    def apply(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        """Sampling: the same, at the level chosen for sampling."""


class GaussianNoise(Augmentation):
    """Corrupts the low-resolution image to z_s of its own process, and tells the network s (CDM, algorithms 1, 2).

    s is drawn from U{smallest .. largest}; s = 0 is the clean image, which algorithm 1 never draws: it is
    trained with probability `clean`. `s` is the level at sampling, one that is trained.

    Of a process that tells the log SNR the level is drawn between two neighbouring steps, s - 1 and s; then `s` at
    sampling may be a fraction, and s = 0 is the end of the levels that are trained.
    """

    def __init__(
        self,
        process: Process,
        s: float,
        smallest: int = 1,
        largest: int | None = None,
        clean: float = 0.0,
    ) -> None:
        largest = process.steps if largest is None else largest
        if not 1 <= smallest <= largest <= process.steps:
            raise ValueError(
                f"smallest and largest must satisfy 1 <= smallest <= largest <= {process.steps} (the steps of the "
                f"process), got smallest = {smallest}, largest = {largest}"
            )
        if not 0 <= s <= process.steps:
            raise ValueError(f"s must be in 0 .. {process.steps}, got {s}")
        if s != int(s) and process.told != "logsnr":
            raise ValueError(f"s must be a whole number, for the network is told steps of a DiscreteProcess, got {s}")
        if not 0 <= clean <= 1:
            raise ValueError(f"clean must be a probability, got {clean}")
        first = smallest - 1 if process.told == "logsnr" else smallest
        if not (first <= s <= largest or (s == 0 and clean > 0)):
            raise ValueError(
                f"s must be a level that is trained, in {first} .. {largest} by smallest and largest"
                f"{' (0 needs clean, the share of clean images)' if s == 0 else ''}, got {s}"
            )
        self.process, self.s, self.smallest, self.largest, self.clean = process, s, smallest, largest, clean

    def randomness(self, shape: tuple[int, ...]) -> Draws:
        uniform = (shape[0], 3 if self.process.told == "logsnr" else 2)
        return {"augmentation_noise": ("normal", shape), "augmentation_level": ("uniform", uniform)}

    def augment(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        uniform = random["augmentation_level"]
        count = self.largest - self.smallest + 1
        s = self.smallest + ops.minimum(ops.cast(ops.floor(uniform[:, 0] * count), "int32"), count - 1)
        # The last column: where between s - 1 and s, of a process that has levels there.
        return self._at(images, s, uniform[:, -1], uniform[:, 1] < self.clean, random["augmentation_noise"])

    def apply(self, images: Any, random: dict[str, Any]) -> dict[str, Any]:
        return self._at(images, *self._chosen(images), random["augmentation_noise"])

    def tell(self, z: Any) -> dict[str, Any]:
        """Sampling: the inputs for images z [B, h, w, C] that are z_s already (truncated augmentation)."""
        return {**self._at(z, *self._chosen(z), ops.zeros_like(z)), "low_resolution": z}

    def _chosen(self, images: Any) -> tuple[Any, Any, Any]:
        """The level at sampling for a batch: step, part of the way to the step before, and whether it is s = 0."""
        count = images.shape[0]
        whole = max(1, math.ceil(self.s))
        part = ops.full((count,), whole - self.s, dtype="float32")
        return ops.full((count,), whole, dtype="int32"), part, ops.full((count,), self.s == 0, dtype="bool")

    def _at(self, images: Any, s: Any, part: Any, clean: Any, noise: Any) -> dict[str, Any]:
        """z_s of `images` [B, h, w, C] at levels s int [B]; z_s has used s steps, index s - 1 of the tables."""
        level = self.process.between(ops.where(clean, 0, s - 1), ops.where(clean, 1.0, part))
        noisy = ops.where(ops.reshape(clean, (-1, 1, 1, 1)), images, self.process.corrupt(images, noise, level))
        told = dict(level.inputs)
        if "time" in told:  # s counts from 1, and 0 is the clean image
            told["time"] = ops.where(clean, 0.0, told["time"] + self._unit())
        return {"low_resolution": noisy} | {f"low_resolution_{name}": value for name, value in told.items()}

    def _unit(self) -> float:
        """One step in the network's time, so that s = 0 and s = 1 differ."""
        steps = self.process.respace(None)
        return 1.0 if steps.time_range is None else steps.time_range / steps.trained_steps


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


class Origin(abc.ABC):
    """Contract of the family: where the low-resolution images of a sample set come from (zoo/origins.py)."""

    chained: bool = True
    """Whether they are those of the stage before."""
    truncated: bool = False
    """Whether they are z_s, as the reverse process of the stage before leaves them at step s, instead of images."""

    @abc.abstractmethod
    def read(self, indices: Any, pairs: Any, before: Any, shard: int, s: float) -> dict[str, Any]:
        """`low_resolution` [n, h, w, C] or, where truncated, `z_s`, and `label` [n] of images that have labels.

        Args:
            indices: int [n], consecutive: numbers of the images.
            pairs: the data of the stage.
            before: the sample folder of the stage before, None of a first stage.
            shard: images a file there.
            s: the level of the augmentation at sampling.
        """

    def identity(self, pairs: Any) -> dict[str, Any]:
        """What the images depend on besides what the component was made with."""
        return {}


class LowResolution(Conditioning):
    """The image of the stage before, at its own size, augmented in training (CDM, section 3).

    Args:
        augmentation: None trains on clean images.
        rounding: of z_0 between two stages; None takes it as it is.
        origin: of the images at sampling; None takes z_0 of the stage before, which is then augmented at the level
            chosen for sampling (non-truncated conditioning augmentation, section 3.3).
    """

    def __init__(
        self, augmentation: Augmentation | None = None, rounding: Rounding | None = None, origin: Origin | None = None
    ) -> None:
        self.augmentation, self.rounding, self.origin = augmentation, rounding, origin

    @property
    def level(self) -> str:
        """The network input that tells the level of the augmentation."""
        process = getattr(self.augmentation, "process", None)
        return f"low_resolution_{getattr(process, 'told', 'time')}"

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        if self.augmentation is None or "low_resolution" not in shapes:
            return {}
        return self.augmentation.randomness(shapes["low_resolution"])

    def training_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        images = batch["low_resolution"]
        return {"low_resolution": images} if self.augmentation is None else self.augmentation.augment(images, random)

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        if "z_s" in batch:
            if not isinstance(self.augmentation, GaussianNoise):
                raise ValueError("truncated samples are levels of GaussianNoise, which this stage is not trained with")
            return self.augmentation.tell(batch["z_s"])
        images = batch["low_resolution"]
        if self.rounding is not None:
            images = self.rounding(images)
        return {"low_resolution": images} if self.augmentation is None else self.augmentation.apply(images, random)
