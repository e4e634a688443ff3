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
        captions: str | None = None,
    ) -> None:
        """Describes files of tf.train.Example; nothing is read yet.

        Args:
            shards: the files in order.
            size: bytes of all records together.
            image: key of the encoded picture.
            label: key of the class number; None if there is none.
            held: largest size that is kept in memory, in bytes.
            window: bytes that are permuted together if it is not.
            captions: key of the captions, one or several; None if there are none.
        """
        self.shards = shards
        self.size = size
        self._fields = {"image": (image, tf.io.FixedLenFeature([], tf.string))}
        if label is not None:
            self._fields["label"] = (label, tf.io.FixedLenFeature([], tf.int64))
        if captions is not None:
            self._fields["captions"] = (captions, tf.io.RaggedFeature(tf.string))
        self.count = sum(shard.take for shard in shards)
        self.held = held
        self.window = window

    def records(self, seed: int | None, epoch: Any, offsets: tf.Tensor | None = None) -> tf.data.Dataset:
        """Records {position: int64 [], image: string [] (encoded), label: int64 [], captions: string []} of one epoch.

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
        return {"position": block["position"]} | self._fields_of(block["serialized"], tuple(self._fields))

    def _fields_of(self, serialized: tf.Tensor, names: tuple[str, ...]) -> dict[str, tf.Tensor]:
        """Some fields of serialized tf.train.Examples [N]; of several captions each has a line."""
        fields = {name: self._fields[name] for name in names}
        parsed = tf.io.parse_example(serialized, dict(fields.values()))
        found = {name: parsed[key] for name, (key, _) in fields.items()}
        if "captions" in found:
            found["captions"] = tf.strings.reduce_join(one_line(found["captions"]), axis=-1, separator="\n")
        return found

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of every record in file order."""
        blocks = tf.data.Dataset.range(len(self.shards)).flat_map(self._read).batch(256)
        texts = blocks.map(lambda block: self._fields_of(block["serialized"], ("captions",))["captions"])
        return [tuple(text.decode().split("\n")) for block in texts.prefetch(2).as_numpy_iterator() for text in block]

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


def one_line(texts: Any) -> Any:
    """Texts (string tensor, ragged or not) without line breaks, nor spaces at their ends."""
    return tf.strings.strip(tf.strings.regex_replace(texts, r"\s+", " "))


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
