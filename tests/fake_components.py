"""Small components for the tests of registry, recipes and describe: the zoo's shape without its weight."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable

import keras

from zoo.console import UserError


class Schedule(abc.ABC):
    @abc.abstractmethod
    def alpha(self, t: float) -> float:
        """The signal that is left at time t in [0, 1]."""


class LinearSchedule(Schedule):
    def __init__(self, start: float = 1e-4, stop: float = 0.02) -> None:
        if not 0 < start < stop:
            raise ValueError(f"start must be in (0, {stop}), got {start}")
        self.start = start
        self.stop = stop

    def alpha(self, t: float) -> float:
        return 1 - t * self.stop


class CosineSchedule(Schedule):
    def __init__(self, offset: float = 0.008) -> None:
        self.offset = offset

    def alpha(self, t: float) -> float:
        return 1 - t


class ShiftedSchedule(CosineSchedule):
    """Inherits its constructor."""


class Objective:
    def __init__(self, schedule: Schedule, steps: int = 1000, weighting: Callable[[float], float] | None = None):
        self.schedule = schedule
        self.steps = steps
        self.weighting = weighting


class Activation(keras.layers.Layer):
    def __init__(self, slope: float = 0.1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.slope = slope

    def call(self, x):
        return keras.ops.leaky_relu(x, self.slope)


class UNet(keras.Model):
    """One convolution of `channels` filters and one back to `out_channels`."""

    def __init__(
        self,
        channels: int,
        multipliers: tuple[int, ...] = (1, 2),
        dropout: float = 0.0,
        activation: type[Activation] | None = None,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        if channels <= 0:
            raise ValueError(f"channels must be positive, got {channels}")
        self.channels = channels
        self.multipliers = tuple(multipliers)
        self.first = keras.layers.Conv2D(channels, 3, padding="same")
        self.activation = activation() if activation else keras.layers.Activation("silu")
        self.dropout = keras.layers.Dropout(dropout, seed=0)
        self.last = keras.layers.Conv2D(out_channels, 3, padding="same")

    def call(self, inputs, training: bool = False):
        x = inputs["image"]
        if "low_resolution" in inputs:
            low = keras.ops.image.resize(inputs["low_resolution"], x.shape[1:3], "nearest")
            x = keras.ops.concatenate([x, low], axis=-1)
        return self.last(self.dropout(self.activation(self.first(x)), training=training))


class Images:
    def __init__(self, size: int, source: str = "shapes", low_resolution: int | None = None) -> None:
        self.size = size
        self.source = source
        self.low_resolution = low_resolution

    def check(self) -> None:
        if self.source != "shapes":
            raise UserError(f"source: there is no dataset {self.source!r}; did you mean 'shapes'?")


class Training:
    def __init__(self, batch: int = 8, steps: int = 100, micro_batch: int | None = None) -> None:
        self.batch = batch
        self.steps = steps
        self.micro_batch = micro_batch


class Stage:
    def __init__(
        self, name: str, network: keras.Model, objective: Objective, images: Images, training: Training
    ) -> None:
        self.name = name
        self.network = network
        self.objective = objective
        self.images = images
        self.training = training
        self.sampler_steps = 10

    @property
    def size(self) -> int:
        return self.images.size

    def input_spec(self, batch: int) -> dict[str, tuple[tuple[int, ...], str]]:
        spec = {"image": ((batch, self.size, self.size, 3), "float32"), "time": ((batch,), "float32")}
        if self.images.low_resolution:
            side = self.images.low_resolution
            spec["low_resolution"] = ((batch, side, side, 3), "float32")
        return spec

    def output_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, self.size, self.size, 3)

    def check_classes(self) -> None:
        """These networks are told no class."""

    def check_network(self) -> None:
        """None has a teacher."""


class Pipeline:
    def __init__(self, stages: list[Stage], seed: int = 0, report: tuple[str, ...] = ()) -> None:
        for before, after in itertools.pairwise(stages):
            if after.images.low_resolution != before.size:
                raise ValueError(
                    f"stage '{after.name}' takes Images.low_resolution = {after.images.low_resolution}, "
                    f"but the stage before it, '{before.name}', makes images of {before.size}"
                )
        self.stages = stages
        self.makers: tuple[Stage, ...] = ()  # none has a teacher
        self.seed = seed
        self.report = report
