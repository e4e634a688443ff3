"""How often a classifier is right, class by class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from harness.features.devices import ForwardPass
from harness.images import ImageSet


@dataclass(frozen=True)
class ClassHits:
    """Images of every class, and those that a classifier has right; all int64 [classes].

    Attributes:
        count: images.
        first: whose class is the first of the logits.
        among_five: whose class is among the first five.
    """

    count: np.ndarray
    first: np.ndarray
    among_five: np.ndarray

    @property
    def top1(self) -> float:
        """Share of all images whose class is the first."""
        return float(self.first.sum() / self.count.sum())

    @property
    def top5(self) -> float:
        """Share of all images whose class is among the first five."""
        return float(self.among_five.sum() / self.count.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays, for a file."""
        return {"count": self.count, "first": self.first, "among_five": self.among_five}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ClassHits":
        return cls(arrays["count"], arrays["first"], arrays["among_five"])


def count_hits(
    network: keras.Model,
    images: ImageSet,
    classes: int,
    batch: int,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> ClassHits:
    """Tests a network, images [B, H, W, C] -> (features, logits [B, classes]), on labelled images.

    Args:
        classes: of the network; labels are below.
        batch: images a forward pass on one device.
        prepare: uint8 [B, h, w, C] -> what the network takes; by default the images themselves.
    """
    forward = ForwardPass(network, batch)
    count, first, among_five = (np.zeros(classes, np.int64) for _ in range(3))
    for part, labels in images.batches(forward.at_once):
        if labels is None:
            raise ValueError(f"{images.name} has no labels")
        logits = forward(part if prepare is None else prepare(part))[1]
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        count += np.bincount(labels, minlength=classes)
        first += np.bincount(labels[order[:, 0] == labels], minlength=classes)
        among_five += np.bincount(labels[(order == labels[:, None]).any(axis=1)], minlength=classes)
    return ClassHits(count, first, among_five)
