"""Shapes: a procedural labelled dataset with captions, the embedded default that needs no download."""

import hashlib
from collections.abc import Iterator

import numpy as np

from zoo.data.drawing import BACKGROUNDS, LOOKS, Scenes
from zoo.data.drawn import DrawnImages
from zoo.data.keyed import uniforms

VERSION = 1  # of the generator: raise it when a pixel changes, so that caches notice
DRAWS = 24  # uniform numbers that a scene is composed from
SMALL, LARGE = 0.36, 0.56  # radii at which a caption says small or large


class Shapes(DrawnImages):
    """Ten classes, each one shape in one colour and texture, on varied backgrounds under varied light.

    Image i of a split depends on (seed, split, i) alone. It is drawn at the size that is asked for; its class is
    i modulo ten, so every run of ten images holds each class once.
    """

    def __init__(self, train: int = 20_000, test: int = 4_000, seed: int = 0) -> None:
        super().__init__({"train": train, "test": test}, seed)

    @property
    def name(self) -> str:
        return "shapes"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"{look.colour} {look.texture} {look.shape}" for look in LOOKS)

    def fingerprint(self, split: str) -> str:
        facts = ("shapes", VERSION, self.seed, split, self.count(split))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def labels(self, split: str) -> np.ndarray:
        return np.arange(self.count(split)) % self.classes

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
        draws = iter(uniforms((self.seed, self.splits().index(split)), indices, DRAWS).T)
        return compose(np.asarray(indices) % self.classes, draws)


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
