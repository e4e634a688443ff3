"""What training sees of a stage: a network, its data and a loss."""

import abc
import contextlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from zoo.data.images import Images
from zoo.diffusion.conditioning import Draws
from zoo.diffusion.level_samplers import LevelSampler
from zoo.method import Specification
from zoo.training.observers import Observer
from zoo.training.trainer import Training


class Preparation:
    """What precedes the training of a stage: nothing, of one that needs no other stage."""

    def check_network(self) -> None:
        """Raises ValueError where its network, whose variables have shapes by now, does not fit another stage's."""

    def check_ready(self, folder: Path, first: Sequence["Learner"]) -> None:
        """Raises UserError where training needs another stage that is neither trained nor among `first`.

        Args:
            folder: WORKDIR/stages.
            first: stages that are trained before it.
        """

    def prepare(self, folder: Path, seed: int, chief: bool) -> None:
        """Takes over from other stages what its training begins with; called inside the scope of the strategy.

        Args:
            folder: WORKDIR/stages.
            seed: of the run.
            chief: whether this worker writes the folder of the stage.
        """

    def build_asked(self, seed: int) -> None:
        """Makes the variables of the other networks that its loss asks; called inside the scope of the strategy."""


class Learner(Preparation, abc.ABC):
    """A stage of a pipeline, whatever its network learns.

    Args:
        name: of its folders and on the screen.
        network: makes its variables when `build_network` is called.
        images: the data.
        training: batch, steps, optimizer.

    Attributes:
        observer: looks at the network while it is trained.
        sampler_steps: evaluations of the network for one sample; 0 where it makes none.
        asked_passes: evaluations of another stage's network for the loss of one image.
        levels: which steps of its process are trained; None draws them uniformly.
        level_steps: of that process.
    """

    observer: type[Observer]
    sampler_steps: int = 0
    asked_passes: int = 0
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
