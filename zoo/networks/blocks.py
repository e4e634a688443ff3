"""The residual block of the U-Nets, with slots where DDPM, Improved DDPM, CDM, SR3 and ADM differ."""

import abc
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.networks.embeddings import KeyedSeeds, dropout
from zoo.networks.layers import GroupNorm, GroupNormalisation, SiLU, convolution, dense, full_precision
from zoo.networks.residual_sums import ResidualSum


class Modulation(abc.ABC):
    """Contract of the family: how the embedding enters a residual block at its second normalisation."""

    factor: int = 1
    """Embedding outputs for each channel."""

    @abc.abstractmethod
    def __call__(self, norm: GroupNorm, h: Any, embedding: Any) -> Any:
        """h [B, H, W, C] and embedding [B, factor C] -> normalised and activated [B, H, W, C]."""


class AdaptiveModulation(Modulation):
    """AdaGN: the embedding scales and shifts after the normalisation (ADM, section 3.1)."""

    factor = 2

    def __call__(self, norm: GroupNorm, h: Any, embedding: Any) -> Any:
        scale, shift = ops.split(embedding, 2, axis=-1)
        return norm(h, scale, shift)


class AdditiveModulation(Modulation):
    """The embedding is added before the normalisation (DDPM)."""

    def __call__(self, norm: GroupNorm, h: Any, embedding: Any) -> Any:
        return norm(h + ops.cast(ops.reshape(embedding, (-1, 1, 1, h.shape[-1])), h.dtype))


class ResidualBlock(keras.layers.Layer):
    """norm, SiLU, convolution, modulated norm, SiLU, dropout, convolution, and a shortcut (ADM's public code).

    Args:
        channels: of the output; a 1x1 map joins the shortcut where the input has others.
        resample: `halve` or `enlarge2`, done after the first SiLU and on the shortcut.
        residual_sum: how the shortcut and the rest are joined; None adds them.
    """

    def __init__(
        self,
        channels: int,
        dropout: float,
        normalisation: GroupNormalisation,
        modulation: Modulation,
        resample: Callable[[Any], Any] | None = None,
        residual_sum: ResidualSum | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, autocast=False)  # the embedding stays as precise as it comes
        self.channels, self.rate, self.modulation, self.resample = channels, dropout, modulation, resample
        self.residual_sum = residual_sum
        self.norm_in = normalisation.make("norm_in", SiLU())
        self.convolution_in = convolution(channels, name="convolution_in")
        self.projection = dense(modulation.factor * channels, name="projection", dtype=full_precision())
        self.norm_out = normalisation.make("norm_out", SiLU())
        self.convolution_out = convolution(channels, zero=True, name="convolution_out")
        self.shortcut: keras.layers.Layer | None = None

    def build(self, shape: tuple[int | None, ...], *_: Any) -> None:
        if shape[-1] != self.channels:
            self.shortcut = convolution(self.channels, size=1, name="shortcut")

    def call(self, x: Any, embedding: Any, seeds: KeyedSeeds | None = None) -> Any:
        """x [B, H, W, C]; embedding [B, E], already activated."""
        h = self.norm_in(x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.convolution_in(h)
        h = self.modulation(self.norm_out, h, self.projection(embedding))
        h = self.convolution_out(dropout(h, self.rate, seeds))
        x = x if self.shortcut is None else self.shortcut(x)
        return h + x if self.residual_sum is None else self.residual_sum(x, h)
