"""What makes embeddings of captions: frozen encoders, whose weights are no part of what is trained or checkpointed."""

import abc
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

EPSILON = 1e-6
END = "</s>"


class TextEncoder(abc.ABC):
    """Contract of the family: captions -> an embedding of every token, the same whatever the other captions are.

    Attributes:
        width: numbers in an embedding.
    """

    width: int

    @abc.abstractmethod
    def check(self) -> None:
        """Raises UserError where the encoder cannot be had: nothing is loaded."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its embeddings depend on, as plain data: name, settings, hash of its weights."""

    @abc.abstractmethod
    def encode(self, captions: Sequence[str], length: int) -> list[np.ndarray]:
        """float32 [tokens, width] of each caption, at most `length` tokens, the end of the sentence included."""

    def forget(self) -> None:  # noqa: B027 - most have nothing to give back
        """Gives back the memory of what was loaded; `encode` loads it again."""


class RandomTextEncoder(TextEncoder):
    """A stand-in for T5 that was never trained: a transformer with random weights on a vocabulary of whole words.

    Two captions have different embeddings, and a token's depends on its neighbours, so that a network that learns from
    it must do with attention what it would have to with T5's. What words mean it does not know: a word that training
    never showed says nothing. It needs no file, and every word of any language is in its vocabulary.

    The layers are those of T5 1.1: root mean square normalisation without bias, attention without scaling, relative
    positions as a bias of the scores, and a gated MLP (arXiv:1910.10683, section 2.1; arXiv:2002.05202).

    Args:
        width: numbers in an embedding.
        layers: of the transformer.
        heads: of its attention.
        seed: of its weights.
    """

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4, seed: int = 0) -> None:
        for name, value in (("width", width), ("layers", layers), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} heads and width {width}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.width, self.layers, self.heads, self.seed = width, layers, heads, seed

    def check(self) -> None:
        """Passes: it is always here."""

    def identity(self) -> dict[str, Any]:
        settings = {"width": self.width, "layers": self.layers, "heads": self.heads, "seed": self.seed}
        return {"encoder": "random, untrained", "version": 1, **settings}

    def encode(self, captions: Sequence[str], length: int) -> list[np.ndarray]:
        return [self._encode(caption, length) for caption in captions]

    def _encode(self, caption: str, length: int) -> np.ndarray:
        words = [*re.findall(r"\w+", caption.lower())[: length - 1], END]
        x = np.stack([self._normal(f"word {word}", self.width) for word in words])
        for layer in range(self.layers):
            x = x + self._attention(_normalise(x), layer)
            x = x + self._mlp(_normalise(x), layer)
        return _normalise(x).astype(np.float32)

    def _attention(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Self-attention of the tokens [T, width]."""
        tokens, part = len(x), self.width // self.heads
        # T5's initialisation: scores are not divided by the root of the width, so queries start smaller.
        deviations = {"q": (self.width * part) ** -0.5, "k": self.width**-0.5, "v": self.width**-0.5}
        q, k, v = (
            (x @ self._matrix(f"{layer} {name}", self.width, self.width, deviation)).reshape(tokens, self.heads, part)
            for name, deviation in deviations.items()
        )
        distance = np.clip(np.arange(tokens)[None] - np.arange(tokens)[:, None], -8, 8) + 8
        bias = np.stack([self._normal(f"{layer} bias {head}", 17) for head in range(self.heads)])[:, distance]
        scores = np.einsum("qhc,khc->hqk", q, k) + bias
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.einsum("hqk,khc->qhc", weights / weights.sum(axis=-1, keepdims=True), v)
        return mixed.reshape(tokens, self.width) @ self._matrix(f"{layer} o", self.width, self.width)

    def _mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Gated by GELU, twice as wide inside."""
        wide = 2 * self.width
        gate, linear = (x @ self._matrix(f"{layer} {name}", self.width, wide) for name in ("gate", "linear"))
        gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        return (gelu * linear) @ self._matrix(f"{layer} out", wide, self.width)

    def _matrix(self, name: str, rows: int, columns: int, deviation: float | None = None) -> np.ndarray:
        """Normal float64 [rows, columns]; by default outputs vary as inputs do."""
        scale = rows**-0.5 if deviation is None else deviation
        return scale * self._normal(name, rows * columns).reshape(rows, columns)

    @functools.lru_cache(maxsize=512)  # noqa: B019 - an encoder lives as long as the run
    def _normal(self, name: str, count: int) -> np.ndarray:
        """Standard normal float64 [count], a function of the seed and a name."""
        key = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little"))).standard_normal(count)


def _normalise(x: np.ndarray) -> np.ndarray:
    """Root mean square normalisation of each token."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)
