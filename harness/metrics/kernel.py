"""Kernel distance: unbiased squared MMD with the cubic kernel (x.y / d + 1)^3, KID, arXiv:1801.01401."""

from collections.abc import Mapping

import numpy as np

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands, vectors
from zoo.console import UserError

BLOCK = 2048  # rows of the kernel matrix in memory at a time


def kernel_distance(reference: np.ndarray, samples: np.ndarray) -> float:
    """The unbiased estimate from equally many vectors [m, D], in float64 and in blocks.

    mean_(i != j) k(x_i, x_j) + mean_(i != j) k(y_i, y_j) - 2 mean k(x_i, y_j).
    """
    if reference.shape != samples.shape:
        raise ValueError(f"both sides need equally many vectors, got {reference.shape} and {samples.shape}")
    count = len(reference)
    one, other = reference.astype(np.float64), samples.astype(np.float64)
    within = _kernel_sum(one, one) - _kernel_diagonal(one) + _kernel_sum(other, other) - _kernel_diagonal(other)
    return float(within / (count * (count - 1)) - 2 * _kernel_sum(one, other) / count**2)


def kernel_distance_of_all(reference: np.ndarray, samples: np.ndarray) -> float:
    """The estimate from one subset: the first min(N, M) vectors of each side. No randomness."""
    count = min(len(reference), len(samples))
    return kernel_distance(reference[:count], samples[:count])


def kernel_distances(reference: np.ndarray, samples: np.ndarray, subsets: int, size: int, seed: int) -> np.ndarray:
    """The estimates [subsets] from random subsets of `size` vectors of each side.

    Both index sets come from one legacy generator, samples first, without replacement: torch-fidelity and clean-fid
    draw so, and with their seeds these are their subsets.
    """
    generator = np.random.RandomState(seed)
    estimates = []
    for _ in range(subsets):
        chosen = samples[generator.choice(len(samples), size, replace=False)]
        estimates.append(kernel_distance(reference[generator.choice(len(reference), size, replace=False)], chosen))
    return np.array(estimates)


def standard_error(estimates: np.ndarray, size: int, count: int) -> float:
    """The standard error of the mean of estimates from random subsets of `size` out of `count` vectors.

    The deviation over subsets is that of an estimate from `size` vectors, and neither shrinks with the number of
    subsets nor with that of images. The delete-d jackknife (Shao and Wu 1989) makes of it the error of an estimate from
    all of them: size / (count - size) of the variance; having drawn finitely many subsets adds its own share.
    """
    if size >= count:
        raise ValueError(f"subsets must leave out some of the {count} vectors, got {size}")
    return float(np.sqrt(estimates.var() * (size / (count - size) + 1 / len(estimates))))


def _kernel_sum(one: np.ndarray, other: np.ndarray) -> float:
    """The sum of (x.y / D + 1)^3 over all pairs."""
    total = 0.0
    for start in range(0, len(one), BLOCK):
        inner = one[start : start + BLOCK] @ other.T / one.shape[1] + 1
        total += float((inner * inner * inner).sum())
    return total


def _kernel_diagonal(one: np.ndarray) -> float:
    """The sum of (x.x / D + 1)^3."""
    return float((((one * one).sum(axis=1) / one.shape[1] + 1) ** 3).sum())


class KID(Metric):
    """Mean of the kernel distance over random subsets, with its standard error and the deviation over the subsets.

    `kid_std` is the deviation over subsets, which torch-fidelity prints: how far one subset is from another.
    `kid_error` is the standard error of `kid`: how far it may be from that of other images of the same two kinds.

    Args:
        subsets: number of subsets.
        subset_size: vectors of each side in a subset; fewer where a side has fewer.
        seed: of the subsets.
    """

    needs = frozenset({"pooled"})

    def __init__(self, subsets: int = 100, subset_size: int = 1000, seed: int = 0):
        if subsets < 1:
            raise ValueError(f"subsets must be positive, got {subsets}")
        if subset_size < 2:
            raise ValueError(f"subset_size must be at least 2, got {subset_size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if min(samples.count, real.reference.count) < 2:
            raise UserError(f"KID needs at least 2 images, got {samples.count} samples and {real.reference.count} real")

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        one, other = vectors(reference), vectors(samples)
        count = min(len(one), len(other))
        size = min(self.subset_size, count)
        estimates = kernel_distances(one, other, self.subsets, size, self.seed)
        found = {"kid": float(estimates.mean()), "kid_std": float(estimates.std())}
        half = count // 2
        if size <= half and self.subsets > 1:
            found["kid_error"] = standard_error(estimates, size, count)
        elif half >= 2 and self.subsets > 1:
            # Subsets of nearly everything hardly differ: their error is judged from halves.
            halves = kernel_distances(one, other, self.subsets, half, self.seed)
            found["kid_error"] = standard_error(halves, half, count)
        return found

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        score = f"KID-{thousands(samples)} ({network})"
        subsets = f"{self.subsets} subsets of {min(self.subset_size, samples)}"
        return {
            "kid": f"{score}, {subsets}",
            "kid_std": f"{score}, deviation over {subsets}",
            "kid_error": f"{score}, standard error of the mean over {subsets}",
        }
