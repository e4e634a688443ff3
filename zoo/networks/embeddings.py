"""Embeddings of noise level and class, and the keyed randomness of dropout."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def sinusoidal_embedding(time: Any, width: int, longest: float = 10_000.0) -> Any:
    """[cos(t f_i), sin(t f_i)] with f_i = longest^(-i / half), half = width // 2 (ADM's public code).

    Args:
        time: [B].
        width: an odd width is padded by one zero.

    Returns:
        [B, width] in the dtype of `time`.
    """
    half = width // 2
    dtype = ops.dtype(time)
    # The table is float64 before it is cast: float32 exponents would move the output near t = 1000.
    frequencies = np.exp(-math.log(longest) * np.arange(half, dtype=np.float64) / half)
    angles = ops.expand_dims(time, 1) * ops.convert_to_tensor(frequencies.astype(dtype))
    embedding = ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
    return ops.pad(embedding, ((0, 0), (0, 1))) if width % 2 else embedding


class TimeEmbedding(keras.layers.Layer):
    """Contract of the family: the noise level, read from the inputs of the network, as [B, width]."""

    source: str = "time"
    """Which input of the network is embedded."""

    def embed(self, value: Any, width: int) -> Any:
        """[B] -> [B, width]."""
        return sinusoidal_embedding(value, width)


class StepEmbedding(TimeEmbedding):
    """Sinusoids of the step index (DDPM; ADM's order, cosines first)."""


class LogSNREmbedding(TimeEmbedding):
    """Sinusoids of the log signal-to-noise ratio, mapped from [smallest, largest] to 0 .. 1000 ("linear").

    For networks that are told the noise level itself (SR3, WaveGrad); the mapping is that of progressive
    distillation's public code.
    """

    source = "logsnr"

    def __init__(self, smallest: float = -20.0, largest: float = 20.0) -> None:
        super().__init__()
        if not smallest < largest:
            raise ValueError(f"smallest must be below largest, got {smallest} and {largest}")
        self.smallest, self.largest = smallest, largest

    def embed(self, value: Any, width: int) -> Any:
        value = ops.clip(value, self.smallest, self.largest)
        return sinusoidal_embedding(1000 * (value - self.smallest) / (self.largest - self.smallest), width)


def class_embedding(embed: Callable[[Any], Any], inputs: dict[str, Any]) -> Any:
    """The embedding [B, width] of `label` [B] or, with `label_weight` [B, K], the weighted sum of those of `label`
    [B, K]: a mix of classes (ADM, appendix F).

    Args:
        embed: labels of any shape -> their embeddings, [..., width].
    """
    embedded = embed(inputs["label"])
    if "label_weight" not in inputs:
        return embedded
    weight = ops.cast(inputs["label_weight"], embedded.dtype)
    return ops.sum(ops.expand_dims(weight, -1) * embedded, axis=1)


class KeyedSeeds(keras.random.SeedGenerator):
    """Gives seeds that are a function of a key and a counter, and keeps no state.

    Keras' own generator gives every replica the same numbers; with a key folded from (run, step, replica) each
    replica draws its own, and a repeat draws the same. Each `part` of a network has seeds of its own, whatever the
    others draw, so that it can be computed again alone.
    """

    def __init__(self, key: Any, part: int) -> None:  # deliberately makes no state variable, so no super().__init__()
        self.key, self.part, self.count = key, part, 0

    def next(self, ordered: bool = True) -> Any:
        """A seed uint32 [2]."""
        self.count += 1
        return ops.cast(self.key, "uint32") + ops.convert_to_tensor(np.array([self.count, self.part], np.uint32))


def dropout(x: Any, rate: float, seeds: KeyedSeeds | None) -> Any:
    """Inverted dropout; without `seeds` (evaluation) or at rate 0 the input itself."""
    return keras.random.dropout(x, rate, seed=seeds) if rate > 0 and seeds is not None else x
