"""What a stage trains on: a source, cropped, flipped, paired with its low-resolution image, endless and resumable."""

import math
import os

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data import held
from zoo.data.crops import Crop
from zoo.data.flips import RandomFlip
from zoo.data.held import HeldPictures
from zoo.data.random_crops import RandomCrop
from zoo.data.reading import Block, Reader
from zoo.data.shares import Share
from zoo.data.sources import Example, Record, Source
from zoo.data.texts import Texts

BLOCK_BYTES = 2**20  # whole-array steps (flip, low resolution, float) work on blocks of about this size
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Images:
    """Images of one size from a source, as training stream and as finite sets of examples."""

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
        random_crop: RandomCrop | None = None,
        text: Texts | None = None,
    ) -> None:
        """Describes the images; nothing is read yet.

        Args:
            size: side in pixels; height, where the crop makes no squares.
            low_resolution: side of the image that a super-resolution stage starts from; None for no pairs.
            channels: 3 for RGB (grey is repeated) or 1 for luma (BT.601).
            train: split that is trained on.
            test: split that is held out.
            random_crop: takes the place of `crop` in the training stream, so that a classifier does not overfit.
            text: embeddings of their captions; None leaves captions out.
        """
        if size <= 0:
            raise ValueError(f"size must be positive, got {size}")
        if low_resolution is not None and not 0 < low_resolution < size:
            raise ValueError(f"low_resolution must be between 1 and {size - 1} (size is {size}), got {low_resolution}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (luma) or 3 (RGB), got {channels}")
        if crop.shape(size) != (size, size) and (low_resolution is not None or random_crop is not None):
            raise ValueError(
                f"low_resolution and random_crop must be None where the crop makes no squares ({type(crop).__name__}), "
                f"got {low_resolution} and {random_crop}"
            )
        self.source = source
        self.size = size
        self.crop = crop
        self.flip = flip
        self.low_resolution = low_resolution
        self.random_crop = random_crop
        self.channels = channels
        self.text = text
        self._splits = {"train": train, "test": test}
        self._reader = Reader(source, self._prepare)
        self._held: dict[str, HeldPictures] = {}

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"Images({self.source.name}, {size}, {', '.join(self._splits.values())})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return (*self.crop.shape(self.size), self.channels)

    @property
    def classes(self) -> int:
        """Number of classes, 0 if the images are unlabelled."""
        return self.source.classes

    @property
    def problems(self) -> list[str]:
        """`NAME: REASON` of every corrupt record met so far, each once."""
        return self._reader.problems

    def check(self) -> None:
        """Raises UserError if the source cannot exist, or has no captions where text is asked for."""
        self.source.check()
        if self.text is not None and not self.source.captioned:
            raise UserError(
                f"Images.text needs captions, and {self.source.name} has none: take a source that has "
                "(CaptionedShapes, or TFDS, TFRecords or ImageFolder with `captions`), or leave Images.text out"
            )

    def split(self, role: str) -> str:
        """The source's name of the split that plays the role `train` or `test`."""
        if role not in self._splits:
            raise ValueError(f"split must be 'train' or 'test', got '{role}'")
        return self._splits[role]

    def stream(self, seed: int, first: int = 0, count: int | None = None) -> tf.data.Dataset:
        """Unbatched training elements from number `first` on; what precedes is skipped without decoding.

        Element n is record n % records of epoch n // records, in the order of (seed, epoch), so it depends on (seed, n)
        alone. The place of a corrupt record is taken by the next sound one, so that no number moves. Say by `count` how
        many elements will be asked for where that is known: an iterator over an endless stream is slow to give up.

        Returns:
            Dataset of {image: float32 [S, S, C] in [-1, 1]; label: int32 [] if there are classes;
            low_resolution: float32 [s, s, C] in [-1, 1] if pairs are asked for; text: float32 [L, D] if it is asked
            for; portrait: int32 [], 1 of a picture that was turned, if the crop turns any}. Which of several captions
            an element has depends on (seed, n) as well.
        """
        share = Share(first, None if count is None else first + count)
        blocks = self._shuffled(seed, share, self._block)
        return blocks.map(lambda block: self._finish(block, seed), tf.data.AUTOTUNE, deterministic=True).unbatch()

    def batches(
        self,
        seed: int,
        first: int,
        count: int | None,
        batch: int,
        worker: tuple[int, int] = (0, 1),
        parts: int = 1,
    ) -> tf.data.Dataset:
        """One worker's share of the stream, in batches: it reads, decodes and flips no other pictures.

        Global batch k holds elements first + k * batch .. first + (k + 1) * batch - 1 of `stream`. Worker i of n has
        rows i * batch / n .. (i + 1) * batch / n - 1 of each, as `parts` consecutive batches of batch / (n * parts)
        rows. So all workers together have the stream of one, pixel for pixel, in order.

        Args:
            first: number of the first element.
            count: elements of all global batches together, a multiple of `batch`; None for an endless stream.
            batch: rows of a global batch, a multiple of workers times parts.
            worker: (index, number of workers).
            parts: batches that a worker cuts its rows into, one for each of its replicas.

        Returns:
            Dataset of elements as in `stream`, with a leading axis of fixed length.
        """
        index, workers = worker
        if not 0 <= index < workers:
            raise ValueError(f"worker must be (index, workers) with 0 <= index < workers, got {worker}")
        if parts < 1 or batch < 1 or batch % (workers * parts):
            raise ValueError(f"batch must be a multiple of workers * parts = {workers * parts}, got {batch}")
        if count is not None and count % batch:
            raise ValueError(f"count must be a multiple of batch ({batch}), got {count}")
        share = Share(first, None if count is None else first + count, batch, index, workers)
        rows = share.rows // parts
        whole = self._shuffled(seed, share, min(rows, self._block)).rebatch(rows, drop_remainder=True)
        finished = whole.map(lambda block: self._finish(block, seed), tf.data.AUTOTUNE, deterministic=True)
        options = tf.data.Options()
        options.deterministic = True
        # Its own threads: the program may have set TensorFlow's to one for the sake of equal bits in training.
        options.threading.private_threadpool_size = os.cpu_count() or 1
        options.threading.max_intra_op_parallelism = 1
        return finished.prefetch(2 * parts).with_options(options)

    def keep_captions(self) -> None:
        """Computes the embeddings of the captions of the stream, if it has text and nobody has."""
        if self.text is None:
            return
        self.check()
        split = self.split("train")
        captions = (caption for record in self.source.captions(split) for caption in record)
        self.text.keep(captions, f"captions of {self.source.name} {split}")

    def examples(
        self, split: str, count: int | None = None, seed: int | None = None, first: int = 0, last: int | None = None
    ) -> tf.data.Dataset:
        """Finite, unflipped images as they are compared with samples; corrupt records are left out and named.

        Args:
            split: 'train' or 'test'.
            count: how many images; None for all that follow.
            seed: None for file order, else the shuffled order of (seed, epoch 0).
            first: record to begin with, the ones before are skipped without decoding.
            last: record to end before, so that ranges of records share no image though some are corrupt.

        Returns:
            Dataset of {image: uint8 [S, S, C]; label: int32 []; low_resolution: uint8 [s, s, C]}, the last two as in
            `stream`; captions: string [], one a line, where `stream` has text; and portrait as there.
        """
        blocks = self._reader.finite(self.split(split), seed, first, self._block, last)
        dataset = blocks.map(self._pair, tf.data.AUTOTUNE).unbatch()
        return dataset if count is None else dataset.take(count)

    def fit(self, image: np.ndarray | tf.Tensor) -> tf.Tensor:
        """A decoded picture uint8 [h, w, 3] as uint8 [S, S, C], cropped as all of them are."""
        return self._channelled(self.crop(tf.convert_to_tensor(image), self.size))

    def _channelled(self, image: tf.Tensor) -> tf.Tensor:
        """RGB uint8 [S, S, 3] as uint8 [S, S, C]."""
        if self.channels == 3:
            return image
        grey = tf.reduce_sum(tf.cast(image, tf.float32) * LUMA, axis=-1, keepdims=True)
        return tf.cast(tf.round(grey), tf.uint8)

    def _shuffled(self, seed: int, share: Share, size: int) -> tf.data.Dataset:
        """Decoded blocks of a share of the stream, of about `size` elements, from memory where that pays."""
        split = self.split("train")
        self.keep_captions()
        holds = self.random_crop is None  # else a picture looks different every epoch
        if holds and split not in self._held and held.fits(self.source, split, share, math.prod(self.shape)):
            self._held[split] = HeldPictures(self._reader, split, self._block)
        if split in self._held:
            return self._held[split].shuffled(seed, share, size)
        return self._reader.shuffled(split, seed, share, size)

    @property
    def _block(self) -> int:
        """Images in a block."""
        return max(1, min(128, BLOCK_BYTES // math.prod(self.shape)))

    def _prepare(self, record: Record, split: str, key: tf.Tensor | None) -> Example:
        """A record as uint8 [S, S, C] with its label and, where they are asked for, its captions.

        `key` of its place in the training stream.
        """
        example = self.source.decode(record, self.size, split)
        image = example["image"]
        if self.text is None:
            example = {name: value for name, value in example.items() if name != "captions"}
        if self.crop.turns:
            example |= {"portrait": tf.cast(tf.shape(image)[0] > tf.shape(image)[1], tf.int32)}
        if key is None or self.random_crop is None:
            return example | {"image": self.fit(image)}
        return example | {"image": self._channelled(self.random_crop(image, self.size, key))}

    def _pair(self, block: Block) -> Block:
        """Examples as they leave: without numbers, with the pair uint8 [N, s, s, C] of means over areas."""
        kept = {key: value for key, value in block.items() if key != "number"}
        if self.low_resolution is None:
            return kept
        small = tf.image.resize(block["image"], [self.low_resolution] * 2, method="area")
        return kept | {"low_resolution": tf.cast(tf.round(small), tf.uint8)}

    def _finish(self, block: Block, seed: int) -> Block:
        """Training elements as they leave: flipped, paired, in [-1, 1]."""
        images, numbers = block["image"], block["number"]
        mirrored = tf.zeros_like(numbers, tf.bool) if self.flip is None else self.flip.mirrored(seed, numbers)
        floats = tf.numpy_function(_to_floats, [images, mirrored], tf.float32, stateful=False)
        finished = {"image": tf.ensure_shape(floats, images.shape)}
        finished |= {name: block[name] for name in ("label", "portrait") if name in block}
        if self.text is not None:
            finished["text"] = self.text.in_graph(block["captions"], seed, numbers)
        if self.low_resolution is not None:
            finished["low_resolution"] = tf.image.resize(finished["image"], [self.low_resolution] * 2, method="area")
        return finished


def _to_floats(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    from zoo.data.floats import to_floats  # half a second, and not for those who only look at images

    return to_floats(images, mirrored)
