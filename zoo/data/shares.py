"""Which elements of the endless training stream one worker reads: arithmetic on element numbers, nothing else."""

from typing import Any, NamedTuple

import tensorflow as tf


class Share(NamedTuple):
    """Rows of one worker in every global batch; the elements of the share count on from 0 in stream order.

    Global batch k holds elements first + k * batch .. first + (k + 1) * batch - 1. Of its rows, worker i of n has
    i * batch / n .. (i + 1) * batch / n - 1.
    """

    first: int  # number of the first element in the stream
    stop: int | None = None  # number after the last one; None: without end
    batch: int = 1  # elements of a global batch
    worker: int = 0
    workers: int = 1  # divides the batch

    @property
    def rows(self) -> int:
        """Rows of the worker in a global batch."""
        return self.batch // self.workers

    @property
    def elements(self) -> int | None:
        """Elements of the share; None: without end. A last batch that is not full is left out."""
        return None if self.stop is None else max(0, self.stop - self.first) // self.batch * self.rows

    def number(self, element: Any) -> Any:
        """Number in the stream of an element of the share; integers or int64 tensors."""
        return self.first + element // self.rows * self.batch + self.worker * self.rows + element % self.rows

    def epochs(self, count: int) -> tf.data.Dataset:
        """int64 []: the epochs of `count` records that the stream goes through."""
        last = tf.int64.max if self.stop is None else -(-self.stop // count)
        return tf.data.Dataset.range(self.first // count, last)

    def offsets(self, epoch: Any, count: int) -> tf.Tensor:
        """int64 [K]: places in an epoch's order of `count` records that belong to the share, ascending."""
        numbers = tf.range(count, dtype=tf.int64) + tf.cast(epoch, tf.int64) * count
        mine = tf.logical_and(numbers >= self.first, (numbers - self.first) % self.batch // self.rows == self.worker)
        if self.stop is not None:
            whole = self.stop - (self.stop - self.first) % self.batch  # without a last batch that is not full
            mine = tf.logical_and(mine, numbers < whole)
        return tf.where(mine)[:, 0]
