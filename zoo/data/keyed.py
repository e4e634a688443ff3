"""Random numbers that are pure functions of a key: SplitMix64, the same on every machine and in every version.

Vectorised over a whole batch of keys, in NumPy for drawing and in TensorFlow for tf.data graphs.
"""

from typing import Any

import numpy as np
import tensorflow as tf

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the step between the states of SplitMix64
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def uniforms(key: tuple[int, int], indices: np.ndarray, count: int) -> np.ndarray:
    """float64 [N, count] in [0, 1), a function of key, index (int [N]) and column."""
    golden = np.uint64(GOLDEN)
    state = np.zeros([1], np.uint64)
    for part in key:
        state = _mix(state + np.array([part % 2**64], np.uint64) * golden + golden)  # arrays wrap around silently
    rows = _mix(state + np.asarray(indices).astype(np.uint64) * golden)
    bits = _mix(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * golden)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def graph_uniforms(key: int, indices: Any) -> tf.Tensor:
    """float32 [N] in [0, 1), a function of key and index (int64 [N] tensor)."""
    golden = tf.constant(GOLDEN, tf.uint64)
    state = _graph_mix(tf.constant(key % 2**64, tf.uint64) + golden)
    bits = _graph_mix(state + tf.cast(indices, tf.uint64) * golden)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24


def _mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(FACTORS[0])
    value = (value ^ (value >> np.uint64(27))) * np.uint64(FACTORS[1])
    return value ^ (value >> np.uint64(31))


def _graph_mix(value: tf.Tensor) -> tf.Tensor:
    def fold(value: tf.Tensor, shift: int) -> tf.Tensor:
        return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(shift, tf.uint64)))

    value = fold(value, 30) * tf.constant(FACTORS[0], tf.uint64)
    value = fold(value, 27) * tf.constant(FACTORS[1], tf.uint64)
    return fold(value, 31)
