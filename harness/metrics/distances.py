"""Distances between all pairs of two large sets of vectors, compared exactly at the speed of float32 matrix products.

A distance is |x|^2 + |y|^2 - 2 x.y from a float32 product of centred vectors, with a bound of its error. What the bound
decides is decided; the few pairs that it leaves open are computed anew as the sum of squared differences in float64.
So whoever compares distances here gets what the definition in float64 gives, ties included.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 2048  # vectors a side of a product: large enough for the full rate, small enough for the cache
FEW = 2**17  # pairs of a block that are settled one by one; more are first looked at in float64
PAIRS = 256  # pairs whose differences are in memory at a time
FLOOR = 1e-30  # of the largest coordinate, squared: below it float32 has no digits


def squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """sum (x - y)^2 of rows [n, D] and rows [n, D], in float64: the definition."""
    difference = one.astype(np.float64) - other
    return (difference * difference).sum(axis=1)


class Vectors:
    """The distinct vectors of a set [N, D], with what products of blocks need.

    All that is in `half_squares` and in `Block` is half a squared distance times `unit`, a power of two: the factors
    that are saved are passes over memory.

    Args:
        rows: float vectors [N, D].
        centre: subtracted from all sets alike; it changes no distance and keeps the error small.
        scale: a power of two by which coordinates are multiplied; of all sets alike.

    Attributes:
        first: where each distinct vector [U] stands in `rows`.
        which: the distinct vector that each row [N] is.
        counts: how often each distinct vector occurs [U].
        half_squares: half of |x|^2 of the distinct vectors in float32 [U].
        tensors: their blocks in float32, for TensorFlow.
    """

    def __init__(self, rows: np.ndarray, centre: np.ndarray, scale: float):
        self.rows, self.centre, self.scale = rows, centre, scale
        self.first, self.which, self.counts = _distinct(rows)
        self.half_squares = np.empty(len(self.first))
        self.tensors: list[Any] = []
        for place in self.places:
            values = self.single(place)
            self.half_squares[place] = _half_squares(values)
            self.tensors.append(_tensor(values))

    def __len__(self) -> int:
        return len(self.first)

    @property
    def unit(self) -> float:
        """What half squared distances are multiplied by, together with the half."""
        return 0.5 * self.scale**2

    @functools.cached_property
    def places(self) -> list[slice]:
        """The blocks."""
        return [slice(start, min(start + BLOCK, len(self))) for start in range(0, len(self), BLOCK)]

    def single(self, place: slice) -> np.ndarray:
        """A block in float32 [b, D], centred and scaled."""
        rows = self.rows[self.first[place]]
        # The difference is rounded once, whatever the type: float32 minus float32 here, else from float64.
        return ((rows - self.centre.astype(rows.dtype)) * rows.dtype.type(self.scale)).astype(np.float32)

    def double(self, place: slice) -> np.ndarray:
        """A block in float64 [b, D], centred and scaled."""
        return (self.rows[self.first[place]].astype(np.float64) - self.centre) * self.scale

    def margins(self, half_squares: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
        """The share of vectors of these half squares [b] in the error of half a squared distance.

        For a sum of D products in any order it is at most D roundings of the sum of their sizes, and
        2 |x| |y| <= |x|^2 + |y|^2 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Rounding of
        the coordinates, of the squares, of the last two additions and of the definition itself adds fewer than 64.
        """
        roundings = (self.rows.shape[1] + 64) * float(np.finfo(dtype).eps) / 2
        return roundings * half_squares + FLOOR


def prepare(*sets: np.ndarray) -> list[Vectors]:
    """Sets of vectors [N, D] with one centre and one scale.

    Raises:
        ValueError: sets of unlike dimensions, or entries that are not finite numbers.
    """
    if len({rows.shape[1] for rows in sets}) > 1:
        raise ValueError(f"vectors of {' and '.join(str(rows.shape[1]) for rows in sets)} dimensions do not compare")
    sets = tuple(rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64) for rows in sets)
    centre = sets[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    largest = max(float(np.abs(rows[start : start + BLOCK] - centre).max()) for rows, start in _starts(sets))
    if not np.isfinite(largest):
        raise ValueError("vectors have NaN or infinite entries: their distances do not compare")
    scale = 2.0 ** -int(np.frexp(largest)[1]) if largest else 1.0
    return [Vectors(rows, centre, scale) for rows in sets]


def _starts(sets: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    for rows in sets:
        yield from ((rows, start) for start in range(0, len(rows), BLOCK))


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First places [U], index of the distinct vector of each row [N], counts [U].

    Copies would be ties with everything and with one another, each to be settled one by one.
    """
    places: dict[bytes, int] = {}
    first: list[int] = []
    which = np.empty(len(rows), np.int64)
    for row, vector in enumerate(rows):
        found = places.setdefault(hashlib.blake2b(vector.tobytes(), digest_size=16).digest(), len(first))
        if found == len(first):
            first.append(row)
        which[row] = found
    return np.array(first, np.int64), which, np.bincount(which, minlength=len(first))


def _half_squares(values: np.ndarray) -> np.ndarray:
    """Half of |x|^2 of rows [b, D], float64 [b]."""
    return 0.5 * np.einsum("nd,nd->n", values, values, dtype=np.float64)


def _tensor(values: np.ndarray) -> Any:
    """A block for TensorFlow's product, twice as fast as NumPy's; on the CPU, where float32 is never cut to TF32."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.constant(values)


def _product(one: Any, other: Any) -> np.ndarray:
    """x.y of two float32 blocks."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return np.asarray(tf.linalg.matmul(one, other, transpose_b=True))


@dataclass(frozen=True)
class Block:
    """Lower bounds of half squared distances [b, c] between a block of one set (rows) and of another (columns).

    Attributes:
        lower: the bounds; infinite where a vector meets itself.
        row_margins, column_margins: the upper bound is `lower` plus twice their sum.
        single: whether it is of float32, so that float64 would decide more.
    """

    rows: Vectors
    columns: Vectors
    row_place: slice
    column_place: slice
    lower: np.ndarray
    row_margins: np.ndarray
    column_margins: np.ndarray
    single: bool

    @staticmethod
    def of(rows: Vectors, columns: Vectors, row: int, column: int, single: bool = True) -> "Block":
        """The block of two places by their number."""
        here, there = rows.places[row], columns.places[column]
        dtype = np.float32 if single else np.float64
        if single:
            halves = [rows.half_squares[here], columns.half_squares[there]]
            product = _product(rows.tensors[row], columns.tensors[column])
        else:
            one, other = rows.double(here), columns.double(there)
            halves = [_half_squares(one), _half_squares(other)]
            product = one @ other.T
        row_margins, column_margins = rows.margins(halves[0], dtype), columns.margins(halves[1], dtype)
        lower = (halves[0] - row_margins).astype(dtype)[:, None] - product
        lower += (halves[1] - column_margins).astype(dtype)
        if rows is columns and row == column:
            np.fill_diagonal(lower, np.inf)
        return Block(rows, columns, here, there, lower, row_margins, column_margins, single)

    @property
    def transposed(self) -> "Block":
        """The same with rows and columns exchanged."""
        return Block(
            self.columns,
            self.rows,
            self.column_place,
            self.row_place,
            self.lower.T,
            self.column_margins,
            self.row_margins,
            self.single,
        )

    @property
    def finer(self) -> "Block":
        """The same from a product in float64."""
        row, column = self.row_place.start // BLOCK, self.column_place.start // BLOCK
        return Block.of(self.rows, self.columns, row, column, single=False)

    def within(self, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pairs that may be as near as `reach` [b] of their row."""
        kind = np.finfo(self.lower.dtype)
        limits = np.minimum(np.nextafter(reach.astype(kind.dtype), kind.dtype.type(np.inf)), kind.max)
        if self.lower.flags.c_contiguous:
            row, column = np.divmod(np.flatnonzero(self.lower <= limits[:, None]), self.lower.shape[1])
        else:  # a transposed one: read in the order of memory
            column, row = np.divmod(np.flatnonzero(limits >= self.lower.T), self.lower.shape[0])
        return row, column

    def upper(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Upper bounds of pairs."""
        return self.lower[row, column] + 2 * (self.row_margins[row] + self.column_margins[column])

    def exact(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Squared distances of pairs by the definition, not scaled."""
        one = self.rows.first[row + self.row_place.start]
        other = self.columns.first[column + self.column_place.start]
        return exact_distances(self.rows.rows, one, self.columns.rows, other)


def exact_distances(rows: np.ndarray, row: np.ndarray, columns: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Squared distances of rows[row] and columns[column] by the definition, a few pairs in memory at a time."""
    found = np.empty(len(row))
    for start in range(0, len(row), PAIRS):
        part = slice(start, start + PAIRS)
        found[part] = squared_distances(rows[row[part]], columns[column[part]])
    return found
