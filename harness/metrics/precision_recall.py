"""Precision and recall of k-nearest-neighbour balls, arXiv:1904.06991."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import DTypeLike

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands, vectors
from zoo.console import UserError

BLOCK = 1024  # rows of the distance matrix in memory at a time


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, k: int = 3, dtype: DTypeLike = np.float64
) -> tuple[float, float]:
    """Precision and recall between vectors [N, D] and [M, D].

    Precision is the share of samples inside some reference ball, recall the share of reference vectors inside some
    sample ball; a ball reaches to the k-th nearest neighbour in its own set, itself not counted, border included.

    Args:
        dtype: in which squared distances are computed: float64, or float16 as ADM's evaluator does.
    """
    reference_radii = squared_radii(reference, k, dtype)
    sample_radii = squared_radii(samples, k, dtype)
    covered_samples = np.zeros(len(samples), bool)
    covered_reference = np.zeros(len(reference), bool)
    for rows, distances in _distance_blocks(reference, samples, dtype):
        covered_samples |= (distances <= reference_radii[rows, None]).any(axis=0)
        covered_reference[rows] = (distances <= sample_radii[None, :]).any(axis=1)
    return float(covered_samples.mean()), float(covered_reference.mean())


def squared_radii(features: np.ndarray, k: int, dtype: DTypeLike = np.float64) -> np.ndarray:
    """The squared distance [N] of each vector to its k-th nearest neighbour in the set [N, D]."""
    if len(features) <= k:
        raise ValueError(f"the {k}-th neighbour needs more than {k} vectors, got {len(features)}")
    radii = np.empty(len(features), dtype)
    for rows, distances in _distance_blocks(features, features, dtype):
        # Itself, at distance zero in exact arithmetic, is the nearest: hence index k and not k - 1.
        radii[rows] = np.partition(distances, k, axis=1)[:, k]
    return radii


def _distance_blocks(one: np.ndarray, other: np.ndarray, dtype: DTypeLike) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows and squared distances |x|^2 - 2 x.y + |y|^2 [block, M] of the rows to all others, in `dtype`."""
    one, other = one.astype(dtype), other.astype(dtype)
    norms = _squared_norms(other)
    for start in range(0, len(one), BLOCK):
        rows = slice(start, min(start + BLOCK, len(one)))
        product = _product(one[rows], other)
        distances = _squared_norms(one[rows])[:, None] - 2 * product + norms[None, :]
        yield rows, np.maximum(distances, 0)


def _squared_norms(features: np.ndarray) -> np.ndarray:
    return (features * features).sum(axis=1, dtype=features.dtype)


def _product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """x.y of all pairs; half precision is rounded after the sum, as hardware accumulates it."""
    if one.dtype == np.float16:
        return (one.astype(np.float32) @ other.astype(np.float32).T).astype(np.float16)
    return one @ other.T


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
        # Moving both sets by one vector changes no distance and keeps the rounding of |x|^2 - 2 x.y + |y|^2 small.
        centre = ours.mean(axis=0, dtype=np.float64)
        precision, recall = precision_recall(ours - centre, vectors(samples) - centre, self.k)
        return {"precision": precision, "recall": recall}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        setting = f"-{thousands(samples)} ({network}), k = {self.k}, at most {thousands(self.reference_count)} real"
        return {"precision": "precision" + setting, "recall": "recall" + setting}
