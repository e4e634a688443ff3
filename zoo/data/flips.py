"""Random mirroring that depends on (seed, element number) alone, so that a resumed run sees the same pixels."""

from typing import Any

import tensorflow as tf


class RandomFlip:
    """Mirrors left and right with a probability."""

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability}")
        self.probability = probability

    def __call__(self, images: tf.Tensor, seed: int, numbers: tf.Tensor) -> tf.Tensor:
        """Mirrors some of the images.

        Args:
            images: [N, H, W, C], any dtype.
            numbers: int64 [N], element number of each image in the endless stream.
        """
        mirrored = keyed_uniform(seed, numbers) < self.probability
        return tf.where(mirrored[:, None, None, None], tf.reverse(images, axis=[2]), images)


def keyed_uniform(seed: int, numbers: Any) -> tf.Tensor:
    """float32 [N] in [0, 1): SplitMix64 of (seed, number), one multiply-shift chain for the whole batch."""

    def mix(value: tf.Tensor) -> tf.Tensor:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(shift, tf.uint64)))
            value *= tf.constant(factor, tf.uint64)
        return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(31, tf.uint64)))

    golden = tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    start = mix(tf.constant(seed % 2**64, tf.uint64) + golden)
    bits = mix(start + tf.cast(numbers, tf.uint64) * golden)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24
