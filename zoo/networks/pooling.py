"""How the noisy classifier turns its feature maps into one vector a class: the published kinds of pooling."""

import abc
from typing import Any

import keras
from keras import ops

from zoo.networks.attention import Heads, HeadsLast, attend
from zoo.networks.layers import GroupNormalisation, SiLU, dense, full_precision

Features = list[Any]


class Pooling(abc.ABC):
    """Contract of the family: feature maps to logits."""

    @abc.abstractmethod
    def make(self, classes: int, normalisation: GroupNormalisation) -> keras.layers.Layer:
        """A new layer: the feature maps [B, h, w, C] of every part of the encoder, the middle last -> [B, classes].

        It computes in full precision, whatever the encoder does.
        """


class AdaptivePooling(Pooling):
    """The mean over the pixels of the middle, then a linear map ("adaptive")."""

    def make(self, classes: int, normalisation: GroupNormalisation) -> keras.layers.Layer:
        return _Mean(classes, normalisation)


class AttentionPooling(Pooling):
    """One token, the mean, attends to all pixels of the middle ("attention": ADM, section 4; CLIP)."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads

    def make(self, classes: int, normalisation: GroupNormalisation) -> keras.layers.Layer:
        return _Attention(classes, self.heads, normalisation)


class SpatialPooling(Pooling):
    """The means over pixels of all feature maps, then two linear maps with ReLU between ("spatial")."""

    def __init__(self, width: int = 2048) -> None:
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.width = width

    def make(self, classes: int, normalisation: GroupNormalisation) -> keras.layers.Layer:
        return _Spatial(classes, self.width, None)


class NormalisedSpatialPooling(SpatialPooling):
    """As spatial pooling, with group normalisation and SiLU between the linear maps ("spatial_v2")."""

    def make(self, classes: int, normalisation: GroupNormalisation) -> keras.layers.Layer:
        return _Spatial(classes, self.width, normalisation)


class _Head(keras.layers.Layer):
    """What the kinds of pooling have in common: full precision."""

    def __init__(self) -> None:
        super().__init__(name="pooling", dtype=full_precision())


class _Mean(_Head):
    def __init__(self, classes: int, normalisation: GroupNormalisation) -> None:
        super().__init__()
        self.norm = normalisation.make("norm", SiLU())
        self.projection = dense(classes, name="projection", zero=True, dtype=full_precision())

    def call(self, features: Features) -> Any:
        return self.projection(ops.mean(self.norm(features[-1]), axis=(1, 2)))


class _Attention(_Head):
    """The norm of the middle, a learned table of positions, and attention whose first token is the answer."""

    def __init__(self, classes: int, heads: Heads, normalisation: GroupNormalisation) -> None:
        super().__init__()
        self.classes, self.heads = classes, heads
        self.norm = normalisation.make("norm", SiLU())

    def build(self, shapes: list[tuple[int | None, ...]]) -> None:
        _, height, width, channels = shapes[-1]
        count, depth = int(height or 0) * int(width or 0) + 1, int(channels or 0)
        normal = keras.initializers.RandomNormal(stddev=depth**-0.5)
        self.positions = self.add_weight(shape=(count, depth), initializer=normal, name="positions")
        self.projection_in = dense(3 * depth, name="projection_in", dtype=full_precision())
        self.projection_out = dense(self.classes, name="projection_out", dtype=full_precision())

    def call(self, features: Features) -> Any:
        x = self.norm(features[-1])
        _, height, width, channels = x.shape
        tokens = ops.reshape(x, (-1, height * width, channels))
        tokens = ops.concatenate([ops.mean(tokens, axis=1, keepdims=True), tokens], axis=1) + self.positions
        queries, keys, values = HeadsLast().split(self.projection_in(tokens), self.heads.heads(channels, False))
        mixed = attend(queries[:, :, :1], keys, values)  # [B, heads, 1, C / heads]: of the first token alone
        return self.projection_out(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, channels)))


class _Spatial(_Head):
    """Normalised between its maps where a normalisation is given, else with ReLU."""

    def __init__(self, classes: int, width: int, normalisation: GroupNormalisation | None) -> None:
        super().__init__()
        self.hidden = dense(width, name="hidden", dtype=full_precision())
        self.norm = None if normalisation is None else normalisation.make("norm", SiLU())
        self.projection = dense(classes, name="projection", dtype=full_precision())

    def call(self, features: Features) -> Any:
        means = [ops.mean(ops.cast(x, self.compute_dtype), axis=(1, 2)) for x in features]
        hidden = self.hidden(ops.concatenate(means, axis=-1))
        return self.projection(ops.relu(hidden) if self.norm is None else self.norm(hidden[:, None])[:, 0])
