"""What a stage trains on: a source, cropped, flipped, paired with its low-resolution image, endless and resumable."""

import tensorflow as tf

from zoo.data.crops import Crop
from zoo.data.flips import RandomFlip
from zoo.data.reading import Block, Reader
from zoo.data.sources import Example, Record, Source

BLOCK_BYTES = 2**20  # whole-array steps (flip, low resolution, float) work on blocks of about this size
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Images:
    """Square images of one size from a source, as training stream and as finite sets of examples."""

    def __init__(
        self,
        source: Source,
        size: int,
        crop: Crop,
        flip: RandomFlip | None = None,
        low_resolution: int | None = None,
        channels: int = 3,
        train: str = "train",
        test: str = "test",
    ) -> None:
        """Describes the images; nothing is read yet.

        Args:
            size: side in pixels.
            low_resolution: side of the image that a super-resolution stage starts from; None for no pairs.
            channels: 3 for RGB (grey is repeated) or 1 for luma (BT.601).
            train: split that is trained on.
            test: split that is held out.
        """
        if size <= 0:
            raise ValueError(f"size must be positive, got {size}")
        if low_resolution is not None and not 0 < low_resolution < size:
            raise ValueError(f"low_resolution must be between 1 and {size - 1} (size is {size}), got {low_resolution}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (luma) or 3 (RGB), got {channels}")
        self.source = source
        self.size = size
        self.crop = crop
        self.flip = flip
        self.low_resolution = low_resolution
        self.channels = channels
        self._splits = {"train": train, "test": test}
        self._reader = Reader(source, self._prepare)

    @property
    def classes(self) -> int:
        """Number of classes, 0 if the images are unlabelled."""
        return self.source.classes

    @property
    def problems(self) -> list[str]:
        """`NAME: REASON` of every corrupt record met so far, each once."""
        return self._reader.problems

    def check(self) -> None:
        """Raises UserError if the source cannot exist."""
        self.source.check()

    def split(self, role: str) -> str:
        """The source's name of the split that plays the role `train` or `test`."""
        if role not in self._splits:
            raise ValueError(f"split must be 'train' or 'test', got '{role}'")
        return self._splits[role]

    def stream(self, seed: int, first: int = 0, count: int | None = None) -> tf.data.Dataset:
        """Endless, unbatched training elements from number `first` on; what precedes is skipped without decoding.

        Element n is record n % count of epoch n // count, in the order of (seed, epoch), so it depends on (seed, n)
        alone. The place of a corrupt record is taken by the next sound one, so that no number moves. Say by `count` how
        many elements will be asked for where that is known: an iterator over an endless stream is slow to give up.

        Returns:
            Dataset of {image: float32 [S, S, C] in [-1, 1]; label: int32 [] if there are classes;
            low_resolution: float32 [s, s, C] in [-1, 1] if pairs are asked for}.
        """
        blocks = self._reader.endless(self.split("train"), seed, first, self._block, count)
        return blocks.map(lambda block: self._finish(block, seed), tf.data.AUTOTUNE).unbatch()

    def examples(
        self, split: str, count: int | None = None, seed: int | None = None, first: int = 0
    ) -> tf.data.Dataset:
        """Finite, unflipped images as they are compared with samples; corrupt records are left out and named.

        Args:
            split: 'train' or 'test'.
            count: how many images; None for all that follow.
            seed: None for file order, else the shuffled order of (seed, epoch 0).
            first: record to begin with, the ones before are skipped without decoding.

        Returns:
            Dataset of {image: uint8 [S, S, C]; label: int32 []; low_resolution: uint8 [s, s, C]}, the last two as in
            `stream`.
        """
        blocks = self._reader.finite(self.split(split), seed, first, self._block)
        dataset = blocks.map(self._pair, tf.data.AUTOTUNE).unbatch()
        return dataset if count is None else dataset.take(count)

    @property
    def _block(self) -> int:
        """Images in a block."""
        return max(1, min(128, BLOCK_BYTES // (self.size * self.size * self.channels)))

    def _prepare(self, record: Record, split: str) -> Example:
        """A record as uint8 [S, S, C] with its label."""
        example = self.source.decode(record, self.size, split)
        image = self.crop(example["image"], self.size)
        if self.channels == 1:
            grey = tf.reduce_sum(tf.cast(image, tf.float32) * LUMA, axis=-1, keepdims=True)
            image = tf.cast(tf.round(grey), tf.uint8)
        return example | {"image": image}

    def _pair(self, block: Block) -> Block:
        """Examples as they leave: without numbers, with the pair uint8 [N, s, s, C] of means over areas."""
        kept = {key: value for key, value in block.items() if key != "number"}
        if self.low_resolution is None:
            return kept
        small = tf.image.resize(block["image"], [self.low_resolution] * 2, method="area")
        return kept | {"low_resolution": tf.cast(tf.round(small), tf.uint8)}

    def _finish(self, block: Block, seed: int) -> Block:
        """Training elements as they leave: flipped, paired, in [-1, 1]."""
        images = block["image"]
        if self.flip is not None:
            images = self.flip(images, seed, block["number"])
        finished = {"image": tf.cast(images, tf.float32) / 127.5 - 1.0}
        if "label" in block:
            finished["label"] = block["label"]
        if self.low_resolution is not None:
            finished["low_resolution"] = tf.image.resize(finished["image"], [self.low_resolution] * 2, method="area")
        return finished
