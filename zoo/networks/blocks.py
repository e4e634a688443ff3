"""Building blocks of the U-Nets, with slots where DDPM, Improved DDPM, CDM, SR3 and ADM differ."""

import abc
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.networks.embeddings import KeyedSeeds, dropout

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
        channels, dtype = x.shape[-1], precise.dtype
        groups = (-1, self.groups, channels // self.groups)
        pixels = ops.reshape(precise, (-1, math.prod(x.shape[1:-1]), channels))
        # moments of each channel, then of each group [B, G, 1]
        mean = ops.mean(ops.reshape(ops.mean(pixels, axis=1), groups), axis=-1, keepdims=True)
        square = ops.mean(ops.reshape(ops.mean(ops.square(pixels), axis=1), groups), axis=-1, keepdims=True)
        inverse = ops.rsqrt(ops.maximum(square - ops.square(mean), 0.0) + self.epsilon)
        # one affine map for each example and channel [B, G, C / G]
        gain = inverse * ops.reshape(ops.cast(self.gamma, dtype), groups[1:])
        bias = ops.reshape(ops.cast(self.beta, dtype), groups[1:])
        if scale is not None:
            factor = 1 + ops.reshape(ops.cast(scale, dtype), groups)
            gain, bias = gain * factor, bias * factor + ops.reshape(ops.cast(shift, dtype), groups)
        bias = bias - mean * gain
        broadcast = (-1, *(1 for _ in x.shape[1:-1]), channels)
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


# ------------------------------------------------------------------ how embeddings enter


class Modulation(abc.ABC):
    """Contract of the family: how the embedding enters a residual block at its second normalisation."""

    factor: int = 1
    """Embedding outputs for each channel."""

    @abc.abstractmethod
    def __call__(self, norm: GroupNorm, h: Any, embedding: Any) -> Any:
        """h [B, H, W, C] and embedding [B, factor C] -> normalised [B, H, W, C]."""


class AdaptiveModulation(Modulation):
    """AdaGN: the embedding scales and shifts after the normalisation (ADM, section 3.1)."""

    factor = 2

    def __call__(self, norm: GroupNorm, h: Any, embedding: Any) -> Any:
        scale, shift = ops.split(embedding, 2, axis=-1)
        return norm(h, scale, shift)


class AdditiveModulation(Modulation):
    """The embedding is added before the normalisation (DDPM)."""

    def __call__(self, norm: GroupNorm, h: Any, embedding: Any) -> Any:
        return norm(h + ops.reshape(embedding, (-1, 1, 1, h.shape[-1])))


# ------------------------------------------------------------------ resampling


def enlarge2(x: Any) -> Any:
    """Nearest-neighbour enlargement by two: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


def halve(x: Any) -> Any:
    """2x2 average pooling: [B, H, W, C] -> [B, H/2, W/2, C]."""
    return ops.average_pool(x, 2, 2, padding="valid")


class Resampling(abc.ABC):
    """Contract of the family: how a U-Net changes resolution between its levels.

    `inside` puts the change inside a residual block, on both of its branches; otherwise `down` and `up` make
    layers of their own.
    """

    inside: bool = False

    @abc.abstractmethod
    def down(self, channels: int, name: str) -> keras.layers.Layer | None:
        """A layer [B, H, W, C] -> [B, H/2, W/2, channels]."""

    @abc.abstractmethod
    def up(self, channels: int, name: str) -> keras.layers.Layer | None:
        """A layer [B, H, W, C] -> [B, 2H, 2W, channels]."""


class ConvolutionResampling(Resampling):
    """A strided convolution down; nearest neighbour and a convolution up (DDPM)."""

    def down(self, channels: int, name: str) -> keras.layers.Layer:
        return convolution(channels, stride=2, name=name)

    def up(self, channels: int, name: str) -> keras.layers.Layer:
        return Enlargement(convolution(channels, name="convolution"), name=name)


class PoolingResampling(Resampling):
    """2x2 average pooling down; nearest neighbour up, without convolutions."""

    def down(self, channels: int, name: str) -> keras.layers.Layer:
        return keras.layers.AveragePooling2D(2, name=name)

    def up(self, channels: int, name: str) -> keras.layers.Layer:
        return Enlargement(None, name=name)


class ResidualResampling(Resampling):
    """Pooling and nearest neighbour inside a residual block (BigGAN; ADM, section 3)."""

    inside = True

    def down(self, channels: int, name: str) -> None:
        return None

    def up(self, channels: int, name: str) -> None:
        return None


class Enlargement(keras.layers.Layer):
    """Nearest neighbour by two, then a convolution where there is one."""

    def __init__(self, convolution: keras.layers.Layer | None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.convolution = convolution

    def call(self, x: Any) -> Any:
        x = enlarge2(x)
        return x if self.convolution is None else self.convolution(x)


# ------------------------------------------------------------------ residual block


class ResidualBlock(keras.layers.Layer):
    """norm, SiLU, convolution, modulated norm, SiLU, dropout, convolution, and a shortcut (ADM's public code).

    Args:
        channels: of the output; a 1x1 map joins the shortcut where the input has others.
        resample: `halve` or `enlarge2`, done after the first SiLU and on the shortcut.
    """

    def __init__(
        self,
        channels: int,
        dropout: float,
        normalisation: GroupNormalisation,
        modulation: Modulation,
        resample: Callable[[Any], Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.channels, self.rate, self.modulation, self.resample = channels, dropout, modulation, resample
        self.norm_in = normalisation.make("norm_in")
        self.convolution_in = convolution(channels, name="convolution_in")
        self.projection = dense(modulation.factor * channels, name="projection")
        self.norm_out = normalisation.make("norm_out")
        self.convolution_out = convolution(channels, zero=True, name="convolution_out")
        self.shortcut: keras.layers.Layer | None = None

    def build(self, shape: tuple[int | None, ...], *_: Any) -> None:
        if shape[-1] != self.channels:
            self.shortcut = convolution(self.channels, size=1, name="shortcut")

    def call(self, x: Any, embedding: Any, seeds: KeyedSeeds | None = None) -> Any:
        """x [B, H, W, C]; embedding [B, E], already activated."""
        h = ops.silu(self.norm_in(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.convolution_in(h)
        h = self.modulation(self.norm_out, h, self.projection(embedding))
        h = self.convolution_out(dropout(ops.silu(h), self.rate, seeds))
        return h + (x if self.shortcut is None else self.shortcut(x))


# ------------------------------------------------------------------ attention


class Heads(abc.ABC):
    """Contract of the family: how many attention heads a width is divided into."""

    @abc.abstractmethod
    def heads(self, channels: int, decoder: bool) -> int:
        """Heads at a width of `channels`, on the way down or (decoder) up."""


class HeadCount(Heads):
    """A fixed number of heads; `decoder` where the way up has another number."""

    def __init__(self, count: int = 1, decoder: int | None = None) -> None:
        if count < 1 or (decoder is not None and decoder < 1):
            raise ValueError(f"count and decoder must be positive, got count = {count}, decoder = {decoder}")
        self.count, self.decoder = count, count if decoder is None else decoder

    def heads(self, channels: int, decoder: bool) -> int:
        count = self.decoder if decoder else self.count
        if channels % count:
            raise ValueError(
                f"count must divide the width of every attention layer: {count} heads, {channels} channels"
            )
        return count


class HeadChannels(Heads):
    """A fixed number of channels a head (ADM: 64)."""

    def __init__(self, channels: int = 64) -> None:
        if channels < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        self.channels = channels

    def heads(self, channels: int, decoder: bool) -> int:
        if channels % self.channels:
            raise ValueError(
                f"channels of a head must divide the width of every attention layer: {self.channels} and {channels}"
            )
        return channels // self.channels


class AttentionOrder(abc.ABC):
    """Contract of the family: how the channels of the joint projection hold queries, keys, values and heads."""

    @abc.abstractmethod
    def split(self, projected: Any, heads: int) -> tuple[Any, Any, Any]:
        """[B, T, 3C] -> queries, keys and values, each [B, heads, T, C / heads]."""


class HeadsFirst(AttentionOrder):
    """Queries, keys and values within each head: the order of the published ADM models ("legacy")."""

    def split(self, projected: Any, heads: int) -> tuple[Any, Any, Any]:
        tokens, width = projected.shape[1], projected.shape[2] // (3 * heads)
        parts = ops.transpose(ops.reshape(projected, (-1, tokens, heads, 3, width)), (3, 0, 2, 1, 4))
        return parts[0], parts[1], parts[2]


class HeadsLast(AttentionOrder):
    """All queries, then all keys, then all values ("new attention order")."""

    def split(self, projected: Any, heads: int) -> tuple[Any, Any, Any]:
        tokens, width = projected.shape[1], projected.shape[2] // (3 * heads)
        parts = ops.transpose(ops.reshape(projected, (-1, tokens, 3, heads, width)), (2, 0, 3, 1, 4))
        return parts[0], parts[1], parts[2]


class AttentionBlock(keras.layers.Layer):
    """Self-attention over all pixels with a zero-initialised output, added to its input."""

    def __init__(
        self, heads: int, order: AttentionOrder, normalisation: GroupNormalisation, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.heads, self.order = heads, order
        self.norm = normalisation.make("norm")

    def build(self, shape: tuple[int | None, ...], *_: Any) -> None:
        channels = int(shape[-1] or 0)
        self.projection_in = dense(3 * channels, name="projection_in")
        self.projection_out = dense(channels, name="projection_out", zero=True)

    def call(self, x: Any) -> Any:
        _, height, width, channels = x.shape
        tokens = ops.reshape(self.norm(x), (-1, height * width, channels))
        queries, keys, values = self.order.split(self.projection_in(tokens), self.heads)
        # each side is scaled by the fourth root, which is kinder to half precision
        scale = (channels // self.heads) ** -0.25
        scores = ops.matmul(queries * scale, ops.transpose(keys * scale, (0, 1, 3, 2)))  # [B, heads, T, T]
        if ops.dtype(scores) in ("float16", "bfloat16"):
            weights = ops.cast(ops.softmax(ops.cast(scores, "float32")), values.dtype)
        else:
            weights = ops.softmax(scores)
        mixed = ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3))
        mixed = self.projection_out(ops.reshape(mixed, (-1, height * width, channels)))
        return x + ops.reshape(mixed, (-1, height, width, channels))


class SelfAttention:
    """Where a U-Net attends: at feature maps of these sizes, with these heads."""

    def __init__(self, resolutions: tuple[int, ...], heads: Heads, order: AttentionOrder) -> None:
        if any(size < 1 for size in resolutions):
            raise ValueError(f"resolutions must be sizes of feature maps in pixels, got {resolutions}")
        self.resolutions, self.heads, self.order = tuple(resolutions), heads, order

    def make(self, channels: int, normalisation: GroupNormalisation, decoder: bool, name: str) -> AttentionBlock:
        """A new layer for a feature map of `channels`."""
        return AttentionBlock(self.heads.heads(channels, decoder), self.order, normalisation, name=name)
