"""The best checkpoint by a small score of averaged weights; the papers select models by FID over 10k samples."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import tensorflow as tf

from zoo.console import UserError, progress, say
from zoo.data.images import Images
from zoo.data.pictures import to_bytes
from zoo.sampling import StageSampler, told
from zoo.training import randomness
from zoo.training.checkpoints import Best, Checkpoints
from zoo.training.distribution import alone
from zoo.training.step_rows import read_rows, write_rows

if TYPE_CHECKING:
    from zoo.learner import Learner
    from zoo.pipeline import Stage
    from zoo.training.step import State


FIELDS = ("step", "value")  # of selection.csv


class Score(Protocol):
    """What selection needs of the harness; see harness.selection.SmallFID."""

    def title(self, count: int, images: Images) -> str:
        """Of the score of `count` samples: "FID-1k (shapes classifier)"."""

    def check(self, images: Images) -> None:
        """Raises UserError where samples that imitate these images cannot be scored."""

    def score(self, samples: np.ndarray, labels: np.ndarray | None, images: Images, cache: Path) -> float:
        """Samples uint8 [N, H, W, C] -> a number, lower is better."""


class Selection:
    """How checkpoints are scored while a stage trains.

    Args:
        score: of samples.
        every: optimizer steps from one score to the next; a checkpoint is saved then.
        images: how many are sampled, of fixed seeds; a super-resolution stage enlarges test images.
        batch: images in one call of the network.
    """

    def __init__(self, score: Score, every: int, images: int = 10_000, batch: int = 64) -> None:
        for name, value in (("every", every), ("images", images), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        self.score, self.every, self.images, self.batch = score, every, images, batch


class Selector:
    """Scores the checkpoints of one stage, by samples that no classifier guides; selection.csv has a row for each."""

    def __init__(
        self,
        stage: "Learner",
        state: "State",
        strategy: tf.distribute.Strategy,
        checkpoints: Checkpoints,
        folder: Path,
        cache: Path,
        seed: int,
    ) -> None:
        self.stage, self.state, self.strategy, self.seed = stage, state, strategy, seed
        self.checkpoints, self.cache = checkpoints, cache
        self.settings = stage.training.monitoring.selection
        self.path = folder / "selection.csv"
        self._sampler: StageSampler | None = None
        if self.settings is not None:
            self.settings.score.check(stage.images)

    def due(self, step: int) -> bool:
        """Whether the weights of a step are to be scored and have not been."""
        return self.settings is not None and step > 0 and step % self.settings.every == 0 and step not in self._rows()

    def rewind(self, step: int) -> None:
        """Forgets the scores of later steps: they will come again."""
        rows = {at: value for at, value in self._rows().items() if at <= step}
        if len(rows) < len(self._rows()):
            self._write(rows)

    def score(self, step: int) -> None:
        """Samples from the averaged weights and scores; the checkpoint of this step is on the disk."""
        if self.settings is None:
            return
        with self.strategy.scope():
            samples, labels = self._samples()
        with alone(self.strategy):
            value = self.settings.score.score(samples, labels, self.stage.images, self.cache)
        title = self.settings.score.title(len(samples), self.stage.images)
        rows = {**self._rows(), step: value}
        self._write(rows)
        there = {at: rows[at] for at in rows if at in self.checkpoints.steps()}
        best = min(there, key=lambda at: (there[at], at))
        self.checkpoints.set_best(Best(best, rows[best], title))
        say(f"{self.stage.name}: {title} {value:.3f} at step {step:,}; the best is {rows[best]:.3f} at {best:,}")

    def _rows(self) -> dict[int, float]:
        """Step -> value."""
        return {int(row["step"]): float(row["value"]) for row in read_rows(self.path, FIELDS)}

    def _write(self, rows: dict[int, float]) -> None:
        write_rows(self.path, FIELDS, [{"step": step, "value": value} for step, value in sorted(rows.items())])

    def _samples(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Images uint8 [N, H, W, C] from fixed seeds, and their labels."""
        settings, images = self.settings, self.stage.images
        if settings is None:
            raise ValueError("selection is None")
        if self._sampler is None:
            self._sampler = StageSampler(cast("Stage", self.stage), self.state.network, settings.batch)
        key = randomness.key(self.seed, f"{self.stage.name}/selection")
        size, done, labels = self._sampler.at_once, [], []
        examples = images.examples("test", seed=self.seed).repeat().take(settings.images).batch(size)
        with progress(settings.images, f"sampling {self.stage.name}", "images", leave=False) as bar:
            for number, found in enumerate(examples.as_numpy_iterator()):
                batch = told(self.stage, found)
                count = len(found["image"])
                indices = number * size + np.arange(count)
                done.append(to_bytes(self._sampler.sample(key, indices, batch, self.state.ema)))
                labels.append(batch.get("label"))
                bar.update(count)
        if not done:
            raise UserError(f"the test split of {images.source.name} is empty: nothing to take labels from")
        known = [part for part in labels if part is not None]
        return np.concatenate(done), np.concatenate(known) if known else None
