"""Decodes records in parallel and in order; corrupt ones are found by the gaps they leave and named, never fatal.

tf.data can pass over an element whose decoding fails, but not say which. Here every record carries its number in the
order that is read, so a jump in the numbers shows the failures, and only then are those records looked at one by one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data.shares import Share
from zoo.data.sources import Example, Record, Source

NAMED_IN_ERROR = 5  # corrupt records that an error message lists
Block = dict[str, tf.Tensor]


class Reader:
    """Reads the splits of one source through one `prepare` step and remembers the corrupt records."""

    def __init__(self, source: Source, prepare: Callable[[Record, str, tf.Tensor | None], Example]) -> None:
        """Takes a source and what is made of its records.

        Args:
            prepare: maps (record, split, key) to tensors of fixed shape inside tf.data; its errors mark corrupt
                records. What is drawn for an element of the stream depends on its key alone, int64 [2] of the seed and
                its number; None where nothing is drawn.
        """
        self.source = source
        self.prepare = prepare
        self._problems: dict[tuple[str, int], str] = {}

    @property
    def problems(self) -> list[str]:
        """`NAME: REASON` of every corrupt record met so far, each once."""
        return list(self._problems.values())

    def shuffled(self, split: str, seed: int, share: Share, size: int) -> tf.data.Dataset:
        """Blocks of a share of the endless stream, over epochs in the order of (seed, epoch).

        A corrupt record's place is taken by the next sound one of the stream, whoever's share that is in: the element
        of a number depends neither on where reading began nor on the workers. Blocks have `number` (int64 [N], places
        in the stream) and about `size` elements.

        An iterator over a stream without end is slow to give up: it takes its cancellation for one more unreadable
        record and passes over what is left.
        """
        self.require_one_sound(split)
        count = self.source.count(split)

        def records(epoch: tf.Tensor) -> tf.data.Dataset:
            return self.source.records(split, seed, epoch, share.offsets(epoch, count))

        def fill(last: tf.Tensor, block: Block) -> tuple[tf.Tensor, Block]:
            end = block["number"][-1]
            whole = tf.equal(end - last, tf.size(block["number"], tf.int64))
            filled = tf.cond(whole, lambda: block, lambda: self._mended(split, seed, share, last, block))
            if share.elements is not None:
                filled = {key: value[: share.elements - 1 - last] for key, value in filled.items()}
            return end, filled | {"number": share.number(filled["number"])}

        def key(element: tf.Tensor) -> tf.Tensor:
            return _key(seed, share.number(element))

        decoded = self._decoded(share.epochs(count).flat_map(records).enumerate(), split, key)
        if share.elements is not None:
            decoded = _with_end(decoded, share.elements)
        return decoded.batch(size).scan(tf.constant(-1, tf.int64), fill)

    def finite(self, split: str, seed: int | None, first: int, size: int, last: int | None = None) -> tf.data.Dataset:
        """Blocks of the prepared elements of one epoch from record number `first` on, corrupt ones left out.

        Args:
            last: record before which it ends; None goes on to the end.
        """
        count = self.source.count(split)
        end = max(first, count if last is None else min(last, count))
        records = self.source.records(split, seed, 0, tf.range(first, end, dtype=tf.int64))
        decoded = _with_end(self._decoded(records.enumerate(first), split), end)

        def name_missing(last: Any, numbers: Any) -> Any:
            for number in sorted(set(range(int(last) + 1, int(numbers[-1]))) - set(numbers.tolist())):
                self._name(split, seed, number)
            return numbers[-1]

        def drop(last: tf.Tensor, block: Block) -> tuple[tf.Tensor, Block]:
            numbers = block["number"]
            named = tf.cond(
                tf.equal(numbers[-1] - last, tf.size(numbers, tf.int64)),
                lambda: numbers[-1],
                lambda: tf.numpy_function(name_missing, [last, numbers], tf.int64),
            )
            with tf.control_dependencies([named]):
                kept = tf.reduce_sum(tf.cast(numbers < end, tf.int32))
            return numbers[-1], {key: value[:kept] for key, value in block.items()}

        return decoded.batch(size).scan(tf.constant(first - 1, tf.int64), drop)

    def require_one_sound(self, split: str) -> None:
        """Raises UserError if no record of the split can be read: an endless stream would look for ever."""
        prepared = self.source.records(split).map(lambda record: self.prepare(record, split, None))
        if any(True for _ in prepared.ignore_errors().take(1)):
            return
        count = self.source.count(split)
        for number in range(min(count, NAMED_IN_ERROR)):
            self._name(split, None, number)
        named = "; ".join(self.problems[:NAMED_IN_ERROR]) or "it is empty"
        raise UserError(f"no image of split '{split}' of {self.source.name} ({count:,} records) can be read: {named}")

    def _decoded(
        self, numbered: tf.data.Dataset, split: str, key: Callable[[tf.Tensor], tf.Tensor | None] = lambda _: None
    ) -> tf.data.Dataset:
        """Prepares (number, record) pairs in parallel, in order, without those that fail; `key` of each number."""
        prepared = numbered.map(
            lambda number, record: self.prepare(record, split, key(number)) | {"number": number},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return prepared.ignore_errors()

    def _mended(self, split: str, seed: int, share: Share, last: tf.Tensor, block: Block) -> Block:
        """A block of a share with the gaps after `last` filled. Leaves the graph: corrupt records are rare."""
        keys = sorted(block)

        def mend(last: Any, *values: Any) -> list[Any]:
            found = dict(zip(keys, values, strict=True))
            here = {int(element): row for row, element in enumerate(found["number"])}
            rows = []
            for element in range(int(last) + 1, int(found["number"][-1]) + 1):
                row = {key: found[key][here[element]] for key in keys} if element in here else None
                row = row or self._next_sound(split, seed, share.number(element))
                rows.append(row | {"number": np.int64(element)})
            return [np.stack([row[key] for row in rows]) for key in keys]

        values = [block[key] for key in keys]
        mended = tf.numpy_function(mend, [last, *values], [value.dtype for value in values])
        pairs = zip(keys, mended, values, strict=True)
        return {key: tf.ensure_shape(new, [None, *old.shape[1:]]) for key, new, old in pairs}

    def _next_sound(self, split: str, seed: int, number: int) -> dict[str, Any]:
        """The first element after `number`, which cannot be read, that can be."""
        while True:
            self._name(split, seed, number)
            number += 1
            try:
                found = self.prepare(self._record(split, seed, number), split, _key(seed, number))
            except (tf.errors.OpError, OSError, ValueError):
                continue
            return {key: value.numpy() for key, value in found.items()}

    def _record(self, split: str, seed: int | None, number: int) -> Record:
        """The undecoded record of one number of the stream."""
        epoch, offset = divmod(number, self.source.count(split))
        return next(iter(self.source.records(split, seed, epoch, tf.constant([offset], tf.int64))))

    def _name(self, split: str, seed: int | None, number: int) -> None:
        """Prepares a record that failed once more, to keep its name and what is wrong with it."""
        record = self._record(split, seed, number)
        position = int(record["position"])
        if (split, position) not in self._problems:
            name = self.source.locate(split, position)
            self._problems[split, position] = f"{name}: {self._fault(record, split)}"

    def _fault(self, record: Record, split: str) -> str:
        """First line of the error that preparing a record raises."""
        try:
            self.prepare(record, split, None)
        except (tf.errors.OpError, OSError, ValueError) as error:
            text = str(getattr(error, "message", error)).split("}} ")[-1].split(" [Op:")[0].strip()
            return text.splitlines()[0] if text else type(error).__name__
        return "could not be read at first, but could be later"


def _key(seed: int, number: Any) -> tf.Tensor:
    """int64 [2]: what the element of a number depends on."""
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64)])


def _with_end(decoded: tf.data.Dataset, end: int) -> tf.data.Dataset:
    """Adds an empty element of number `end`, so that failures at the end leave a gap as well."""
    zeros = {key: tf.zeros([1, *spec.shape], spec.dtype) for key, spec in decoded.element_spec.items()}
    return decoded.concatenate(tf.data.Dataset.from_tensor_slices(zeros | {"number": tf.constant([end], tf.int64)}))
