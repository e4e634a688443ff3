"""Which captions images are sampled with."""

import abc
import functools
from typing import Any

import numpy as np

from zoo.console import UserError
from zoo.data.sources import Source


class Captions(abc.ABC):
    """Contract of the family: the caption of image i is a function of (seed, i) alone."""

    @abc.abstractmethod
    def __call__(self, indices: np.ndarray, source: Source, seed: int) -> list[str]:
        """The captions of the images `indices` int [N]; `source` is the dataset of the stage."""

    def identity(self, source: Source) -> dict[str, Any]:
        """What the captions depend on besides what the component was made with."""
        return {}


class DrawnCaptions(Captions):
    """Captions of a dataset in an order drawn from the seed: each comes once before any comes again.

    Papers that follow Imagen sample 30,000 images from captions of the validation set, each caption at most once.

    Args:
        splits: of the source. Of several, image i has a caption of split i modulo their number.
    """

    def __init__(self, splits: tuple[str, ...] = ("test",)) -> None:
        if not splits:
            raise ValueError("splits must name at least one split of the source, got ()")
        self.splits = tuple(splits)

    def __call__(self, indices: np.ndarray, source: Source, seed: int) -> list[str]:
        return [
            self._one(source, self.splits[index % len(self.splits)], seed, index // len(self.splits))
            for index in indices.tolist()
        ]

    def identity(self, source: Source) -> dict[str, Any]:
        return {"splits": {split: source.fingerprint(split) for split in self.splits}}

    def _one(self, source: Source, split: str, seed: int, number: int) -> str:
        captions = _captions(source, split)
        return captions[_order(len(captions), seed, self.splits.index(split))[number % len(captions)]]


class GivenCaptions(Captions):
    """The captions of a list, in turn."""

    def __init__(self, captions: tuple[str, ...]) -> None:
        if not captions or not all(caption.strip() for caption in captions):
            raise ValueError(f"captions must be texts, and at least one, got {captions}")
        self.captions = tuple(captions)

    def __call__(self, indices: np.ndarray, source: Source, seed: int) -> list[str]:
        return [self.captions[index % len(self.captions)] for index in indices.tolist()]


@functools.lru_cache(maxsize=4)
def _captions(source: Source, split: str) -> list[str]:
    found = [caption for record in source.captions(split) for caption in record if caption]
    if not found:
        raise UserError(f"split '{split}' of {source.name} has no caption: DrawnCaptions.splits must name one that has")
    return found


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, stream: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, 2]).permutation(count)
