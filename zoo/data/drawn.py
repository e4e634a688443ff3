"""Procedural datasets: images that are drawn when they are asked for, at the size that is asked for."""

import abc
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data.drawing import LOOKS, Look, Scenes, render
from zoo.data.sources import Example, Record, Source, nearest_hint, table_blocks

HELD_BYTES = 256 * 2**20  # a split whose images take no more is drawn once and kept
BLOCK_PIXELS = 2**17  # pixels drawn at once: the working arrays stay in the processor's cache


class DrawnImages(Source):
    """Splits of scenes, each a function of (seed, split, index) alone.

    Attributes:
        looks: what `Scenes.label` counts.
    """

    looks: tuple[Look, ...] = LOOKS

    def __init__(self, counts: dict[str, int], seed: int) -> None:
        for split, value in counts.items():
            if value <= 0:
                raise ValueError(f"{split} must be positive, got {value}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.seed = seed
        self._counts = counts
        self._held: dict[tuple[str, int], tf.Tensor] = {}

    @abc.abstractmethod
    def labels(self, split: str) -> np.ndarray:
        """The class of every image of a split, int [count]."""

    @abc.abstractmethod
    def scenes(self, split: str, indices: np.ndarray) -> Scenes:
        """What the images at int [N] `indices` show."""

    def splits(self) -> tuple[str, ...]:
        return tuple(self._counts)

    def check(self) -> None:
        """Passes: the dataset is always here."""

    def missing(self) -> str | None:
        return None

    def count(self, split: str) -> int:
        if split not in self._counts:
            hint = nearest_hint(split, self.splits())
            raise UserError(f"{self.name} has no split '{split}'{hint}; its splits are {', '.join(self._counts)}")
        return self._counts[split]

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        self.count(split)
        table = {"label": tf.constant(self.labels(split), tf.int32)}
        if self.captioned:
            table["captions"] = tf.constant(["\n".join(captions) for captions in self.captions(split)])
        return table_blocks(table, seed, epoch, offsets).unbatch()

    def decode(self, record: Record, size: int, split: str) -> Example:
        position = record["position"]
        if self.count(split) * size * size * 3 <= HELD_BYTES:
            image = tf.gather(self._drawn(split, size), position)
        else:
            image = tf.numpy_function(lambda index: self.draw(split, np.array([index]), size)[0], [position], tf.uint8)
        told = {name: value for name, value in record.items() if name in ("label", "captions")}
        return {"image": tf.ensure_shape(image, [size, size, 3]), **told}

    def locate(self, split: str, position: int) -> str:
        return f"{self.name} {split} {position}"

    def draw(self, split: str, indices: np.ndarray, size: int) -> np.ndarray:
        """Images of a split, uint8 [N, size, size, 3]."""
        return render(self.scenes(split, indices), size, self.looks)

    def _drawn(self, split: str, size: int) -> tf.Tensor:
        """uint8 [count, size, size, 3]: the whole split, drawn once with all processors."""
        if (split, size) not in self._held:
            block = max(1, BLOCK_PIXELS // (size * size))
            # Images of one look are drawn at once.
            order = np.argsort(self.scenes(split, np.arange(self.count(split))).label, kind="stable")
            images = np.empty((len(order), size, size, 3), np.uint8)

            def fill(start: int) -> None:
                indices = order[start : start + block]
                images[indices] = self.draw(split, indices, size)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(fill, range(0, len(order), block)))
            with tf.init_scope():
                self._held[split, size] = tf.constant(images)
        return self._held[split, size]
