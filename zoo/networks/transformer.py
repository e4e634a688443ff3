"""The transformer of U-ViT: MLP and attention blocks on images [B, H, W, C] whose pixels are the tokens.

simple diffusion, appendix B.2.1, from its pseudo-code. The MLP and the attention compute what is added to their
input, and end in a map that starts at zero.
"""

from typing import Any

import keras
from keras import ops

from zoo.networks.attention import Heads, HeadsLast
from zoo.networks.embeddings import KeyedSeeds, dropout
from zoo.networks.layers import dense, full_precision

EPSILON = 1e-6
# What is added to the score of a token that is not there. Where none is, all weights are equal.
ABSENT = -1e9


def layer_norm(name: str, bias: bool = False) -> keras.layers.Layer:
    """Layer normalisation over the channels with a learned scale ("Normalize") and bias ("NormalizeWithBias")."""
    return keras.layers.LayerNormalization(epsilon=EPSILON, center=bias, name=name)


class MLPBlock(keras.layers.Layer):
    """Two linear maps with swish between them; the embedding scales and shifts the hidden layer after the swish."""

    def __init__(self, expansion: int, rate: float, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)  # the embedding stays as precise as it comes
        self.expansion, self.rate = expansion, rate
        self.norm = layer_norm("norm")

    def build(self, x_shape: tuple[int | None, ...], embedding_shape: tuple[int | None, ...]) -> None:
        channels = int(x_shape[-1] or 0)
        width = self.expansion * channels
        self.hidden = dense(width, name="hidden")
        self.scale = dense(width, name="scale", dtype=full_precision())
        self.shift = dense(width, name="shift", dtype=full_precision())
        self.projection_out = dense(channels, name="projection_out", zero=True)

    def call(self, x: Any, embedding: Any, seeds: KeyedSeeds | None = None) -> Any:
        """x [B, H, W, C]; embedding [B, E], already activated."""
        h = ops.silu(self.hidden(self.norm(x)))
        scale, shift = (
            ops.cast(ops.expand_dims(layer(embedding), (1, 2)), h.dtype) for layer in (self.scale, self.shift)
        )
        return self.projection_out(dropout(h * (1 + scale) + shift, self.rate, seeds))


class NormalisedAttention(keras.layers.Layer):
    """Attention whose queries and keys are normalised, each head by itself, before they meet."""

    def __init__(self, heads: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.heads = heads
        self.norm = layer_norm("norm")
        self.norm_queries, self.norm_keys = layer_norm("norm_queries", bias=True), layer_norm("norm_keys", bias=True)

    def attend(self, queries: Any, keys: Any, values: Any, present: Any = None) -> Any:
        """[B, heads, T, c], twice [B, heads, L, c], and which of the keys are there [B, L] -> [B, T, heads c]."""
        _, heads, tokens, width = queries.shape
        queries, keys = self.norm_queries(queries) * width**-0.5, self.norm_keys(keys)
        scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))  # [B, heads, T, L]
        if ops.dtype(scores) in ("float16", "bfloat16"):
            scores = ops.cast(scores, "float32")
        if present is not None:
            scores = scores + ops.where(ops.expand_dims(present, (1, 2)), 0.0, ABSENT)
        weights = ops.cast(ops.softmax(scores), values.dtype)
        return ops.reshape(ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3)), (-1, tokens, heads * width))


class PixelAttention(NormalisedAttention):
    """Self-attention over all pixels."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        channels = int(shape[-1] or 0)
        self.projection_in = dense(3 * channels, name="projection_in")
        self.projection_out = dense(channels, name="projection_out", zero=True)

    def call(self, x: Any) -> Any:
        """[B, H, W, C] -> what is added to it."""
        _, height, width, channels = x.shape
        tokens = ops.reshape(self.norm(x), (-1, height * width, channels))
        mixed = self.attend(*HeadsLast().split(self.projection_in(tokens), self.heads))
        return ops.reshape(self.projection_out(mixed), (-1, height, width, channels))


class TextAttention(NormalisedAttention):
    """Cross-attention of the pixels on the embeddings of a text (simple diffusion, section 5.1, "text to image").

    A token of zeros is not there: padding. Of a text without tokens a learned constant remains, so that zeros are what
    a model without text is told.
    """

    def __init__(self, heads: int, name: str | None = None) -> None:
        super().__init__(heads, name)
        self.norm_text = layer_norm("norm_text")

    def build(self, x_shape: tuple[int | None, ...], text_shape: tuple[int | None, ...]) -> None:
        channels = int(x_shape[-1] or 0)
        self.queries = dense(channels, name="queries")
        self.keys_and_values = dense(2 * channels, name="keys_and_values")
        self.projection_out = dense(channels, name="projection_out", zero=True)

    def call(self, x: Any, text: Any) -> Any:
        """x [B, H, W, C] and text [B, L, D] -> what is added to x."""
        _, height, width, channels = x.shape
        (queries,) = self._heads(self.queries(ops.reshape(self.norm(x), (-1, height * width, channels))), 1)
        keys, values = self._heads(self.keys_and_values(self.norm_text(text)), 2)
        mixed = self.attend(queries, keys, values, ops.any(ops.not_equal(text, 0), axis=-1))
        return ops.reshape(self.projection_out(mixed), (-1, height, width, channels))

    def _heads(self, projected: Any, parts: int) -> list[Any]:
        """[B, T, parts C] -> parts times [B, heads, T, C / heads]."""
        tokens, width = projected.shape[1], projected.shape[2] // (parts * self.heads)
        split = ops.reshape(projected, (-1, tokens, parts, self.heads, width))
        return ops.unstack(ops.transpose(split, (2, 0, 3, 1, 4)), parts)


class TransformerBlock(keras.layers.Layer):
    """MLP block, self-attention and, given a text, cross-attention, each added to what it is given."""

    def __init__(self, heads: int, expansion: int, rate: float, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)
        self.heads = heads
        self.mlp = MLPBlock(expansion, rate, name="mlp")
        self.attention = PixelAttention(heads, name="attention")

    def build(
        self,
        x_shape: tuple[int | None, ...],
        embedding_shape: tuple[int | None, ...],
        text_shape: tuple[int | None, ...] | None = None,
    ) -> None:
        if text_shape is not None:
            self.text_attention = TextAttention(self.heads, name="text_attention")

    def call(self, x: Any, embedding: Any, text: Any = None, seeds: KeyedSeeds | None = None) -> Any:
        """x [B, H, W, C], embedding [B, E], text [B, L, D] -> [B, H, W, C]."""
        x = x + self.mlp(x, embedding, seeds=seeds)
        x = x + self.attention(x)
        return x if text is None else x + self.text_attention(x, text)


class Transformer:
    """The blocks at the lowest resolution of a U-ViT.

    Args:
        blocks: how many.
        heads: of their attention.
        dropout: rate in the hidden layer of their MLPs.
        expansion: width of that layer over the width of the block.
    """

    def __init__(self, blocks: int, heads: Heads, dropout: float = 0.0, expansion: int = 4) -> None:
        for name, value in (("blocks", blocks), ("expansion", expansion)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.blocks, self.heads, self.dropout, self.expansion = blocks, heads, dropout, expansion

    def make(self, channels: int, name: str) -> TransformerBlock:
        """A new block for a feature map of `channels`."""
        return TransformerBlock(self.heads.heads(channels, decoder=False), self.expansion, self.dropout, name=name)


class TextInput:
    """A text, told as embeddings [B, L, width] of its tokens, which every block of the transformer attends to.

    Args:
        width: of an embedding; T5-XXL's have 4,096 numbers.

    Attributes:
        portrait: whether the network is also told which images were turned.
    """

    portrait: bool = False

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.width = width

    def check(self, shape: tuple[int | None, ...]) -> None:
        """Raises ValueError where the embeddings are of another width."""
        if shape[-1] != self.width:
            raise ValueError(f"width of the text embeddings must be {self.width}, as TextInput says, got {shape[-1]}")


class TextAndOrientationInput(TextInput):
    """A text, and `portrait` [B]: 1 of an image that is a picture taller than wide, turned by a quarter, else 0.

    simple diffusion names the flag and not how it enters: here a dense layer on the one-hot flag is added to the
    embedding of the noise level, as a class would be.
    """

    portrait = True
