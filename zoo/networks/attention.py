"""Self-attention over pixels: heads, the order of their channels, and where a U-Net attends."""

import abc
from typing import Any

import keras
from keras import ops

from zoo.networks.layers import GroupNormalisation, dense
from zoo.networks.residual_sums import ResidualSum


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
        return tuple(ops.unstack(parts, 3))


class HeadsLast(AttentionOrder):
    """All queries, then all keys, then all values ("new attention order")."""

    def split(self, projected: Any, heads: int) -> tuple[Any, Any, Any]:
        tokens, width = projected.shape[1], projected.shape[2] // (3 * heads)
        parts = ops.transpose(ops.reshape(projected, (-1, tokens, 3, heads, width)), (2, 0, 3, 1, 4))
        return tuple(ops.unstack(parts, 3))


def attend(queries: Any, keys: Any, values: Any) -> Any:
    """Softmax attention: queries [B, heads, T, D], keys and values [B, heads, S, D] -> [B, heads, T, D]."""
    # each side is scaled by the fourth root, which is kinder to half precision
    scale = queries.shape[-1] ** -0.25
    scores = ops.matmul(queries * scale, ops.transpose(keys * scale, (0, 1, 3, 2)))  # [B, heads, T, S]
    if ops.dtype(scores) in ("float16", "bfloat16"):
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32")), values.dtype)
    else:
        weights = ops.softmax(scores)
    return ops.matmul(weights, values)


class AttentionBlock(keras.layers.Layer):
    """Self-attention over all pixels with a zero-initialised output, added to its input."""

    def __init__(
        self,
        heads: int,
        order: AttentionOrder,
        normalisation: GroupNormalisation,
        residual_sum: ResidualSum | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.heads, self.order, self.residual_sum = heads, order, residual_sum
        self.norm = normalisation.make("norm")

    def build(self, shape: tuple[int | None, ...], *_: Any) -> None:
        channels = int(shape[-1] or 0)
        self.projection_in = dense(3 * channels, name="projection_in")
        self.projection_out = dense(channels, name="projection_out", zero=True)

    def call(self, x: Any) -> Any:
        _, height, width, channels = x.shape
        tokens = ops.reshape(self.norm(x), (-1, height * width, channels))
        mixed = ops.transpose(attend(*self.order.split(self.projection_in(tokens), self.heads)), (0, 2, 1, 3))
        mixed = self.projection_out(ops.reshape(mixed, (-1, height * width, channels)))
        branch = ops.reshape(mixed, (-1, height, width, channels))
        return x + branch if self.residual_sum is None else self.residual_sum(x, branch)


class SelfAttention:
    """Where a U-Net attends: at feature maps of these sizes, with these heads."""

    def __init__(self, resolutions: tuple[int, ...], heads: Heads, order: AttentionOrder) -> None:
        if any(size < 1 for size in resolutions):
            raise ValueError(f"resolutions must be sizes of feature maps in pixels, got {resolutions}")
        self.resolutions, self.heads, self.order = tuple(resolutions), heads, order

    def make(
        self,
        channels: int,
        normalisation: GroupNormalisation,
        decoder: bool,
        name: str,
        residual_sum: ResidualSum | None = None,
    ) -> AttentionBlock:
        """A new layer for a feature map of `channels`."""
        return AttentionBlock(self.heads.heads(channels, decoder), self.order, normalisation, residual_sum, name)
