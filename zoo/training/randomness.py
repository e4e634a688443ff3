"""Keyed randomness: every number is a function of a key, and nothing is stored."""

import math
import zlib
from collections.abc import Mapping

import tensorflow as tf

Draws = Mapping[str, tuple[str, tuple[int, ...]]]


def key(seed: int, name: str) -> tf.Tensor:
    """The root key int32 [2] of a stream: the seed of the run and what it is drawn for."""
    return tf.constant([seed & 0x7FFFFFFF, zlib.crc32(name.encode()) & 0x7FFFFFFF], tf.int32)


def fold(root: tf.Tensor, *values: tf.Tensor | int) -> tf.Tensor:
    """A key int32 [2] that depends on all of `values`."""
    for value in values:
        root = tf.random.experimental.stateless_fold_in(root, tf.cast(value, tf.int32), alg="philox")
    return root


def draw(root: tf.Tensor, draws: Draws) -> dict[str, tf.Tensor]:
    """Arrays for `draws`: name -> (distribution, shape), each from a stream of its own."""
    return {name: _draw(fold(root, _number(name)), *what) for name, what in draws.items()}


def draw_each(root: tf.Tensor, indices: tf.Tensor, draws: Draws) -> dict[str, tf.Tensor]:
    """The same for the images `indices` int [B]: row i depends on the key and on indices[i] alone.

    The batch axis of every shape is replaced by the number of indices.
    """

    def one(index: tf.Tensor) -> dict[str, tf.Tensor]:
        return draw(fold(root, index), {name: (kind, shape[1:]) for name, (kind, shape) in draws.items()})

    signature = {name: tf.TensorSpec(shape[1:], tf.float32) for name, (_, shape) in draws.items()}
    return tf.map_fn(one, indices, fn_output_signature=signature) if draws else {}


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def _draw(seed: tf.Tensor, kind: str, shape: tuple[int, ...]) -> tf.Tensor:
    """From integers, which are the same everywhere: XLA makes other floats of the same key than the plain graph."""
    if kind == "normal":  # Box and Muller (1958); at most 5.8 standard deviations
        first, second = tf.unstack(_uniform(seed, (2, *shape)))
        return tf.sqrt(-2 * tf.math.log(1 - first)) * tf.cos(2 * math.pi * second)
    if kind == "uniform":
        return _uniform(seed, shape)
    raise ValueError(f"a distribution must be normal or uniform, got {kind}")


def _uniform(seed: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Multiples of 2^-24 in [0, 1)."""
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
