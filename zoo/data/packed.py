"""Pictures that lie inside larger files (tar, LMDB): found by an index of offsets, read where they are.

A picture costs one `pread`; nothing is unpacked. The index is kept in memory (20 bytes a picture: 26 MB for ImageNet),
and in a file of the user's cache if it took long to make: see `kept`.
"""

import abc
import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.console import UserError, say
from zoo.data.sources import Example, Record, Source, decode_image, nearest_hint, ordered, table_blocks

WORTH_KEEPING = 5.0  # seconds; an index that is made faster is made anew by every process
INDEX_VERSION = 1  # counts up when an index of the same file would come out otherwise


class Index(NamedTuple):
    """Where the pictures of a file lie, in the order of their positions."""

    offsets: np.ndarray  # int64 [N], bytes from the beginning of the file
    lengths: np.ndarray  # int64 [N], bytes
    labels: np.ndarray  # int32 [N]; -1: unlabelled


class PackedFile:
    """One file, open for reading, with its index."""

    def __init__(self, path: Path, index: Index) -> None:
        """Opens the file.

        Raises:
            UserError: it ends before its pictures do.
        """
        self.path, self.index = path, index
        size = path.stat().st_size
        lost = int(np.sum(index.offsets + index.lengths > size))
        if lost:
            raise UserError(
                f"{path} is cut short: {lost:,} of its {len(index.offsets):,} pictures lie beyond its end at "
                f"{size:,} bytes; copy or download it again"
            )
        self._descriptor = os.open(path, os.O_RDONLY)
        with tf.init_scope():
            self.table = {
                "offset": tf.constant(index.offsets, tf.int64),
                "length": tf.constant(index.lengths, tf.int64),
                "label": tf.constant(index.labels, tf.int32),
            }

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, offset: Any, length: Any) -> bytes:
        """The bytes of one picture."""
        data = os.pread(self._descriptor, int(length), int(offset))
        if len(data) < length:
            raise OSError(f"{len(data)} of {length} bytes could be read")
        return data


class PackedPictures(Source):
    """A dataset of which every split is one large file."""

    def __init__(self) -> None:
        self._files: dict[str, PackedFile] = {}

    @abc.abstractmethod
    def path(self, split: str) -> Path:
        """The file that holds a split; only asked for splits that are here."""

    @abc.abstractmethod
    def index(self, split: str) -> Index:
        """Where its pictures lie."""

    def count(self, split: str) -> int:
        return len(self.file(split).index.offsets)

    def fingerprint(self, split: str) -> str:
        index = self.file(split).index
        digest = hashlib.sha256(repr((self.name, split, self.class_names)).encode())
        digest.update(index.lengths.astype("<i8").tobytes() + index.labels.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        return table_blocks(self.file(split).table, seed, epoch, offsets).unbatch()

    def order(self, split: str, seed: int, epoch: Any) -> tf.Tensor | None:
        return ordered(self.count(split), seed, epoch)

    def encoded_bytes(self, split: str) -> int:
        return int(self.file(split).index.lengths.sum())

    def decode(self, record: Record, size: int, split: str) -> Example:
        # TensorFlow's own reader at an offset (FixedLengthRecordDataset inside a map) is five times slower than this.
        encoded = tf.numpy_function(self.file(split).read, [record["offset"], record["length"]], tf.string)
        example = {"image": decode_image(tf.ensure_shape(encoded, []))}
        return example | {"label": record["label"]} if self.class_names else example

    def locate(self, split: str, position: int) -> str:
        file = self.file(split)
        return f"{file.path}: picture {position} at byte {int(file.index.offsets[position]):,}"

    def file(self, split: str) -> PackedFile:
        """The open file of a split, indexed at its first use."""
        if split not in self._files:
            if split not in self.splits():
                here = ", ".join(self.splits()) or "none"
                hint = nearest_hint(split, self.splits())
                raise UserError(f"{self.name} has no split '{split}' here{hint}; splits that are here: {here}")
            self._files[split] = PackedFile(self.path(split), self.index(split))
        return self._files[split]


def kept(path: Path, kind: str, build: Callable[[], Index]) -> Index:
    """An index, from the user's cache where it has been made before.

    The tar file of ImageNet has 1.3 million headers, 115 kB apart: reading them takes from half a minute on a fast disk
    to a quarter of an hour on a slow one, and every stage, evaluation and resumed run would do it again. The index
    goes to the user's cache, because datasets often lie where nobody may write. It is found by the file's path, size
    and time of change, so another file in its place is read anew. What takes less than `WORTH_KEEPING` is not kept.

    Args:
        kind: what else the index depends on.
    """
    status = path.stat()
    key = repr((str(path.resolve()), status.st_size, status.st_mtime_ns, kind, INDEX_VERSION))
    place = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.npz"
    try:
        with place.open("rb") as file, np.load(file) as arrays:
            return Index(arrays["offsets"], arrays["lengths"], arrays["labels"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there, or not whole: it is made anew
    started = time.monotonic()
    index = build()
    seconds = time.monotonic() - started
    if seconds > WORTH_KEEPING:
        kept_there = f"kept in {place}" if _keep(place, index) else f"which {place.parent} could not keep"
        say(f"index of {path}: {len(index.offsets):,} pictures in {seconds:.0f} s, {kept_there}")
    return index


def cache_folder() -> Path:
    """Where indices are kept: the user's cache folder, as the XDG base directories name it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-zoo" / "indices"


def _keep(place: Path, index: Index) -> bool:
    """Writes an index whole or not at all; a disk that refuses costs only the time next time."""
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **index._asdict())
        beside.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        return False
    return True
