"""The splits of a recipe's dataset as image sets, decoded as training sees them but never flipped."""

import copy
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from harness.cache import digest
from harness.images import Batch, ImageSet, RealImages
from zoo.data.images import Images
from zoo.data.tfrecords import TFRecords

PART = 500  # images decoded at a time


class SplitImages(ImageSet):
    """One split of a dataset at the recipe's size, or a range of its shuffled order.

    Args:
        images: the data of a stage.
        split: 'train' or 'test'.
        first, count, seed: the range [first, first + count) of the order drawn from `seed`; by default all, in order.
    """

    def __init__(self, images: Images, split: str, first: int = 0, count: int | None = None, seed: int | None = None):
        self.images, self.split_name, self.first, self.seed = images, split, first, seed
        name = images.split(split)
        whole = images.source.count(name)
        self.source_count = whole
        self.count = whole - first if count is None else count
        self.shape = images.shape
        self.classes = images.classes
        self.name = f"{images.source.name} {name}"
        self.dataset = images.source.name
        self.source_fingerprint = images.source.fingerprint(name)

    def parts(self) -> Iterator[Batch]:
        examples = self.images.examples(self.split_name, count=self.count, seed=self.seed, first=self.first)
        for batch in examples.batch(PART).prefetch(2).as_numpy_iterator():
            yield batch["image"], batch["label"].astype(np.int64) if self.classes else None

    def fingerprint(self) -> str:
        crop = self.images.crop
        settings = {name: str(value) for name, value in vars(crop).items()}
        return digest(
            [self.source_fingerprint, self.shape, type(crop).__name__, settings, self.first, self.count, self.seed]
        )

    def all_labels(self) -> np.ndarray | None:
        """As of every image set; records say their labels without being decoded."""
        source, name = self.images.source, self.images.split(self.split_name)
        if not self.classes:
            return None
        places = tf.range(self.first, self.first + self.count, dtype=tf.int64)
        records = source.records(name, self.seed, 0, places)
        if "label" not in records.element_spec:
            return super().all_labels()
        labels = records.map(lambda record: record["label"]).batch(4096).as_numpy_iterator()
        found = np.concatenate(list(labels)).astype(np.int64)
        return found - (source.first_label if isinstance(source, TFRecords) else 0)

    def section(self, first: int, count: int) -> ImageSet:
        """As of every image set, skipping what is before without decoding it."""
        part = copy.copy(self)
        part.first, part.count = self.first + first, count
        return part

    def split(self, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
        """As of every image set; the whole split skips to its part without decoding."""
        if self.seed is not None or self.first or self.count < self.source_count:
            return super().split(count, seed)
        rest = self.count - count
        return (
            SplitImages(self.images, self.split_name, 0, count, seed),
            SplitImages(self.images, self.split_name, count, rest, seed),
        )


def real_images(images: Images, reference_split: str) -> RealImages:
    """The real side of an evaluation: classifiers learn from train and are tested on test, always."""
    splits = {split: SplitImages(images, split) for split in ("train", "test")}
    other = {"train": "test", "test": "train"}[reference_split]
    return RealImages(splits[reference_split], splits["train"], splits["test"], spare=splits[other])
