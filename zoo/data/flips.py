"""Random mirroring that depends on (seed, element number) alone, so that a resumed run sees the same pixels."""

import tensorflow as tf

from zoo.data.keyed import graph_uniforms


class RandomFlip:
    """Mirrors left and right with a probability."""

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability}")
        self.probability = probability

    def mirrored(self, seed: int, numbers: tf.Tensor) -> tf.Tensor:
        """bool [N]: which images are mirrored.

        Args:
            numbers: int64 [N], element number of each image in the endless stream.
        """
        return graph_uniforms(seed, numbers) < self.probability
