"""What a level sampler remembers while a stage is trained: alike on every replica, and part of each checkpoint."""

from typing import Any

import tensorflow as tf

from zoo.diffusion.level_samplers import LevelSampler

Draws = dict[str, tf.Tensor]


class LevelHistory:
    """The state of a level sampler, beside the weights; made in the scope of the strategy.

    Args:
        sampler: of the stage.
        steps: of its process.
        batch: global batch.
    """

    def __init__(self, sampler: LevelSampler, steps: int, batch: int) -> None:
        self.sampler, self.steps, self.batch = sampler, steps, batch
        self.variables = {name: tf.Variable(value, trainable=False) for name, value in sampler.start(steps).items()}

    def choose(self, random: Draws) -> Draws:
        """The draws of a replica's examples with chosen steps: `level`, and `step` and `level_weight` [b] beside it."""
        index, weight = self.sampler.choose(self._state(), random["level_choice"])
        # In the middle of what the process takes for step `index`: its first column says floor(u T).
        place = (tf.cast(index, tf.float32) + 0.5) / self.steps
        level = tf.stack([place, random["level"][:, 1]], axis=1)
        return {**random, "level": level, "step": index, "level_weight": weight}

    def shares(self, random: Draws, losses: tf.Tensor, replica: Any) -> list[tf.Tensor]:
        """Steps and losses of this replica's examples, in their places among those of all: their sum is the whole.

        Zeros elsewhere, so that one all-reduce with that of the gradients tells every replica of all examples.
        """
        size = losses.shape[0]
        places = (replica * size + tf.range(size))[:, None]
        # a step is a whole number below 2^24; what is not finite spoils no sum but its own, for zeros are added
        told = [tf.cast(random["step"], tf.float32), losses]
        return [tf.scatter_nd(places, values, (self.batch,)) for values in told]

    def learn(self, steps: tf.Tensor, losses: tf.Tensor) -> None:
        """Remembers the examples of a global batch; in every replica."""
        after = self.sampler.learn(self._state(), tf.cast(tf.round(steps), tf.int32), losses)
        for name, variable in self.variables.items():
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=after[name])

    def _state(self) -> dict[str, tf.Tensor]:
        return {name: variable.read_value() for name, variable in self.variables.items()}
