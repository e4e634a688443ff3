"""Shapes in which any shape may have any colour, with captions, and pairs of the two that training never shows."""

import functools
import hashlib
import itertools

import numpy as np

from zoo.data.drawing import LOOKS, Look, Scenes, banded, checked, dotted, plain, striped
from zoo.data.drawn import DrawnImages
from zoo.data.keyed import uniforms
from zoo.data.shapes import DRAWS, compose
from zoo.data.sources import Attribute

VERSION = 1  # of the generator: raise it when a pixel or a word changes, so that caches notice
SHAPES = tuple((look.shape, look.outline) for look in LOOKS)
TEXTURES = (plain, striped, checked, dotted, banded)
TEXTURE_NAMES = tuple(texture.__name__ for texture in TEXTURES)
# RGB, 0 to 1. The second is that of a texture, paler; those of LOOKS with one colour have another here.
SECOND = {
    "yellow": (1.0, 0.98, 0.74),
    "orange": (1.0, 0.84, 0.64),
    "white": (0.74, 0.74, 0.72),
    "pink": (1.0, 0.85, 0.91),
}
COLOURS = tuple((look.colour, look.first, SECOND.get(look.colour, look.second)) for look in LOOKS)
PAIRS = len(SHAPES) * len(COLOURS)
# Shapes and colours are held out evenly: pairs are taken along these diagonals of the table of the two, in this order.
DIAGONALS = (3, 7, 1, 9, 5)
SMALLEST, LARGEST = 0.45, 0.8  # radii: what is smaller is hard to tell at 32 pixels
MIDDLE = (SMALLEST + LARGEST) / 2
HAZE = 0.3  # at most so much of the background's colour in the shape's


class CaptionedShapes(DrawnImages):
    """Ten shapes, ten colours and five textures, every combination of them, and what they are called.

    The class of an image is its pair of shape and colour; a caption names colour, texture and shape: `a red striped
    circle`, and of one colour `a red circle`. A share of the pairs is held out: an image of such a pair is in `unseen`,
    `mixed_train` and `mixed_test` alone.

    Splits: `train` and `test` have the other pairs, `unseen` those held out (as many images as `test`), `mixed_train`
    and `mixed_test` all, for classifiers that judge what a model has made of a caption. Image i of a split depends on
    (seed, split, i) alone.
    """

    looks = tuple(
        Look(colour, texture.__name__, shape, outline, texture, first, second)
        for (shape, outline), (colour, first, second), texture in itertools.product(SHAPES, COLOURS, TEXTURES)
    )

    def __init__(
        self,
        train: int = 20_000,
        test: int = 4_000,
        seed: int = 0,
        held_out: float = 0.15,
        textures: tuple[str, ...] = TEXTURE_NAMES,
        spread: float = 1.0,
    ) -> None:
        """Describes the dataset; nothing is drawn yet.

        Args:
            train: images of `train` and of `mixed_train`.
            test: images of `test`, `unseen` and `mixed_test`.
            held_out: share of the hundred pairs of shape and colour.
            textures: those that are drawn; `('plain',)` leaves outlines and colours alone to be learned.
            spread: share of the range of position, size and angle; with 0 every shape stands upright in the middle.
        """
        counts = {"train": train, "test": test, "unseen": test, "mixed_train": train, "mixed_test": test}
        super().__init__(counts, seed)
        if not 0 < held_out <= len(DIAGONALS) / len(COLOURS) or not round(PAIRS * held_out):
            raise ValueError(f"held_out must be at least 0.01 and at most 0.5, got {held_out}")
        if not textures or not set(textures) <= set(TEXTURE_NAMES):
            raise ValueError(f"textures must be some of {', '.join(TEXTURE_NAMES)}, got {textures}")
        if not 0 <= spread <= 1:
            raise ValueError(f"spread must be between 0 and 1, got {spread}")
        self.textures, self.spread = tuple(textures), spread
        diagonals = ((shape, (shape + step) % len(COLOURS)) for step in DIAGONALS for shape in range(len(SHAPES)))
        chosen = list(itertools.islice(diagonals, round(PAIRS * held_out)))
        self.unseen = tuple(sorted(len(COLOURS) * shape + colour for shape, colour in chosen))
        self.seen = tuple(sorted(set(range(PAIRS)) - set(self.unseen)))

    @property
    def name(self) -> str:
        return "captioned_shapes"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"{colour} {shape}" for shape, _ in SHAPES for colour, _, _ in COLOURS)

    @property
    def captioned(self) -> bool:
        return True

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        shapes, colours = np.divmod(np.arange(PAIRS), len(COLOURS))
        return (
            Attribute("shape", tuple(shape for shape, _ in SHAPES), tuple(shapes.tolist())),
            Attribute("colour", tuple(colour for colour, _, _ in COLOURS), tuple(colours.tolist())),
        )

    def fingerprint(self, split: str) -> str:
        facts = (self.name, VERSION, self.seed, split, self.count(split), self.unseen, self.textures, self.spread)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def labels(self, split: str) -> np.ndarray:
        pairs = {"train": self.seen, "test": self.seen, "unseen": self.unseen}.get(split, tuple(range(PAIRS)))
        return np.array(pairs)[np.arange(self.count(split)) % len(pairs)]

    def captions(self, split: str) -> list[tuple[str, ...]]:
        return [(_caption(int(label)),) for label in self._labels_of_looks(split)]

    def scenes(self, split: str, indices: np.ndarray) -> Scenes:
        draws = uniforms((self.seed, self.splits().index(split)), indices, DRAWS)
        found = compose(self._labels_of_looks(split)[indices], iter(draws.T))
        # Large enough and clear enough that shape and colour can be told: the range of `compose` is mapped to ours.
        radius = SMALLEST + (LARGEST - SMALLEST) * (found.radius - 0.26) / 0.46
        radius = MIDDLE + self.spread * (radius - MIDDLE)
        room, now = (np.maximum(0.01, 0.95 - value) for value in (found.radius, radius))
        return found._replace(
            radius=radius.astype(np.float32),
            centre=(self.spread * found.centre * (now / room)[:, None]).astype(np.float32),
            angle=(self.spread * found.angle).astype(np.float32),
            exposure=(0.85 + (found.exposure - 0.62) / 2).astype(np.float32),
            haze=(HAZE * found.haze).astype(np.float32),
        )

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def _labels_of_looks(self, split: str) -> np.ndarray:
        """int [count], places in `looks`: the class of the image, and a texture that is drawn."""
        labels = self.labels(split)
        key = (self.seed, len(self.splits()) + self.splits().index(split))
        drawn = uniforms(key, np.arange(len(labels)), 1)[:, 0]
        places = [place for place, texture in enumerate(TEXTURE_NAMES) if texture in self.textures]
        return len(TEXTURES) * labels + np.array(places)[np.floor(drawn * len(places)).astype(np.int64)]


@functools.cache
def _caption(look: int) -> str:
    """What a look is called."""
    chosen = CaptionedShapes.looks[look]
    words = [chosen.colour, *([] if chosen.texture == plain.__name__ else [chosen.texture]), chosen.shape]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])
