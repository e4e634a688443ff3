"""The layers of every network: linear maps and group normalisation, with the papers' defaults."""

from typing import Any

import keras
from keras import ops

# ------------------------------------------------------------------ linear maps


def _uniform() -> keras.initializers.Initializer:
    """Uniform with variance 1 / (3 fan_in): PyTorch's default, and so that of the published ADM models."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def dense(width: int, name: str | None = None, zero: bool = False) -> keras.layers.Dense:
    """A linear map over the last axis; `zero` starts it at zero, so that its branch is the identity at first."""
    initializer = keras.initializers.Zeros() if zero else _uniform()
    return keras.layers.Dense(width, kernel_initializer=initializer, bias_initializer="zeros", name=name)


def convolution(
    channels: int, size: int = 3, stride: int = 1, zero: bool = False, name: str | None = None
) -> keras.layers.Layer:
    """A convolution [B, H, W, C] -> [B, H / stride, W / stride, channels]."""
    if size == 1:  # the same map, without the detour through a convolution
        return dense(channels, name=name, zero=zero)
    return Convolution(channels, size, stride, zero, name=name)


class Convolution(keras.layers.Conv2D):
    """A convolution padded by size // 2 on every side, as in PyTorch.

    'same' padding of a strided convolution pads bottom and right only on an even size: another network.
    """

    def __init__(self, channels: int, size: int, stride: int, zero: bool, name: str | None = None) -> None:
        super().__init__(
            channels,
            size,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            kernel_initializer=keras.initializers.Zeros() if zero else _uniform(),
            bias_initializer="zeros",
            name=name,
        )
        self.border = 0 if stride == 1 else size // 2

    def call(self, x: Any) -> Any:
        if self.border:
            x = ops.pad(x, ((0, 0), (self.border, self.border), (self.border, self.border), (0, 0)))
        return super().call(x)


# ------------------------------------------------------------------ normalisation


class GroupNorm(keras.layers.Layer):
    """Group normalisation with an optional scale and shift for each example, folded into one affine map.

    norm(x) (1 + scale) + shift. Moments are reduced for each channel first and then combined within groups: the
    image is read once for both moments and once for the affine map.
    """

    def __init__(self, groups: int, epsilon: float, name: str | None = None) -> None:
        super().__init__(name=name)
        self.groups, self.epsilon = groups, epsilon

    def build(self, shape: tuple[int | None, ...], *_: Any) -> None:
        channels = shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"channels must be a multiple of the {self.groups} groups of normalisation, got {channels}"
            )
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")

    def call(self, x: Any, scale: Any = None, shift: Any = None) -> Any:
        precise = ops.cast(x, "float32") if ops.dtype(x) in ("float16", "bfloat16") else x
        channels, axes = x.shape[-1], tuple(range(1, len(x.shape) - 1))
        groups = (-1, self.groups, channels // self.groups)
        # moments of each channel, then of each group [B, G, 1]
        moments = ops.stack([ops.mean(precise, axis=axes), ops.mean(ops.square(precise), axis=axes)], axis=1)
        moments = ops.mean(ops.reshape(moments, (-1, 2, *groups[1:])), axis=-1, keepdims=True)
        mean, square = ops.unstack(moments, axis=1)
        inverse = ops.rsqrt(ops.relu(square - ops.square(mean)) + self.epsilon)
        # one affine map for each example and channel [B, C]
        gamma, beta = ops.cast(self.gamma, precise.dtype), ops.cast(self.beta, precise.dtype)
        if scale is not None:
            factor = 1 + ops.cast(scale, precise.dtype)
            gamma, beta = gamma * factor, beta * factor + ops.cast(shift, precise.dtype)
        gain = inverse * ops.reshape(gamma, groups)  # [B, G, C / G]
        bias = beta - ops.reshape(mean * gain, (-1, channels))
        broadcast = (-1, *(1 for _ in axes), channels)
        return x * ops.cast(ops.reshape(gain, broadcast), x.dtype) + ops.cast(ops.reshape(bias, broadcast), x.dtype)


class GroupNormalisation:
    """Which group normalisation the blocks use: 32 groups and epsilon 1e-5 in ADM, 1e-6 in the authors' JAX code."""

    def __init__(self, groups: int = 32, epsilon: float = 1e-5) -> None:
        if groups < 1:
            raise ValueError(f"groups must be positive, got {groups}")
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.groups, self.epsilon = groups, epsilon

    def make(self, name: str) -> GroupNorm:
        """A new layer."""
        return GroupNorm(self.groups, self.epsilon, name=name)
