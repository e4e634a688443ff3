"""How a U-Net changes resolution between its levels."""

import abc
from typing import Any

import keras
from keras import ops

from zoo.networks.layers import convolution


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
