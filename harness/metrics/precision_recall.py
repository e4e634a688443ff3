"""Precision and recall of k-nearest-neighbour balls, arXiv:1904.06991."""

from collections.abc import Iterator, Mapping

import numpy as np

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.distances import FEW, Block, Vectors, prepare
from harness.metrics.metric import Evidence, Metric, thousands, vectors
from harness.metrics.neighbours import radii
from zoo.console import UserError

HALF_BLOCK = 1024  # rows of the distance matrix in half precision in memory at a time


def precision_recall(reference: np.ndarray, samples: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Precision and recall between vectors [N, D] and [M, D]: every decision is that of the definition in float64.

    Precision is the share of samples inside some reference ball, recall the share of reference vectors inside some
    sample ball; a ball reaches to the k-th nearest neighbour in its own set, itself not counted, border included.
    """
    for rows in (reference, samples):
        _check_count(len(rows), k)
    real, generated = prepare(reference, samples)
    precision = Coverage(real, radii(real, k), len(generated))
    recall = Coverage(generated, radii(generated, k), len(real))
    for row in range(len(real.places)):
        for column in range(len(generated.places)):
            block = Block.of(real, generated, row, column)
            precision.add(block)
            recall.add(block.transposed)
    return precision.share(generated.counts), recall.share(real.counts)


def squared_radii(features: np.ndarray, k: int) -> np.ndarray:
    """The squared distance [N] of each vector to its k-th nearest neighbour in the set [N, D], float64."""
    _check_count(len(features), k)
    (points,) = prepare(features)
    return radii(points, k)[points.which]


def _check_count(count: int, k: int) -> None:
    if count <= k:
        raise ValueError(f"the {k}-th neighbour needs more than {k} vectors, got {count}")


class Coverage:
    """Which points lie in some ball.

    Args:
        balls: their centres.
        squared: their squared radii [U].
        points: number of points.
    """

    def __init__(self, balls: Vectors, squared: np.ndarray, points: int):
        self.squared, self.reach = squared, squared * balls.unit
        self.inside = np.zeros(points, bool)

    def add(self, block: Block) -> None:
        """The balls of a block's rows, the points of its columns."""
        squared, reach = self.squared[block.row_place], self.reach[block.row_place]
        inside = self.inside[block.column_place]  # a view
        row, column = self._open(*block.within(reach), inside)
        inside[column[block.upper(row, column) <= reach[row]]] = True
        row, column = self._open(row, column, inside)
        if len(row) > FEW and block.single:
            self.add(block.finer)
        else:
            inside[column[block.exact(row, column) <= squared[row]]] = True

    def share(self, counts: np.ndarray) -> float:
        """Of all points, each counted as often as it occurs."""
        return float(counts[self.inside].sum() / counts.sum())

    @staticmethod
    def _open(row: np.ndarray, column: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        open_ = ~inside[column]
        return row[open_], column[open_]


# ---- in half precision, as ADM's evaluator decides


def half_precision_recall(reference: np.ndarray, samples: np.ndarray, k: int = 3) -> tuple[float, float]:
    """The same with squared distances in float16, as ADM's evaluator computes them; some decisions differ."""
    reference_radii, sample_radii = _half_radii(reference, k), _half_radii(samples, k)
    covered_samples = np.zeros(len(samples), bool)
    covered_reference = np.zeros(len(reference), bool)
    for rows, distances in _half_distances(reference, samples):
        covered_samples |= (distances <= reference_radii[rows, None]).any(axis=0)
        covered_reference[rows] = (distances <= sample_radii[None, :]).any(axis=1)
    return float(covered_samples.mean()), float(covered_reference.mean())


def _half_radii(features: np.ndarray, k: int) -> np.ndarray:
    """[N], float16. Itself, at distance zero in exact arithmetic, is the nearest: hence index k and not k - 1."""
    _check_count(len(features), k)
    blocks = [np.partition(distances, k, axis=1)[:, k] for _, distances in _half_distances(features, features)]
    return np.concatenate(blocks)


def _half_distances(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows and squared distances |x|^2 - 2 x.y + |y|^2 [block, M] of the rows to all others, float16.

    Products are rounded after the sum, as hardware accumulates them.
    """
    one, other = one.astype(np.float16), other.astype(np.float16)
    norms = (other * other).sum(axis=1, dtype=np.float16)
    for start in range(0, len(one), HALF_BLOCK):
        rows = slice(start, min(start + HALF_BLOCK, len(one)))
        product = (one[rows].astype(np.float32) @ other.astype(np.float32).T).astype(np.float16)
        squares = (one[rows] * one[rows]).sum(axis=1, dtype=np.float16)
        yield rows, np.maximum(squares[:, None] - 2 * product + norms[None, :], 0)


class PrecisionRecall(Metric):
    """Precision and recall between at most `reference_count` real images and all samples.

    Args:
        k: neighbours that a ball reaches to.
        reference_count: real images drawn from the reference; 10,000 in ADM. Recall depends on it.
        seed: of the draw.
    """

    needs = frozenset({"pooled"})

    def __init__(self, k: int = 3, reference_count: int = 10_000, seed: int = 0):
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        if reference_count <= k:
            raise ValueError(f"reference_count must be larger than k = {k}, got {reference_count}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.k, self.reference_count, self.seed = k, reference_count, seed

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if min(samples.count, real.reference.count) <= self.k:
            raise UserError(
                f"precision and recall with k = {self.k} need more than {self.k} images on each side, "
                f"got {samples.count} samples and {real.reference.count} real ones"
            )

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        ours = vectors(reference)
        if len(ours) > self.reference_count:
            ours = ours[np.random.default_rng(self.seed).permutation(len(ours))[: self.reference_count]]
        precision, recall = precision_recall(ours, vectors(samples), self.k)
        return {"precision": precision, "recall": recall}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        setting = f"-{thousands(samples)} ({network}), k = {self.k}, at most {thousands(self.reference_count)} real"
        return {"precision": "precision" + setting, "recall": "recall" + setting}
