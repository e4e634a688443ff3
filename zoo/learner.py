"""What training sees of a stage: a network, its data and a loss."""

import abc
import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import keras

from zoo.data.images import Images
from zoo.diffusion.conditioning import Draws
from zoo.diffusion.level_samplers import LevelSampler
from zoo.training.observers import Observer
from zoo.training.trainer import Training

Specification = dict[str, tuple[tuple[int, ...], str]]


class Learner(abc.ABC):
    """A stage of a pipeline, whatever its network learns.

    Args:
        name: of its folders and on the screen.
        network: makes its variables when `build_network` is called.
        images: the data.
        training: batch, steps, optimizer.

    Attributes:
        observer: looks at the network while it is trained.
        sampler_steps: evaluations of the network for one sample; 0 where it makes none.
        levels: which steps of its process are trained; None draws them uniformly.
        level_steps: of that process.
    """

    observer: type[Observer]
    sampler_steps: int = 0
    levels: LevelSampler | None = None
    level_steps: int = 0

    def __init__(self, name: str, network: keras.Model, images: Images, training: Training) -> None:
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name must consist of letters, digits, - and _, got '{name}'")
        self.name, self.network, self.images, self.training = name, network, images, training

    @property
    def size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.images.size

    @abc.abstractmethod
    def input_spec(self, batch: int) -> Specification:
        """Name -> (shape, dtype) of what the network is called with."""

    @abc.abstractmethod
    def output_shape(self, batch: int) -> tuple[int, ...]:
        """What the network must return."""

    @abc.abstractmethod
    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What a training step needs drawn, given the shapes of its batch."""

    @abc.abstractmethod
    def training_loss(self, network: Any, batch: dict[str, Any], random: dict[str, Any], seed: Any) -> Any:
        """The loss [B] of a batch of `image` and what comes with it."""

    @abc.abstractmethod
    def check_classes(self) -> None:
        """Raises ValueError where network and data disagree; looks at the dataset, so it is not for constructors."""

    def build_network(self, seed: int) -> keras.Model:
        """The network with its variables, initialised from the seed; called inside the scope of the strategy."""
        if not self.network.built:
            keras.utils.set_random_seed((seed * 1_000_003 + zlib.crc32(self.name.encode())) % 2**31)
            self.network.recompute = self.training.recomputation
            with self._policy():
                self.network({name: keras.KerasTensor(*what) for name, what in self.input_spec(1).items()})
        return self.network

    @contextlib.contextmanager
    def _policy(self) -> Iterator[None]:
        """Layers are made when a network is built, under the policy of that moment."""
        before = keras.config.dtype_policy()
        wanted = self.training.precision.policy
        if wanted != "float32":  # else that of the process, which tests of precision set to float64
            self.network.dtype_policy = keras.DTypePolicy(wanted)
            keras.config.set_dtype_policy(wanted)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)
