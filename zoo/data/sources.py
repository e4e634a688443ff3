"""What every dataset offers: labelled records in an order that is a function of (seed, epoch), decoded only when used.

A record is a small dictionary of tensors with at least `position` (int64 []: where the record stands in file order).
Positions, not file names, carry the order, so that a stopped run goes on by arithmetic instead of by decoding.
"""

import abc
import hashlib
from typing import Any, NamedTuple

import tensorflow as tf

from zoo.console import UserError

Record = dict[str, Any]  # undecoded: position, and the bytes, path or index from which `decode` makes the image
Example = dict[str, Any]
"""Decoded: image uint8 [h, w, 3]; where there are classes, label int32 []; where there are captions, captions string
[], each on a line of its own."""


class Attribute(NamedTuple):
    """Something that every caption of a dataset says in one word, and that the class of the image decides."""

    name: str
    """Such as `colour`."""
    words: tuple[str, ...]
    """Every word that stands for a value of it."""
    of_class: tuple[int, ...]
    """The value of each class, as a place in `words`."""


class Source(abc.ABC):
    """A dataset with named splits. Reading starts only in `count`, `records` and `decode`."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name for people and for result files, such as `cifar10`."""

    @property
    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Name of each class in label order; empty if the dataset is unlabelled."""

    @property
    def classes(self) -> int:
        """Number of classes, 0 if the dataset is unlabelled."""
        return len(self.class_names)

    @property
    def captioned(self) -> bool:
        """Whether `decode` gives captions."""
        return False

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What captions say in known words, so that a classifier can tell whether an image has it; mostly nothing."""
        return ()

    def captions(self, split: str) -> list[tuple[str, ...]]:
        """The captions of every record, in file order.

        Raises:
            UserError: the dataset has none.
        """
        raise UserError(f"{self.name} has no captions: take a source that has, such as CaptionedShapes")

    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are here; empty if the data are missing."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises UserError if no such dataset can exist; one that is merely not on this machine passes."""

    @abc.abstractmethod
    def missing(self) -> str | None:
        """Says what is missing, where it was looked for and how to get it; None if the data are here."""

    def notes(self) -> tuple[str, ...]:
        """Lines for a person: where the data were found, what of them is here and what is not."""
        return ()

    @abc.abstractmethod
    def count(self, split: str) -> int:
        """Number of records of a split, corrupt ones included. Raises UserError if the data are missing."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> str:
        """Hexadecimal hash of what the split holds: name, version, counts and sizes, for caches."""

    @abc.abstractmethod
    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        """Undecoded records of one epoch.

        Args:
            seed: None for file order, else the order is a function of (seed, epoch).
            epoch: int or int64 [] tensor, so that an endless stream can count epochs inside tf.data.
            offsets: int64 [K], ascending places in that order; the records elsewhere are passed over. None for all.
        """

    def order(self, split: str, seed: int, epoch: Any) -> tf.Tensor | None:
        """int64 [count]: the positions in the order of `records`; None where it is known only by reading."""
        return None

    def encoded_bytes(self, split: str) -> int:
        """Size of all encoded pictures, which tells how long decoding takes; 0 if they are drawn."""
        return 0

    @abc.abstractmethod
    def decode(self, record: Record, size: int, split: str) -> Example:
        """Decodes a record inside a tf.data map; an error it raises makes the record a named problem.

        Args:
            size: side of the image that is wanted, in pixels. A source that draws its images draws them at this size;
                one that stores them gives their own size and leaves the rest to the crop.
            split: the split that the record came from.
        """

    @abc.abstractmethod
    def locate(self, split: str, position: int) -> str:
        """Name by which a person finds the record at `position`: a path, or a file and a record number."""


def class_order(names: tuple[str, ...]) -> str:
    """SHA-256 of the class names in label order, each with a line feed: that of a text file with a name a line."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def ordered(count: int, seed: int | None, epoch: Any) -> tf.Tensor:
    """int64 [count]: positions in file order (no seed), or permuted exactly by (seed, epoch)."""
    return tf.range(count, dtype=tf.int64) if seed is None else permutation(count, seed, epoch)


def permutation(count: Any, *key: Any) -> tf.Tensor:
    """int64 [count] permutation of 0 .. count - 1, a pure function of `key` (integers or int64 tensors).

    Stateless Philox draws are sorted, so neither tf.random.set_seed nor the thread count changes the order.
    """
    seed = tf.zeros([2], tf.int64)
    for part in key:
        folded = tf.random.experimental.stateless_fold_in(seed, tf.cast(part, tf.int64))
        seed = tf.cast(folded, tf.int64)
    draws = tf.random.stateless_uniform([count], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    return tf.cast(tf.argsort(tf.cast(draws, tf.int64), stable=True), tf.int64)


def table_blocks(
    table: dict[str, tf.Tensor], seed: int | None, epoch: Any, offsets: tf.Tensor | None = None
) -> tf.data.Dataset:
    """Records of columns held in memory ([n] tensors of equal length), permuted exactly by (seed, epoch).

    They come in blocks, because a tf.data step costs microseconds whatever it carries.
    """
    order = ordered(next(iter(table.values())).shape[0], seed, epoch)
    chosen = order if offsets is None else tf.gather(order, offsets)

    def gather(positions: tf.Tensor) -> Record:
        return {"position": positions} | {key: tf.gather(column, positions) for key, column in table.items()}

    return tf.data.Dataset.from_tensor_slices(chosen).batch(256).map(gather)


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG, PNG, GIF (first frame), BMP or WebP bytes to RGB, uint8 [h, w, 3].

    The rule for other kinds of image: grey is repeated in the three channels, a palette is looked up, CMYK is converted
    by its inks, transparency is dropped (the stored colour counts), of 16 bits the upper 8 are kept, and the camera's
    orientation mark is not followed. JPEG uses the accurate integer transform: the same pixels as Pillow.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(image, [None, None, 3])


def nearest_hint(word: str, allowed: tuple[str, ...]) -> str:
    """` (did you mean 'x'?)` for the nearest of the allowed words, or nothing if none is near."""
    import difflib

    near = difflib.get_close_matches(word, allowed, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
