"""Which steps of a process are trained, and with what weight."""

import abc
from typing import Any

import numpy as np
from keras import ops

State = dict[str, Any]


class LevelSampler(abc.ABC):
    """Contract of the family: draws a step for each example, and weights its loss so that none is preferred.

    It holds no state: what it remembers is an argument, part of what a training step keeps and a checkpoint holds.
    """

    @abc.abstractmethod
    def start(self, steps: int) -> dict[str, np.ndarray]:
        """What is remembered before the first step of training, of a process of so many steps."""

    @abc.abstractmethod
    def probabilities(self, state: State) -> Any:
        """p_t, float64 [T]: positive, with sum 1."""

    @abc.abstractmethod
    def learn(self, state: State, index: Any, losses: Any) -> State:
        """What is remembered after a step of training.

        Args:
            state: before it.
            index: int32 [N], the steps of its examples.
            losses: their losses float32 [N], without weights; those that are not finite teach nothing.
        """

    def choose(self, state: State, uniform: Any) -> tuple[Any, Any]:
        """Steps int32 [B] and the weights of their losses float32 [B], 1 / (T p_t), whose mean is 1.

        Args:
            state: what is remembered.
            uniform: [B, 2] in [0, 1), the second column the digits after those of the first: a step may be rarer than
                float32 can tell.
        """
        p = self.probabilities(state)
        uniform = ops.cast(uniform, "float64")
        place = uniform[:, 0] + uniform[:, 1] * 2.0**-24
        edges = ops.cumsum(p)
        index = ops.minimum(ops.searchsorted(edges, place * edges[-1], side="right"), p.shape[0] - 1)
        return ops.cast(index, "int32"), ops.cast(1 / (p.shape[0] * ops.take(p, index)), "float32")


class LossSecondMoment(LevelSampler):
    """Steps in proportion to the root of the mean square of their last losses (Improved DDPM, equation 18).

    Uniformly until every step has been seen `history` times, as the public code (loss-second-moment).

    Args:
        history: losses of a step that are remembered.
        uniform: probability of a step drawn uniformly all the same.
    """

    def __init__(self, history: int = 10, uniform: float = 0.001) -> None:
        if history < 1:
            raise ValueError(f"history must be positive, got {history}")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform must be in (0, 1]: a step that is never drawn is never trained, got {uniform}")
        self.history, self.uniform = history, uniform

    def start(self, steps: int) -> dict[str, np.ndarray]:
        return {"losses": np.zeros((steps, self.history), np.float32), "seen": np.zeros(steps, np.int32)}

    def probabilities(self, state: State) -> Any:
        losses = ops.cast(state["losses"], "float64")
        steps = losses.shape[0]
        root = ops.sqrt(ops.mean(ops.square(losses), axis=1))
        total = ops.sum(root)
        warm = ops.logical_and(ops.all(state["seen"] >= self.history), total > 0)
        share = ops.where(warm, root / ops.where(warm, total, 1.0), 1 / steps)
        return (1 - self.uniform) * share + self.uniform / steps

    def learn(self, state: State, index: Any, losses: Any) -> State:
        """The oldest losses of a step give way to the newest: place k of T x K holds the k-th seen, modulo K."""
        kept, seen = state["losses"], state["seen"]
        steps, size = kept.shape
        sound = ops.isfinite(losses)
        index = ops.where(sound, index, steps)  # a row that is cut off again
        # of examples of one step: how many come before, and how many there are
        alike = ops.cast(ops.equal(index[:, None], index[None, :]), "int32")  # [N, N]
        before = ops.sum(ops.tril(alike, -1), axis=1)
        together = ops.sum(alike, axis=1)
        start = ops.take(ops.pad(seen, (0, 1)), index)
        place = index * size + (start + before) % size
        # what later ones of the same batch replace is not written, so that no place is written twice
        place = ops.where(before >= together - size, place, steps * size)
        place = ops.where(sound, place, steps * size)
        flat = ops.pad(ops.reshape(kept, (-1,)), (0, 1))
        flat = ops.scatter_update(flat, place[:, None], ops.where(sound, losses, ops.zeros_like(losses)))
        counts = ops.segment_sum(ops.ones_like(index), index, num_segments=steps + 1)
        return {"losses": ops.reshape(flat[:-1], (steps, size)), "seen": seen + counts[:-1]}
