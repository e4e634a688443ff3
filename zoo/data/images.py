"""What a stage trains on: a source, cropped, flipped, paired with its low-resolution image, endless and resumable."""

from typing import Any

import tensorflow as tf

from zoo.console import UserError
from zoo.data.crops import Crop
from zoo.data.flips import RandomFlip
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
        self._problems: dict[tuple[str, int], str] = {}

    @property
    def classes(self) -> int:
        """Number of classes, 0 if the images are unlabelled."""
        return self.source.classes

    @property
    def problems(self) -> list[str]:
        """`NAME: REASON` of every corrupt record met so far, each once."""
        return list(self._problems.values())

    def check(self) -> None:
        """Raises UserError if the source cannot exist."""
        self.source.check()

    def split(self, role: str) -> str:
        """The source's name of the split that plays the role `train` or `test`."""
        if role not in self._splits:
            raise ValueError(f"split must be 'train' or 'test', got '{role}'")
        return self._splits[role]

    def stream(self, seed: int, first: int = 0) -> tf.data.Dataset:
        """Endless, unbatched training elements from number `first` on; what precedes is skipped without decoding.

        Element n is record n % count of epoch n // count, in the order of (seed, epoch), so it depends on (seed, n)
        alone. The place of a corrupt record is taken by the next sound one, so that no number moves.

        Returns:
            Dataset of {image: float32 [S, S, C] in [-1, 1]; label: int32 [] if there are classes;
            low_resolution: float32 [s, s, C] in [-1, 1] if pairs are asked for}.
        """
        split = self.split("train")
        count = self.source.count(split)
        self._require_one_sound(split)
        epoch, offset = divmod(first, count)
        epochs = tf.data.Dataset.range(epoch, tf.int64.max)
        records = epochs.flat_map(lambda number: self.source.records(split, seed, number)).skip(offset)
        decoded = self._decoded(records.enumerate(first), split).batch(self._block)

        def fill(last: tf.Tensor, block: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            numbers = block.pop("number")
            gaps = numbers - tf.concat([last[None], numbers[:-1]], axis=0)  # 1 where no record is missing
            noted = self._note(split, seed, last, numbers, gaps)
            with tf.control_dependencies([noted]):
                filled = {key: tf.repeat(value, gaps, axis=0) for key, value in block.items()}
            filled["number"] = tf.range(last + 1, numbers[-1] + 1)
            return numbers[-1], filled

        blocks = decoded.scan(tf.constant(first - 1, tf.int64), fill)
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
        name = self.split(split)
        records = self.source.records(name, seed, 0).enumerate().skip(first)
        end = max(first, self.source.count(name))
        decoded = self._decoded(records, name).concatenate(self._sentinel(end)).batch(self._block)

        def drop(last: tf.Tensor, block: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            numbers = block.pop("number")
            gaps = numbers - tf.concat([last[None], numbers[:-1]], axis=0)
            noted = self._note(name, seed, last, numbers, gaps)
            with tf.control_dependencies([noted]):
                return numbers[-1], {key: value[: tf.reduce_sum(tf.cast(numbers < end, tf.int32))] for key, value in block.items()}

        blocks = decoded.scan(tf.constant(first - 1, tf.int64), drop)
        dataset = blocks.map(self._with_low_resolution, tf.data.AUTOTUNE).unbatch()
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

    def _decoded(self, numbered: tf.data.Dataset, split: str) -> tf.data.Dataset:
        """Decodes (number, record) pairs in parallel, in order; the numbers show which ones failed."""
        decoded = numbered.map(
            lambda number, record: self._prepare(record, split) | {"number": number},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return decoded.ignore_errors()

    def _sentinel(self, number: int) -> tf.data.Dataset:
        """One empty element that follows the last record, so that failures at the end leave a gap as well."""
        image = tf.zeros([1, self.size, self.size, self.channels], tf.uint8)
        element = {"image": image, "number": tf.constant([number], tf.int64)}
        if self.classes:
            element["label"] = tf.zeros([1], tf.int32)
        return tf.data.Dataset.from_tensor_slices(element)

    def _with_low_resolution(self, block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the pair, uint8 [N, s, s, C]: the mean over the area of each pixel, rounded."""
        if self.low_resolution is None:
            return block
        small = tf.image.resize(block["image"], [self.low_resolution] * 2, method="area")
        return block | {"low_resolution": tf.cast(tf.round(small), tf.uint8)}

    def _finish(self, block: dict[str, tf.Tensor], seed: int) -> dict[str, tf.Tensor]:
        """Flips a block of uint8 images, makes the pairs and maps both to [-1, 1]."""
        numbers = block.pop("number")
        if self.flip is not None:
            block["image"] = self.flip(block["image"], seed, numbers)
        block["image"] = tf.cast(block["image"], tf.float32) / 127.5 - 1.0
        if self.low_resolution is not None:
            block["low_resolution"] = tf.image.resize(block["image"], [self.low_resolution] * 2, method="area")
        return block

    def _note(
        self, split: str, seed: int | None, last: tf.Tensor, numbers: tf.Tensor, gaps: tf.Tensor
    ) -> tf.Tensor:
        """Names the records missing between `last` and the numbers; leaves the graph only if there are any."""

        def name_missing(last: Any, numbers: Any) -> Any:
            self._name_missing(split, seed, int(last) + 1, {int(number) for number in numbers})
            return numbers[-1]

        return tf.cond(
            tf.reduce_any(gaps > 1),
            lambda: tf.numpy_function(name_missing, [last, numbers], tf.int64),
            lambda: numbers[-1],
        )

    def _name_missing(self, split: str, seed: int | None, start: int, present: set[int]) -> None:
        """Decodes the missing records once more, one by one, to keep their names and what is wrong with them."""
        count = self.source.count(split)
        for number in sorted(set(range(start, max(present))) - present):
            epoch, offset = divmod(number, count)
            for record in self.source.records(split, seed, epoch).skip(offset).take(1):
                position = int(record["position"])
                if (split, position) not in self._problems:
                    self._problems[split, position] = f"{self.source.locate(split, position)}: {self._fault(record, split)}"

    def _fault(self, record: Record, split: str) -> str:
        """First line of the error that a record's decoding raises."""
        try:
            self._prepare(record, split)
        except (tf.errors.OpError, OSError, ValueError) as error:
            text = getattr(error, "message", str(error)).split("}} ")[-1]
            return text.strip().splitlines()[0] if text.strip() else type(error).__name__
        return "could not be read at first, but later"

    def _require_one_sound(self, split: str) -> None:
        """Raises UserError if no record of the split can be decoded: an endless stream would look for ever."""
        records = self.source.records(split).enumerate()
        sound = records.map(lambda number, record: self._prepare(record, split)).ignore_errors().take(1)
        if any(True for _ in sound):
            return
        count = self.source.count(split)
        if count:
            self._name_missing(split, None, 0, {min(count, 5)})
        named = "; ".join(self.problems[:5]) or "there are none"
        raise UserError(f"no image of split '{split}' of {self.source.name} ({count} records) can be read: {named}")
