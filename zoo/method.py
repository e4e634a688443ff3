"""The method of a stage without its data and machines: what is drawn, told to the network and lost. No backend."""

import abc
from typing import Any

from zoo.diffusion.conditioning import ClassLabel, Conditioning, Draws, LowResolution, Orientation, Text
from zoo.diffusion.objective import Objective

Specification = dict[str, tuple[tuple[int, ...], str]]
"""Name -> (shape, dtype) of what a network is called with."""


class Method(abc.ABC):
    """Objective and conditioning together, and what the network is called with for them.

    Attributes:
        images: the data, or a description of it.
    """

    objective: Objective
    conditioning: tuple[Conditioning, ...]
    images: Any

    # ---- what the network is called with

    @property
    @abc.abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""

    @property
    def conditioned_on_class(self) -> bool:
        """Whether the network is told the class."""
        return any(isinstance(part, ClassLabel) for part in self.conditioning)

    @property
    def conditioned_on_text(self) -> bool:
        """Whether the network is told a caption."""
        return any(isinstance(part, Text) for part in self.conditioning)

    @property
    def oriented(self) -> bool:
        """Whether the network is told which images were turned."""
        return any(isinstance(part, Orientation) for part in self.conditioning)

    @property
    def low_resolution(self) -> LowResolution | None:
        """How it is given the images of the stage before."""
        return next((part for part in self.conditioning if isinstance(part, LowResolution)), None)

    def image_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the images of a batch: `image` and, for super-resolution, `low_resolution`."""
        found: dict[str, tuple[int, ...]] = {"image": (batch, *self.image_shape)}
        low = self.images.low_resolution
        return found if low is None else {**found, "low_resolution": (batch, low, low, self.images.channels)}

    def input_spec(self, batch: int) -> Specification:
        """Name -> (shape, dtype) of what the network is called with."""
        spec: Specification = {name: (shape, "float32") for name, shape in self.image_shapes(batch).items()}
        spec[self.objective.process.told] = ((batch,), "float32")
        if self.conditioned_on_class:
            spec["label"] = ((batch,), "int32")
        if self.images.text is not None:
            spec["text"] = ((batch, self.images.text.length, self.images.text.encoder.width), "float32")
        if self.oriented:
            spec["portrait"] = ((batch,), "int32")
        if self.images.low_resolution is not None:
            spec[self.low_resolution.level if self.low_resolution else "low_resolution_time"] = ((batch,), "float32")
        return spec

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """What the network must return: twice the channels where the variance is learned."""
        height, width, channels = self.image_shape
        return batch, height, width, channels * self.objective.variance.outputs

    # ---- training and sampling

    def conditioning_draws(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What conditioning needs drawn, in training or sampling."""
        draws: Draws = {}
        for part in self.conditioning:
            draws |= part.randomness(shapes)
        return draws

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What a training step needs drawn, given the shapes of its batch."""
        return {**self.objective.randomness(shapes["image"]), **self.conditioning_draws(shapes)}

    def training_loss(self, network: Any, batch: dict[str, Any], random: dict[str, Any], seed: Any) -> Any:
        """The loss [B] of a batch of `image` and, where they are told, `label`, `text` and `low_resolution`."""
        inputs: dict[str, Any] = {}
        for part in self.conditioning:
            inputs |= part.training_inputs(batch, random)
        return self.objective.training_loss(network, batch["image"], inputs, random, seed)

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        """Network inputs that stay the same over all steps of a sample."""
        inputs: dict[str, Any] = {}
        for part in self.conditioning:
            inputs |= part.sampling_inputs(batch, random)
        return inputs
