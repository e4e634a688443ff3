"""Shapes: a procedural labelled dataset with captions, the embedded default that needs no download."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data.drawing import BACKGROUNDS, LOOKS, Scenes, render
from zoo.data.keyed import uniforms
from zoo.data.sources import Example, Record, Source, nearest_hint, table_blocks

VERSION = 1  # of the generator: raise it when a pixel changes, so that caches notice
HELD_BYTES = 256 * 2**20  # a split whose images take no more is drawn once and kept
BLOCK_PIXELS = 2**17  # pixels drawn at once: the working arrays stay in the processor's cache
SMALL, LARGE = 0.36, 0.56  # radii at which a caption says small or large


class Shapes(Source):
    """Ten classes, each one shape in one colour and texture, on varied backgrounds under varied light.

    Image i of a split depends on (seed, split, i) alone. It is drawn at the size that is asked for; its class is
    i modulo ten, so every run of ten images holds each class once.
    """

    def __init__(self, train: int = 20_000, test: int = 4_000, seed: int = 0) -> None:
        for parameter, value in (("train", train), ("test", test)):
            if value <= 0:
                raise ValueError(f"{parameter} must be positive, got {value}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.seed = seed
        self._counts = {"train": train, "test": test}
        self._held: dict[tuple[str, int], tf.Tensor] = {}

    @property
    def name(self) -> str:
        return "shapes"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"{look.colour} {look.texture} {look.shape}" for look in LOOKS)

    def splits(self) -> tuple[str, ...]:
        return tuple(self._counts)

    def check(self) -> None:
        """Passes: the dataset is always here."""

    def missing(self) -> str | None:
        return None

    def count(self, split: str) -> int:
        if split not in self._counts:
            hint = nearest_hint(split, self.splits())
            raise UserError(f"shapes has no split '{split}'{hint}; its splits are {', '.join(self._counts)}")
        return self._counts[split]

    def fingerprint(self, split: str) -> str:
        facts = ("shapes", VERSION, self.seed, split, self.count(split))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        return table_blocks({"label": tf.range(self.count(split)) % self.classes}, seed, epoch, offsets).unbatch()

    def decode(self, record: Record, size: int, split: str) -> Example:
        position = record["position"]
        if self.count(split) * size * size * 3 <= HELD_BYTES:
            image = tf.gather(self._drawn(split, size), position)
        else:
            image = tf.numpy_function(lambda index: self.draw(split, np.array([index]), size)[0], [position], tf.uint8)
        return {"image": tf.ensure_shape(image, [size, size, 3]), "label": tf.cast(record["label"], tf.int32)}

    def locate(self, split: str, position: int) -> str:
        return f"shapes {split} {position}"

    def draw(self, split: str, indices: np.ndarray, size: int) -> np.ndarray:
        """Images of a split, uint8 [N, size, size, 3]."""
        return render(self.scenes(split, indices), size)

    def caption(self, split: str, index: int) -> str:
        """One true sentence, such as `a small red striped circle at the upper left on a navy blue background`."""
        scene = self.scenes(split, np.array([index]))
        radius = float(scene.radius[0])
        size = "small " if radius < SMALL else "large " if radius > LARGE else ""
        across, down = (float(value) for value in scene.centre[0])
        column = "left" if across < -0.15 else "right" if across > 0.15 else ""
        row = "upper" if down < -0.15 else "lower" if down > 0.15 else ""
        sides = {"upper": "top", "lower": "bottom", "": "centre"}
        place = f"{row} {column}" if row and column else column or sides[row]
        words = f"{size}{self.class_names[scene.label[0]]}"
        article = "an" if words[0] in "aeiou" else "a"
        where = f"in the {place}" if place == "centre" else f"at the {place}"
        ground = BACKGROUNDS[scene.background[0]][0]
        return f"{article} {words} {where} on {'an' if ground[0] in 'aeiou' else 'a'} {ground} background"

    def scenes(self, split: str, indices: np.ndarray) -> Scenes:
        """What the images at int [N] `indices` show."""
        draws = iter(uniforms((self.seed, self.splits().index(split)), indices, 24).T)
        return compose(np.asarray(indices) % self.classes, draws)

    def _drawn(self, split: str, size: int) -> tf.Tensor:
        """uint8 [count, size, size, 3]: the whole split, drawn once with all processors."""
        if (split, size) not in self._held:
            block = max(1, BLOCK_PIXELS // (size * size))
            indices = np.arange(self.count(split))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                starts = range(0, len(indices), block)
                blocks = pool.map(lambda start: self.draw(split, indices[start : start + block], size), starts)
                images = np.concatenate(list(blocks))
            with tf.init_scope():
                self._held[split, size] = tf.constant(images)
        return self._held[split, size]


def compose(labels: np.ndarray, draws: Iterator[np.ndarray]) -> Scenes:
    """Scenes of the given classes from uniform draws, each [N]."""

    def between(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * next(draws)).astype(np.float32)

    radius = 0.26 + 0.46 * next(draws) ** 0.8
    room = np.maximum(0.0, 0.95 - radius)
    light = between(0, 2 * np.pi)
    slope = between(0.05, 0.28)
    return Scenes(
        label=labels,
        background=np.floor(next(draws) * len(BACKGROUNDS)).astype(np.int64),
        centre=np.stack([room * between(-1, 1), room * between(-1, 1)], axis=1).astype(np.float32),
        radius=radius.astype(np.float32),
        angle=between(-0.6, 0.6),
        light=light,
        exposure=between(0.62, 1.12),
        tint=np.stack([between(0.9, 1.08) for _ in range(3)], axis=1),
        haze=(0.97 * next(draws) ** 5).astype(np.float32),
        shade=np.stack([between(-0.05, 0.05) for _ in range(3)], axis=1),
        slope=np.stack([slope * np.cos(light), slope * np.sin(light)], axis=1),
        ripple=np.stack([between(-5, 5), between(-5, 5), between(0, 2 * np.pi), between(0, 0.12)], axis=1),
        grain=np.floor(np.stack([next(draws), next(draws)], axis=1) * 64).astype(np.int64),
    )
