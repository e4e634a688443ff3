"""What looks at a network while it is trained: grids of a denoiser's samples, a classifier's accuracy."""

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data.pictures import grid, to_bytes, write_grid
from zoo.sampling import StageSampler, told
from zoo.training import randomness
from zoo.training.distribution import local_replicas
from zoo.training.step_rows import read_rows, write_rows

if TYPE_CHECKING:
    from zoo.classifier_stage import ClassifierStage
    from zoo.pipeline import Stage
    from zoo.training.step import State

QUARTERS = 4  # of the noise levels, each with an accuracy of its own, as ADM's public code logs it
BATCH = 100  # images in one call of a classifier


class Observer(abc.ABC):
    """Contract: looks every `Monitoring.grid_every` steps at raw and averaged weights, and writes what it sees.

    Args:
        stage: whose network is trained.
        state: its weights.
        strategy: the machines; `look` is called in its scope.
        folder: of the stage.
        seed: of the run.

    Attributes:
        doing: what the progress line says meanwhile.
    """

    doing: str

    def __init__(self, stage: Any, state: "State", strategy: tf.distribute.Strategy, folder: Path, seed: int) -> None:
        self.stage, self.state, self.strategy, self.folder, self.seed = stage, state, strategy, folder, seed

    @abc.abstractmethod
    def look(self, step: int, events: tf.summary.SummaryWriter) -> None:
        """After `step` steps."""

    @abc.abstractmethod
    def rewind(self, step: int) -> None:
        """Forgets what was seen after `step`, by a run that was killed or went astray."""

    @property
    def _weights(self) -> list[tuple[str, list[tf.Variable]]]:
        return [("raw", self.state.raw), ("ema", self.state.ema)]


class SampleGrids(Observer):
    """Grids of fixed seeds; a super-resolution stage enlarges fixed images of the test split.

    They are the stage's own: a classifier that guides it may not be trained yet, and is not asked.
    """

    doing = "drawing grids"
    stage: "Stage"
    _sampler: StageSampler | None = None

    def rewind(self, step: int) -> None:
        """Nothing: a grid is written again under the same name."""

    def look(self, step: int, events: tf.summary.SummaryWriter) -> None:
        count = self.stage.training.monitoring.grid_images
        if self._sampler is None:
            self._sampler = StageSampler(self.stage, self.state.network, -(-count // local_replicas(self.strategy)))
            examples = next(iter(self.stage.images.examples("test", count=count, seed=self.seed).batch(count)))
            self._told = told(self.stage, {name: value.numpy() for name, value in examples.items()})
        key = randomness.key(self.seed, f"{self.stage.name}/sampling")
        for name, weights in self._weights:
            images = to_bytes(self._sampler.sample(key, np.arange(count), self._told, weights))
            write_grid(self.folder / "grids" / f"{step:08d}-{name}.png", images)
            with events.as_default(step):
                tf.summary.image(name, grid(images)[None])


class HeldOutAccuracy(Observer):
    """How often a classifier of noised images is right on held-out ones, the same at every look: accuracy.csv.

    A row for raw and one for averaged weights: top-1 and top-5 over all noise levels, and top-1 in each quarter of
    them, the least noise first.
    """

    doing = "measuring accuracy"
    stage: "ClassifierStage"
    fields = ("step", "weights", "images", "top_1", "top_5", *(f"top_1_quarter_{i + 1}" for i in range(QUARTERS)))
    _compiled: Any = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "accuracy.csv"

    def look(self, step: int, events: tf.summary.SummaryWriter) -> None:
        rows: list[dict[str, Any]] = [*read_rows(self.path, self.fields, step - 1)]
        for name, weights in self._weights:
            rank, quarter = self._ranks(weights)
            accuracy = {"top_1": np.mean(rank < 1), "top_5": np.mean(rank < 5)}
            accuracy |= {f"top_1_quarter_{i + 1}": np.mean(rank[quarter == i] < 1) for i in range(QUARTERS)}
            rows.append({"step": step, "weights": name, "images": len(rank), **accuracy})
            with events.as_default(step):
                for label, value in accuracy.items():
                    tf.summary.scalar(f"{label}/{name}", value)
        write_rows(self.path, self.fields, rows)

    def rewind(self, step: int) -> None:
        if self.path.is_file():
            write_rows(self.path, self.fields, read_rows(self.path, self.fields, step))

    def _ranks(self, weights: list[tf.Variable]) -> tuple[np.ndarray, np.ndarray]:
        """Of every held-out image how many classes are found more likely than its own, and its quarter of levels."""
        images = self.stage.images.examples("test", count=self.stage.held_out, seed=self.seed)
        if self._compiled is None:
            self._compiled = tf.function(self._rank)
        values = [tf.convert_to_tensor(variable) for variable in weights]
        ranks, quarters, first = [], [], 0
        for batch in images.batch(BATCH):
            count = int(batch["label"].shape[0])
            rows = np.minimum(np.arange(BATCH), count - 1)  # the last batch is padded: one graph for all
            rank, quarter = self._compiled(
                values, tf.gather(batch["image"], rows), tf.gather(batch["label"], rows), tf.range(first, first + BATCH)
            )
            ranks.append(rank.numpy()[:count])
            quarters.append(quarter.numpy()[:count])
            first += BATCH
        if not ranks:
            raise UserError(f"the test split of {self.stage.images.source.name} is empty: no accuracy can be measured")
        return np.concatenate(ranks), np.concatenate(quarters)

    def _rank(
        self, weights: list[tf.Tensor], images: tf.Tensor, labels: tf.Tensor, indices: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.cast(images, tf.float32) / 127.5 - 1
        key = randomness.key(self.seed, f"{self.stage.name}/held out")
        random = randomness.draw_each(key, indices, self.stage.randomness({"image": tuple(x.shape)}))

        def network(inputs: dict[str, tf.Tensor]) -> tf.Tensor:
            return self.state.network.stateless_call(weights, [], inputs)[0]

        logits = self.stage.logits(network, x, random)
        own = tf.gather(logits, labels, axis=1, batch_dims=1)
        rank = tf.reduce_sum(tf.cast(logits > own[:, None], tf.int32), axis=1)
        return rank, tf.cast(random["level"][:, 0] * QUARTERS, tf.int32)
