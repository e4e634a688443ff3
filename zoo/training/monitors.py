"""What is written while a stage trains: progress line, metrics.csv, TensorBoard events, what its observer sees."""

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from zoo.console import progress
from zoo.training.selection import Selection
from zoo.training.step_rows import read_rows, write_rows

if TYPE_CHECKING:
    from zoo.learner import Learner
    from zoo.training.step import State, StepResult

FIELDS = ("step", "images", "loss", "gradient_norm", "learning_rate", "images_per_second", "seconds")


class Monitoring:
    """How often a stage logs, checkpoints and draws sample grids, in optimizer steps.

    Args:
        log_every: steps a row of metrics.csv.
        checkpoint_every: steps a checkpoint: the most that a crash can cost.
        grid_every: steps a sample grid of fixed seeds, raw and averaged, or of a classifier its accuracy on held-out
            images; None draws none.
        keep: checkpoints that are kept: the last ones.
        keep_every: checkpoints at multiples of so many steps are kept too; None keeps none of them.
        keep_at: checkpoints of these steps are kept too: those that a paper looks at.
        grid_images: images a grid.
        selection: finds the best checkpoint, which is kept too; None scores none.
    """

    def __init__(
        self,
        log_every: int = 100,
        checkpoint_every: int = 1000,
        grid_every: int | None = None,
        keep: int = 2,
        keep_every: int | None = None,
        keep_at: tuple[int, ...] = (),
        grid_images: int = 16,
        selection: Selection | None = None,
    ) -> None:
        for name, value in (("log_every", log_every), ("checkpoint_every", checkpoint_every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, period in (("grid_every", grid_every), ("keep_every", keep_every)):
            if period is not None and period < 1:
                raise ValueError(f"{name} must be positive or None, got {period}")
        if keep_every is not None and keep_every % checkpoint_every:
            raise ValueError(
                f"keep_every must be a multiple of checkpoint_every = {checkpoint_every}, got {keep_every}"
            )
        if any(step < 1 or step % checkpoint_every for step in keep_at):
            raise ValueError(f"keep_at must be multiples of checkpoint_every = {checkpoint_every}, got {keep_at}")
        if grid_images < 1:
            raise ValueError(f"grid_images must be positive, got {grid_images}")
        self.log_every, self.checkpoint_every, self.grid_every = log_every, checkpoint_every, grid_every
        self.keep, self.keep_every, self.keep_at = keep, keep_every, tuple(keep_at)
        self.grid_images, self.selection = grid_images, selection

    def until_event(self, step: int) -> list[int]:
        """Steps until each of the next events."""
        periods = [self.log_every, self.checkpoint_every, *([self.grid_every] if self.grid_every else [])]
        periods += [self.selection.every] if self.selection else []
        return [period - step % period for period in periods]

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return step % self.checkpoint_every == 0 or (self.selection is not None and step % self.selection.every == 0)


class Bystander:
    """The monitor of a worker that is not the chief: it writes nothing."""

    def start(self, step: int, total: int) -> None:
        """Called before the first step of a run that goes on from `step`, and after going back to a checkpoint."""

    def progress(self, step: int, result: "StepResult", seconds: float) -> None:
        """After each call of the compiled function, with the steps taken by then."""

    def checkpointed(self) -> None:
        """After a checkpoint is on the disk."""

    def finish(self) -> None:
        """After the last step."""


class Monitor(Bystander):
    """Follows the training of one stage in its folder."""

    def __init__(
        self, stage: "Learner", state: "State", strategy: tf.distribute.Strategy, folder: Path, seed: int
    ) -> None:
        self.stage, self.strategy, self.folder = stage, strategy, folder
        self.settings = stage.training.monitoring
        self.path = folder / "metrics.csv"
        self.bar: Any = None
        self.observer = stage.observer(stage, state, strategy, folder, seed)

    def start(self, step: int, total: int) -> None:
        if self.bar is not None:
            self.finish()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = self._trim(step)
        self.observer.rewind(step)
        # TensorBoard drops what was written after `step` by a run that was killed.
        self.events = tf.summary.create_file_writer(str(self.folder), filename_suffix=f".{step}")
        self.window: list[tuple[int, float, float, float]] = []
        self.bar, self.compiling = progress(total, self.stage.name, done=step), True
        self.bar.set_postfix_str("compiling")

    def _trim(self, step: int) -> float:
        """Drops rows of metrics.csv after `step`, from a run that was killed; returns the seconds trained so far."""
        rows = read_rows(self.path, FIELDS, step)
        write_rows(self.path, FIELDS, rows)
        return float(rows[-1]["seconds"]) if rows else 0.0

    def progress(self, step: int, result: "StepResult", seconds: float) -> None:
        count = step - (self.bar.n or 0)
        self.seconds += seconds
        self.window.append((count, result.loss, result.gradient_norm, seconds))
        speed = count * self.stage.training.batch / seconds
        if self.compiling:  # which says nothing of the time that is left
            self.bar.unpause()
            self.compiling = False
        self.bar.set_postfix_str(f"loss {result.loss:.4f}, {speed:.0f} img/s", False)
        self.bar.update(count)
        if step % self.settings.log_every == 0:
            self._log(step)
        if self.settings.grid_every and step % self.settings.grid_every == 0:
            began = time.perf_counter()
            self.bar.set_postfix_str(self.observer.doing)
            with self.strategy.scope():
                self.observer.look(step, self.events)
            self.seconds += time.perf_counter() - began

    def _log(self, step: int) -> None:
        counts, losses, norms, seconds = (np.array(column) for column in zip(*self.window, strict=True))
        self.window = []
        row = {
            "step": step,
            "images": step * self.stage.training.batch,
            "loss": _average(losses, counts),
            "gradient_norm": _average(norms, counts),
            "learning_rate": float(self.stage.training.optimizer.rate(tf.constant(step - 1, tf.int64))),
            "images_per_second": float(counts.sum() * self.stage.training.batch / seconds.sum()),
            "seconds": round(self.seconds, 2),
        }
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS, lineterminator="\n").writerow(row)
        with self.events.as_default(step):
            for name in ("loss", "gradient_norm", "learning_rate", "images_per_second"):
                tf.summary.scalar(name, row[name])

    def checkpointed(self) -> None:
        self.events.flush()

    def finish(self) -> None:
        self.events.close()
        self.bar.close()
        self.bar = None


def _average(values: np.ndarray, counts: np.ndarray) -> float:
    """Over the calls in which a step was taken: with a scaled loss all steps of a call may overflow."""
    taken = np.isfinite(values)
    return float(np.average(values[taken], weights=counts[taken])) if taken.any() else float("nan")
