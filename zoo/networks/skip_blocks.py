"""The residual block of simple diffusion, which joins a skip as a normalised sum (appendix B.2.1, `resnet_block`)."""

import math
from typing import Any

import keras
from keras import ops

from zoo.networks.embeddings import KeyedSeeds, dropout
from zoo.networks.layers import GroupNormalisation, SiLU, convolution, dense, full_precision
from zoo.networks.transformer import PixelAttention

Shape = tuple[int | None, ...]


class SkipBlock(keras.layers.Layer):
    """norm, swish, convolution, modulated norm, swish, dropout, convolution, added to the input.

    On the way up the normalised skip joins the normalised input as (h + skip) / sqrt 2; so both have the same width,
    which is also that of the output: it is the resampling that changes it.
    """

    def __init__(self, rate: float, normalisation: GroupNormalisation, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)  # the embedding stays as precise as it comes
        self.rate, self.normalisation = rate, normalisation

    def build(self, x_shape: Shape, embedding_shape: Shape, skip_shape: Shape | None = None) -> None:
        channels = int(x_shape[-1] or 0)
        # what follows the sum of two cannot be part of the normalisation
        self.norm_in = self.normalisation.make("norm_in", SiLU() if skip_shape is None else None)
        if skip_shape is not None:
            self.norm_skip = self.normalisation.make("norm_skip")
        self.convolution_in = convolution(channels, name="convolution_in")
        self.projection = dense(2 * channels, name="projection", dtype=full_precision())
        self.norm_out = self.normalisation.make("norm_out", SiLU())
        self.convolution_out = convolution(channels, zero=True, name="convolution_out")

    def call(self, x: Any, embedding: Any, skip: Any = None, seeds: KeyedSeeds | None = None) -> Any:
        """x and skip [B, H, W, C]; embedding [B, E], already activated -> [B, H, W, C]."""
        h = self.norm_in(x)
        if skip is not None:
            h = ops.silu((h + self.norm_skip(skip)) * math.sqrt(0.5))
        scale, shift = ops.split(self.projection(embedding), 2, axis=-1)
        h = self.norm_out(self.convolution_in(h), scale, shift)
        return x + self.convolution_out(dropout(h, self.rate, seeds))


class AttendingBlock(keras.layers.Layer):
    """A residual block, and self-attention over what it gives."""

    def __init__(self, rate: float, heads: int, normalisation: GroupNormalisation, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)
        self.block = SkipBlock(rate, normalisation, name="block")
        self.attention = PixelAttention(heads, name="attention")

    def build(self, x_shape: Shape, embedding_shape: Shape, skip_shape: Shape | None = None) -> None:
        """Its layers make their own weights."""

    def call(self, x: Any, embedding: Any, skip: Any = None, seeds: KeyedSeeds | None = None) -> Any:
        """As SkipBlock."""
        x = self.block(x, embedding, skip, seeds=seeds)
        return x + self.attention(x)
