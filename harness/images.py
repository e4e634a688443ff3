"""Sets of images to compare, read a batch at a time: uint8 [N, H, W, C] and, where there are any, labels [N]."""

import abc
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.statistics_files import Statistics

Batch = tuple[np.ndarray, np.ndarray | None]


class ImageSet(abc.ABC):
    """Images of one size in a fixed order.

    Attributes:
        name: for messages and results.
        dataset: what feature networks trained on these images are called after.
        count: number of images.
        shape: (height, width, channels); zeros where it is not known, for statistics alone.
        classes: number of classes; 0 where there are no labels.
        notes: what a reader of the numbers must know of these images, such as lossy files, as 'name: sentence'.
        statistics: mean and covariance that came in the same file; often of more images than are in it.
        has_images: whether there are images at all, or statistics alone.
    """

    name: str
    dataset: str
    count: int
    shape: tuple[int, int, int]
    classes: int
    notes: tuple[str, ...] = ()
    statistics: "Statistics | None" = None
    has_images: bool = True

    @abc.abstractmethod
    def parts(self) -> Iterator[Batch]:
        """The images in order, in parts of any length: uint8 [b, H, W, C], int64 labels [b] or None."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what the images are, for caches and provenance."""

    def batches(self, size: int) -> Iterator[Batch]:
        """The images in order in batches of `size` [b, H, W, C], whatever the parts; the last one is shorter."""
        images: np.ndarray | None = None
        labels: np.ndarray | None = None
        for part, part_labels in self.parts():
            images = part if images is None else np.concatenate([images, part])
            if part_labels is not None:
                labels = part_labels if labels is None else np.concatenate([labels, part_labels])
            while len(images) >= size:
                yield images[:size], None if labels is None else labels[:size]
                images, labels = images[size:], None if labels is None else labels[size:]
        if images is not None and len(images):
            yield images, labels

    def arrays(self) -> Batch:
        """All images [N, H, W, C] and labels [N] at once."""
        images, labels = zip(*self.parts(), strict=True)
        return np.concatenate(images), None if labels[0] is None else np.concatenate(labels)

    def all_labels(self) -> np.ndarray | None:
        """int64 [N] in order, or None; sets that can read them without decoding the images do so."""
        if not self.classes:
            return None
        found = [labels for _, labels in self.parts() if labels is not None]
        return np.concatenate(found) if found else None

    def section(self, first: int, count: int) -> "ImageSet":
        """The images `first` to `first + count - 1`."""
        return Selection(self, np.arange(first, first + count))

    def split(self, count: int, seed: int) -> tuple["ImageSet", "ImageSet"]:
        """Two disjoint parts: `count` images drawn without replacement, and the others; a function of the seed."""
        order = np.random.default_rng(seed).permutation(self.count)
        return Selection(self, np.sort(order[:count])), Selection(self, np.sort(order[count:]))


class ArrayImages(ImageSet):
    """Images in memory.

    Args:
        images: uint8 [N, H, W, C].
        labels: integers [N], or None.
        name: for messages.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None, name: str = "images"):
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 [N, H, W, C], got {images.dtype} {images.shape}")
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(f"labels must be one per image: {labels.shape} labels, {len(images)} images")
        self.images, self.labels = images, labels
        self.name = self.dataset = name
        self.count = len(images)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self.classes = 0 if labels is None or not len(labels) else int(labels.max()) + 1

    def parts(self) -> Iterator[Batch]:
        yield self.images, self.labels

    def all_labels(self) -> np.ndarray | None:
        return self.labels

    def fingerprint(self) -> str:
        content = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        if self.labels is not None:
            content.update(self.labels.astype(np.int64).tobytes())
        return content.hexdigest()


class Selection(ImageSet):
    """Some images of another set, in its order.

    Args:
        parent: the whole set.
        indices: ascending positions [n] in it.
    """

    def __init__(self, parent: ImageSet, indices: np.ndarray):
        self.parent, self.indices = parent, indices
        self.name, self.dataset, self.notes = parent.name, parent.dataset, parent.notes
        self.shape, self.classes = parent.shape, parent.classes
        self.count = len(indices)

    def parts(self) -> Iterator[Batch]:
        start = 0
        for images, labels in self.parent.parts():
            if not self.count or start > self.indices[-1]:
                return
            low, high = np.searchsorted(self.indices, (start, start + len(images)))
            chosen = self.indices[low:high] - start
            if len(chosen):
                yield images[chosen], None if labels is None else labels[chosen]
            start += len(images)

    def all_labels(self) -> np.ndarray | None:
        labels = self.parent.all_labels()
        return None if labels is None else labels[self.indices]

    def fingerprint(self) -> str:
        content = hashlib.sha256(self.parent.fingerprint().encode())
        content.update(self.indices.astype(np.int64).tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class RealImages:
    """The real side of a comparison.

    Attributes:
        reference: what samples are compared with: images, or statistics alone (`has_images` is False).
        train: what classifiers learn from.
        held_out: what classifiers are tested on; disjoint from `train`.
        spare: real images outside `reference` for the real-against-real floor, if there are any.
    """

    reference: ImageSet
    train: ImageSet
    held_out: ImageSet
    spare: ImageSet | None = None

    def floor_pair(self, count: int, seed: int = 0) -> tuple[ImageSet, ImageSet] | None:
        """Two disjoint real sets (reference, samples), the second of `count` images; None if there are too few.

        The reference stays whole where real images outside it suffice; otherwise `count` of its own images are
        held out of it.
        """
        if self.spare is not None and self.spare.count >= count:
            spare = self.spare if self.spare.count == count else self.spare.split(count, seed)[0]
            return self.reference, spare
        if self.reference.has_images and self.reference.count >= 2 * count:
            held_out, rest = self.reference.split(count, seed)
            return rest, held_out
        return None
