"""Decodes records in parallel and in order; corrupt ones are found by the gaps they leave and named, never fatal.

tf.data can pass over an element whose decoding fails, but not say which. Here every record carries its number in the
order that is read, so a jump in the numbers shows the failures, and only then are those records looked at one by one.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from zoo.console import UserError
from zoo.data.sources import Example, Record, Source

SPARE = 5_000  # records after the last element that may fill its place and those before it, if they are corrupt
NAMED_IN_ERROR = 5  # corrupt records that an error message lists
Block = dict[str, tf.Tensor]


class Reader:
    """Reads the splits of one source through one `prepare` step and remembers the corrupt records."""

    def __init__(self, source: Source, prepare: Callable[[Record, str], Example]) -> None:
        """Takes a source and what is made of its records.

        Args:
            prepare: maps (record, split) to tensors of fixed shape inside tf.data; its errors mark corrupt records.
        """
        self.source = source
        self.prepare = prepare
        self._problems: dict[tuple[str, int], str] = {}

    @property
    def problems(self) -> list[str]:
        """`NAME: REASON` of every corrupt record met so far, each once."""
        return list(self._problems.values())

    def endless(self, split: str, seed: int, first: int, size: int, count: int | None = None) -> tf.data.Dataset:
        """Blocks of prepared elements from number `first` on, without end, over epochs in the order of (seed, epoch).

        `count` says how many elements will be asked for: more than that follow, but not for ever. An iterator that is
        given up takes its cancellation for one more unreadable record and passes over what is left of the stream,
        which would take a minute of an endless one.

        A corrupt record's place is taken by the next sound one: the element of a number never depends on where reading
        began. Blocks have `number` (int64 [N], consecutive) and about `size` elements.
        """
        self._require_one_sound(split)
        epoch, offset = divmod(first, self.source.count(split))
        epochs = tf.data.Dataset.range(epoch, tf.int64.max)
        records = epochs.flat_map(lambda number: self.source.records(split, seed, number)).skip(offset)
        if count is not None:
            records = records.take(count + SPARE)

        def fill(last: tf.Tensor, block: Block) -> tuple[tf.Tensor, Block]:
            numbers = block["number"]
            gaps = _gaps(last, numbers)
            with tf.control_dependencies([self._note(split, seed, last, numbers, gaps)]):
                filled = {key: tf.repeat(value, gaps, axis=0) for key, value in block.items()}
            return numbers[-1], filled | {"number": tf.range(last + 1, numbers[-1] + 1)}

        decoded = self._decoded(records.enumerate(first), split).batch(size)
        return decoded.scan(tf.constant(first - 1, tf.int64), fill)

    def finite(self, split: str, seed: int | None, first: int, size: int) -> tf.data.Dataset:
        """Blocks of the prepared elements of one epoch from record number `first` on, corrupt ones left out."""
        end = max(first, self.source.count(split))
        decoded = self._decoded(self.source.records(split, seed, 0).enumerate().skip(first), split)

        def drop(last: tf.Tensor, block: Block) -> tuple[tf.Tensor, Block]:
            numbers = block["number"]
            with tf.control_dependencies([self._note(split, seed, last, numbers, _gaps(last, numbers))]):
                kept = tf.reduce_sum(tf.cast(numbers < end, tf.int32))
            return numbers[-1], {key: value[:kept] for key, value in block.items()}

        # An empty element follows the last record, so that failures at the end leave a gap as well.
        zeros = {key: tf.zeros([1, *spec.shape], spec.dtype) for key, spec in decoded.element_spec.items()}
        sentinel = tf.data.Dataset.from_tensor_slices(zeros | {"number": tf.constant([end], tf.int64)})
        return decoded.concatenate(sentinel).batch(size).scan(tf.constant(first - 1, tf.int64), drop)

    def _decoded(self, numbered: tf.data.Dataset, split: str) -> tf.data.Dataset:
        """Prepares (number, record) pairs in parallel, in order, without those that fail."""
        prepared = numbered.map(
            lambda number, record: self.prepare(record, split) | {"number": number},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return prepared.ignore_errors()

    def _note(self, split: str, seed: int | None, last: tf.Tensor, numbers: tf.Tensor, gaps: tf.Tensor) -> tf.Tensor:
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
        """Prepares the missing records once more, one by one, to keep their names and what is wrong with them."""
        count = self.source.count(split)
        for number in sorted(set(range(start, max(present))) - present):
            epoch, offset = divmod(number, count)
            for record in self.source.records(split, seed, epoch).skip(offset).take(1):
                position = int(record["position"])
                if (split, position) not in self._problems:
                    name = self.source.locate(split, position)
                    self._problems[split, position] = f"{name}: {self._fault(record, split)}"

    def _fault(self, record: Record, split: str) -> str:
        """First line of the error that preparing a record raises."""
        try:
            self.prepare(record, split)
        except (tf.errors.OpError, OSError, ValueError) as error:
            text = str(getattr(error, "message", error)).split("}} ")[-1].split(" [Op:")[0].strip()
            return text.splitlines()[0] if text else type(error).__name__
        return "could not be read at first, but could be later"

    def _require_one_sound(self, split: str) -> None:
        """Raises UserError if no record of the split can be read: an endless stream would look for ever."""
        prepared = self.source.records(split).map(lambda record: self.prepare(record, split))
        if any(True for _ in prepared.ignore_errors().take(1)):
            return
        count = self.source.count(split)
        self._name_missing(split, None, 0, {min(count, NAMED_IN_ERROR)})
        named = "; ".join(self.problems[:NAMED_IN_ERROR]) or "it is empty"
        raise UserError(f"no image of split '{split}' of {self.source.name} ({count:,} records) can be read: {named}")


def _gaps(last: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """int64 [N]: steps from each number to the one before it, 1 where no record is missing."""
    return numbers - tf.concat([last[None], numbers[:-1]], axis=0)
