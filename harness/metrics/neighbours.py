"""The nearest neighbours of vectors, exactly, from blocks of distances."""

import numpy as np

from harness.metrics.distances import FEW, Block, Vectors, exact_distances, prepare

SAMPLE = 256  # columns of the first block from which the first limits are taken
PENDING = 8  # pairs a row that wait before the list is shortened
CROWDED = 64  # pairs a row that bounds cannot tell apart: they are settled


class Candidates:
    """For a block of rows: which columns may be among the `k` nearest of those seen so far.

    Attributes:
        reach: half squared distances [b] within which k columns lie for certain.
    """

    def __init__(self, count: int, k: int):
        self.k = k
        self.reach = np.full(count, np.inf)
        self._row, self._column = np.empty(0, np.int64), np.empty(0, np.int64)
        self._lower, self._upper = np.empty(0), np.empty(0)
        self._settled = np.empty(0, bool)
        self._limit = PENDING * count

    def add(self, block: Block) -> None:
        """Columns that were not seen before."""
        if np.isinf(self.reach).all():
            self._limit_by(block, SAMPLE)
        row, column = block.within(self.reach)
        if len(row) > FEW and block.single:
            block = block.finer
            self._limit_by(block, block.lower.shape[1])
            row, column = block.within(self.reach)
        self._row = np.concatenate([self._row, row])
        self._column = np.concatenate([self._column, column + block.column_place.start])
        self._lower = np.concatenate([self._lower, block.lower[row, column]])
        self._upper = np.concatenate([self._upper, block.upper(row, column)])
        self._settled = np.concatenate([self._settled, np.zeros(len(row), bool)])
        if len(self._row) > self._limit:
            self._shorten()
            if len(self._row) > CROWDED * len(self.reach):
                self._settle(block.rows, block.row_place, block.columns)
                self._shorten()
            self._limit = 2 * len(self._row) + PENDING * len(self.reach)

    def settled(self, rows: Vectors, place: slice, columns: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and squared distance of all candidates, by row and then from near to far."""
        self._shorten()
        self._settle(rows, place, columns)
        distances = self._lower / rows.unit
        order = np.lexsort((self._column, distances, self._row))
        return self._row[order], self._column[order], distances[order]

    def _limit_by(self, block: Block, width: int) -> None:
        """Reaches from some columns of one block."""
        lower = block.lower[:, :width]
        if lower.shape[1] >= self.k:
            nearest = np.partition(np.ascontiguousarray(lower), self.k - 1, axis=1)[:, self.k - 1].astype(np.float64)
            margins = block.row_margins + block.column_margins[:width].max()
            self.reach = np.minimum(self.reach, nearest + 2 * margins)

    def _shorten(self) -> None:
        """New reaches from all candidates; without those that are beyond them."""
        order = np.lexsort((self._upper, self._row))
        rows = self._row[order]
        starts = np.searchsorted(rows, np.arange(len(self.reach)))
        last = starts + self.k - 1
        enough = last < np.append(starts[1:], len(rows))
        uppers = self._upper[order][last[enough]]
        self.reach[enough] = np.minimum(self.reach[enough], uppers)
        self._keep(self._lower <= self.reach[self._row])

    def _settle(self, rows: Vectors, place: slice, columns: Vectors) -> None:
        """Distances by the definition in the place of bounds."""
        open_ = np.flatnonzero(~self._settled)
        one, other = rows.first[self._row[open_] + place.start], columns.first[self._column[open_]]
        exact = exact_distances(rows.rows, one, columns.rows, other) * rows.unit
        self._lower[open_] = self._upper[open_] = exact
        self._settled[open_] = True

    def _keep(self, chosen: np.ndarray) -> None:
        self._row, self._column = self._row[chosen], self._column[chosen]
        self._lower, self._upper = self._lower[chosen], self._upper[chosen]
        self._settled = self._settled[chosen]


def radii(vectors: Vectors, k: int) -> np.ndarray:
    """The squared distance [U] of each distinct vector to its k-th nearest neighbour; a copy of it is one at zero."""
    places = vectors.places
    found = [Candidates(place.stop - place.start, k) for place in places]
    for row in range(len(places)):
        # Distances within a set are symmetric: a block serves its rows and its columns.
        for column in range(row, len(places)):
            block = Block.of(vectors, vectors, row, column)
            found[row].add(block)
            if column > row:
                found[column].add(block.transposed)
    return np.concatenate(
        [_radii_of(candidates, vectors, place, k) for candidates, place in zip(found, places, strict=True)]
    )


def _radii_of(candidates: Candidates, vectors: Vectors, place: slice, k: int) -> np.ndarray:
    """The radii of one block: neighbours count as often as they occur, and its own copies first."""
    row, column, distances = candidates.settled(vectors, place, vectors)
    copies = vectors.counts[place] - 1
    found = np.zeros(len(copies))
    starts = np.searchsorted(row, np.arange(len(copies) + 1))
    for each in np.flatnonzero(copies < k):
        part = slice(starts[each], starts[each + 1])
        so_far = copies[each] + np.cumsum(vectors.counts[column[part]])
        found[each] = distances[part][np.searchsorted(so_far, k)]
    return found


def nearest(queries: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of `others` [M, D] of each query [N, D], from near to far.

    Returns:
        Indices [N, k] into `others` and squared distances [N, k], float64. Of equal distances the first comes first; of
        equal vectors only the first counts.
    """
    ours, theirs = prepare(queries, others)
    if len(theirs) < k:
        raise ValueError(f"{k} neighbours need at least {k} different vectors, got {len(theirs)}")
    indices, squared = np.empty((len(ours), k), np.int64), np.empty((len(ours), k))
    for number, place in enumerate(ours.places):
        candidates = Candidates(place.stop - place.start, k)
        for column in range(len(theirs.places)):
            candidates.add(Block.of(ours, theirs, number, column))
        row, column_of, distances = candidates.settled(ours, place, theirs)
        starts = np.searchsorted(row, np.arange(place.stop - place.start))
        chosen = starts[:, None] + np.arange(k)
        indices[place], squared[place] = theirs.first[column_of[chosen]], distances[chosen]
    return indices[ours.which], squared[ours.which]
