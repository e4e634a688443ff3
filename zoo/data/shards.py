"""TFRecord files as one row of records: held in memory while small, read window by window when large."""

import functools
import struct
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from zoo.console import UserError
from zoo.data.sources import ordered, permutation, table_blocks

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

    def __init__(
        self,
        shards: list[Shard],
        size: int,
        image: str,
        label: str | None,
        held: int = HELD_BYTES,
        window: int = WINDOW_BYTES,
    ) -> None:
        """Describes files of tf.train.Example; nothing is read yet.

        Args:
            shards: the files in order.
            size: bytes of all records together.
            image: key of the encoded picture.
            label: key of the class number; None if there is none.
            held: largest size that is kept in memory, in bytes.
            window: bytes that are permuted together if it is not.
        """
        self.shards = shards
        self.size = size
        self._fields = {"image": (image, tf.string)} | ({} if label is None else {"label": (label, tf.int64)})
        self.count = sum(shard.take for shard in shards)
        self.held = held
        self.window = window

    def records(self, seed: int | None, epoch: Any, offsets: tf.Tensor | None = None) -> tf.data.Dataset:
        """Records {position: int64 [], image: string [] (encoded), label: int64 []} of one epoch.

        `offsets` (int64 [K], ascending) are the places in its order that are wanted. Of files that are read window by
        window, a window with any of them is read whole.
        """
        if self.size <= self.held:
            return table_blocks({"serialized": self._table}, seed, epoch, offsets).map(self._parse).unbatch()
        wanted = tf.range(self.count, dtype=tf.int64) if offsets is None else offsets
        return self._windows(seed, epoch, wanted).batch(64).map(self._parse).unbatch()

    def order(self, seed: int, epoch: Any) -> tf.Tensor | None:
        """int64 [count]: the positions in the order of `records`; None if they are read window by window."""
        return ordered(self.count, seed, epoch) if self.size <= self.held else None

    def _parse(self, block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Parses a block of tf.train.Examples: several times faster than one by one."""
        keys = {key: tf.io.FixedLenFeature([], dtype) for key, dtype in self._fields.values()}
        parsed = tf.io.parse_example(block["serialized"], keys)
        return {"position": block["position"]} | {name: parsed[key] for name, (key, _) in self._fields.items()}

    def locate(self, position: int) -> str:
        """`FILE: record N`, counted from 0 within the file."""
        for shard in self.shards:
            if position < shard.take:
                return f"{shard.path}: record {shard.skip + position}"
            position -= shard.take
        raise IndexError(f"position must be below {self.count}, got {self.count + position}")

    @functools.cached_property
    def _table(self) -> tf.Tensor:
        """string [count]: every serialized record, read once, also when the first use is inside a graph."""
        with tf.init_scope():
            shards = tf.data.Dataset.range(len(self.shards))
            try:
                serialized = [block["serialized"] for block in shards.flat_map(self._read).batch(4096)]
            except tf.errors.DataLossError as error:
                raise UserError(f"a TFRecord file is damaged: {error.message}; prepare the dataset again") from None
            return tf.concat(serialized, axis=0) if serialized else tf.constant([], tf.string)

    @functools.cached_property
    def _columns(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Path, records to skip, records to take and first position of every shard."""
        paths, skips, takes = zip(*self.shards, strict=True)
        with tf.init_scope():
            lengths = tf.constant(takes, tf.int64)
            return tf.constant(paths), tf.constant(skips, tf.int64), lengths, tf.cumsum(lengths, exclusive=True)

    def _read(self, shard: tf.Tensor) -> tf.data.Dataset:
        """Records of one shard in file order."""
        path, skip, take, start = (tf.gather(column, shard) for column in self._columns)
        serialized = tf.data.TFRecordDataset(path, buffer_size=READ_BYTES).skip(skip).take(take)
        positions = tf.data.Dataset.range(start, start + take)
        return tf.data.Dataset.zip({"position": positions, "serialized": serialized})

    def _windows(self, seed: int | None, epoch: Any, offsets: tf.Tensor) -> tf.data.Dataset:
        """Shards in a drawn order, cut into windows; each is read whole and permuted exactly. No seed: file order.

        Dataset.shuffle would do nearly the same, but its order depends on tf.random.set_seed as well.
        """
        shard_bytes = max(1, self.size // len(self.shards))
        record_bytes = max(1, self.size // max(1, self.count))
        shards_per_window = max(1, self.window // shard_bytes)
        records_per_window = max(1, self.window // record_bytes)

        def wanted(start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
            """The offsets that lie in a run of the order, counted from its start."""
            inside = tf.logical_and(offsets >= start, offsets < start + length)
            return tf.boolean_mask(offsets, inside) - start

        def window(start: tf.Tensor, shards: tf.Tensor) -> tf.data.Dataset:
            def permute(number: tf.Tensor, block: dict[str, tf.Tensor]) -> tf.data.Dataset:
                positions = block["position"]
                length = tf.size(positions)
                order = tf.range(length) if seed is None else permutation(length, seed, epoch, positions[0])
                mine = wanted(start + number * records_per_window, tf.cast(length, tf.int64))
                chosen = tf.gather(order, mine)
                return tf.data.Dataset.from_tensor_slices({key: tf.gather(block[key], chosen) for key in block})

            records = tf.data.Dataset.from_tensor_slices(shards).flat_map(self._read)
            return records.batch(records_per_window).enumerate().flat_map(permute)

        order = ordered(len(self.shards), seed, epoch)
        lengths = tf.gather(self._columns[2], order)
        table = {"shard": order, "start": tf.cumsum(lengths, exclusive=True), "length": lengths}
        windows = tf.data.Dataset.from_tensor_slices(table).batch(shards_per_window)
        read = windows.filter(lambda run: tf.size(wanted(run["start"][0], tf.reduce_sum(run["length"]))) > 0)
        return read.flat_map(lambda run: window(run["start"][0], run["shard"]))


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
                raise UserError(f"{path} is cut off inside record {records}; copy or write the file again")
            records += 1
    return records
