"""Small splits kept in memory as decoded pictures: an epoch then costs a gather, and gives the same pixels."""

import tensorflow as tf

from zoo.data.reading import Block, Reader
from zoo.data.shares import Share
from zoo.data.sources import Source

DECODED_BYTES = 512 * 2**20  # pictures of a split that take more are decoded anew every epoch
ENCODED_BYTES = 256 * 2**20  # likewise, because the first step would wait for seconds until all are decoded


def fits(source: Source, split: str, share: Share, picture_bytes: int) -> bool:
    """Whether holding a split pays: an epoch or more is asked for, and all of it is small and quick to decode."""
    count = source.count(split)
    if share.stop is not None and share.stop - share.first < count:
        return False
    if count * picture_bytes > DECODED_BYTES or source.order(split, 0, 0) is None:
        return False
    return source.encoded_bytes(split) <= ENCODED_BYTES


class HeldPictures:
    """Every sound picture of one split, decoded once with all processors."""

    def __init__(self, reader: Reader, split: str, size: int) -> None:
        """Decodes the split in blocks of `size`."""
        reader.require_one_sound(split)
        with tf.init_scope():
            blocks = list(reader.finite(split, None, 0, size))
            columns = {key: tf.concat([block[key] for block in blocks], axis=0) for key in blocks[0]}
        self._source, self._split = reader.source, split
        self._sound = columns.pop("number")  # int64 [n]: position of each picture
        self._columns = columns

    def shuffled(self, seed: int, share: Share, size: int) -> tf.data.Dataset:
        """Blocks as `Reader.shuffled` gives them, of exactly `size` elements but for the last."""
        count = self._source.count(self._split)

        def rows(epoch: tf.Tensor) -> Block:
            offsets = share.offsets(epoch, count)
            first = tf.cast(epoch, tf.int64) * count
            return {"row": tf.gather(self._rows(seed, epoch), offsets), "number": offsets + first}

        def pictures(block: Block) -> Block:
            return {key: tf.gather(column, block["row"]) for key, column in self._columns.items()} | {
                "number": block["number"]
            }

        numbered = share.epochs(count).map(rows).rebatch(size)
        return numbered.map(pictures, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _rows(self, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        """int64 [count]: the row of the picture at every place of an epoch's order."""
        count = self._source.count(self._split)
        if self._sound.shape[0] == count:
            return self._source.order(self._split, seed, epoch)
        # The place of a corrupt picture is taken by the next sound one, be it in the next epoch.
        orders = tf.concat([self._source.order(self._split, seed, epoch + later) for later in (0, 1)], axis=0)
        row = tf.scatter_nd(self._sound[:, None], tf.range(self._sound.shape[0], dtype=tf.int64) + 1, [count])
        rows = tf.gather(row, orders) - 1  # -1 where corrupt
        sound = tf.where(rows >= 0)[:, 0]
        following = tf.gather(sound, tf.searchsorted(sound, tf.range(count, dtype=tf.int64)))
        return tf.gather(rows, following)
