"""TFRecord files as one row of records: held in memory while they are small, read window by window when they are not."""

import functools
import struct
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from zoo.console import UserError
from zoo.data.sources import permutation, table_records

HELD_BYTES = 512 * 2**20  # encoded splits up to this size are kept in memory and permuted exactly
WINDOW_BYTES = 256 * 2**20  # larger ones are permuted inside windows of consecutive shards of about this size
READ_BYTES = 4 * 2**20  # read-ahead of one file


class Shard(NamedTuple):
    """A run of records of one TFRecord file."""

    path: str
    skip: int  # records to pass over at the beginning of the file
    take: int  # records that belong to the split


class Shards:
    """The records of a split in file order, and in orders that are functions of (seed, epoch)."""

    def __init__(self, shards: list[Shard], size: int, held: int = HELD_BYTES, window: int = WINDOW_BYTES) -> None:
        """Args: shards: the files in order; size: encoded bytes of all records; held, window: limits in bytes."""
        self.shards = shards
        self.size = size
        self.count = sum(shard.take for shard in shards)
        self.held = held
        self.window = window

    def records(self, seed: int | None, epoch: Any) -> tf.data.Dataset:
        """Records {position: int64 [], serialized: string []} of one epoch."""
        if self.size <= self.held:
            return table_records({"serialized": self._table}, seed, epoch)
        shards = tf.range(len(self.shards), dtype=tf.int64)
        if seed is None:
            return tf.data.Dataset.from_tensor_slices(shards).flat_map(self._read)
        return self._shuffled(seed, epoch)

    def locate(self, position: int) -> str:
        """`FILE: record N`, counted from 0 within the file."""
        for shard in self.shards:
            if position < shard.take:
                return f"{shard.path}: record {shard.skip + position}"
            position -= shard.take
        raise IndexError(f"position must be below {self.count}, got {self.count + position}")

    @functools.cached_property
    def _table(self) -> tf.Tensor:
        """string [count]: every serialized record, read once."""
        shards = tf.data.Dataset.range(len(self.shards))
        try:
            serialized = [record["serialized"] for record in shards.flat_map(self._read).batch(4096)]
        except tf.errors.DataLossError as error:
            raise UserError(f"a TFRecord file is damaged: {error.message}; prepare the dataset again") from None
        return tf.concat(serialized, axis=0) if serialized else tf.constant([], tf.string)

    @functools.cached_property
    def _columns(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Path, records to skip, records to take and first position of every shard."""
        paths, skips, takes = zip(*self.shards, strict=True)
        takes_tensor = tf.constant(takes, tf.int64)
        return tf.constant(paths), tf.constant(skips, tf.int64), takes_tensor, tf.cumsum(takes_tensor, exclusive=True)

    def _read(self, shard: tf.Tensor) -> tf.data.Dataset:
        """Records of one shard in file order."""
        path, skip, take, start = (tf.gather(column, shard) for column in self._columns)
        serialized = tf.data.TFRecordDataset(path, buffer_size=READ_BYTES).skip(skip).take(take)
        positions = tf.data.Dataset.range(start, start + take)
        return tf.data.Dataset.zip({"position": positions, "serialized": serialized})

    def _shuffled(self, seed: int, epoch: Any) -> tf.data.Dataset:
        """Shards in a drawn order, cut into windows; each window is read whole and permuted exactly.

        Dataset.shuffle would do nearly the same, but its order depends on tf.random.set_seed as well.
        """
        shard_bytes = max(1, self.size // len(self.shards))
        record_bytes = max(1, self.size // max(1, self.count))
        shards_per_window = max(1, self.window // shard_bytes)
        records_per_window = max(1, self.window // record_bytes)

        def permute(block: dict[str, tf.Tensor]) -> tf.data.Dataset:
            positions = block["position"]
            order = permutation(tf.shape(positions)[0], seed, epoch, positions[0])
            return tf.data.Dataset.from_tensor_slices({key: tf.gather(value, order) for key, value in block.items()})

        def window(shards: tf.Tensor) -> tf.data.Dataset:
            records = tf.data.Dataset.from_tensor_slices(shards).flat_map(self._read)
            return records.batch(records_per_window).flat_map(permute)

        order = permutation(len(self.shards), seed, epoch)
        return tf.data.Dataset.from_tensor_slices(order).batch(shards_per_window).flat_map(window)


def count_records(path: str) -> int:
    """Number of records of a TFRecord file, by jumping from header to header.

    Layout of a record: length (uint64, little endian), its checksum (4 bytes), the data, their checksum (4 bytes).

    Raises:
        UserError: the file is cut off inside a record.
    """
    records, position = 0, 0
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(12)
            position += 16 + (struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size)
            if position > size:
                raise UserError(f"{path} is cut off after record {records - 1}; copy or write the file again")
            records += 1
    return records
