"""Frechet distance between two Gaussians: FID, arXiv:1706.08500, equation 6."""

from collections.abc import Mapping

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from harness.metrics.statistics import Moments
from zoo.console import UserError

PROMISE = 1e-9  # of the sum of the traces: an estimated error up to this is as good as none
DETERMINANT = 0.05  # largest deviation of a log-determinant at which the eigenvalues are taken for right


def frechet_distance(
    reference_mean: np.ndarray, reference_covariance: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means [D] and covariances [D, D], in float64."""
    if reference_mean.shape != mean.shape:
        raise ValueError(f"features of {len(reference_mean)} and {len(mean)} dimensions cannot be compared")
    difference = reference_mean.astype(np.float64) - mean.astype(np.float64)
    first = reference_covariance.astype(np.float64, copy=False)
    second = covariance.astype(np.float64, copy=False)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * trace_of_root(first, second))


def trace_of_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr (S1 S2)^(1/2) of two symmetric positive semi-definite matrices [D, D].

    With S1 = L L^T the product has the eigenvalues of the symmetric L^T S2 L, which are quickest to have. Where
    rounding may have spoilt the small ones, they are the squares of the singular values of A^T B with S1 = A A^T and
    S2 = B B^T, whose sum loses nothing; with fewer samples than dimensions the factors are narrow, and quicker yet.
    """
    traces = float(np.trace(first) + np.trace(second))
    one = _cholesky(first)
    if one is None:
        return trace_of_root_by_factors(_pivoted_factor(first), _pivoted_factor(second), traces)
    # L^T S2 L in D^3 operations, not in the 4 D^3 of two full products. A symmetric matrix is its own transpose, and
    # the transpose of a C-ordered array is what LAPACK reads without a copy.
    product, _ = lapack.dsygst(second.T, one, itype=2, lower=1)
    eigenvalues = linalg.eigvalsh(product, lower=True, overwrite_a=True, check_finite=False)
    if _error_of_roots(eigenvalues) <= PROMISE * traces:
        return _sum_of_roots(eigenvalues)
    other = _cholesky(second)
    if other is None:
        return trace_of_root_by_factors(one, _pivoted_factor(second), traces)
    if _has_determinant(eigenvalues, 2 * float(np.log(np.diag(one) * np.diag(other)).sum())):
        return _sum_of_roots(eigenvalues)
    return _sum_of_singular_values(one.T @ other)


def trace_of_root_by_factors(one: np.ndarray, other: np.ndarray, traces: float) -> float:
    """The same from factors A [D, r1], B [D, r2] of S1 = A A^T, S2 = B B^T: the sum of the singular values of A^T B."""
    product = one.T @ other
    if not product.size:
        return 0.0
    if product.shape[0] > product.shape[1]:
        product = product.T
    eigenvalues = linalg.eigvalsh(product @ product.T, overwrite_a=True, check_finite=False)
    if _error_of_roots(eigenvalues) <= PROMISE * traces:
        return _sum_of_roots(eigenvalues)
    return _sum_of_singular_values(product)


def _sum_of_roots(eigenvalues: np.ndarray) -> float:
    return float(np.sqrt(np.maximum(eigenvalues, 0)).sum())


def _sum_of_singular_values(matrix: np.ndarray) -> float:
    return float(linalg.svdvals(matrix, overwrite_a=True, check_finite=False).sum())


def _error_of_roots(eigenvalues: np.ndarray) -> float:
    """How far the sum of roots may be off: an eigenvalue is known to one rounding of the largest, its root to less."""
    rounding = float(np.finfo(np.float64).eps) * max(float(eigenvalues[-1]), 0.0)
    roots = np.sqrt(np.maximum(eigenvalues, rounding))
    return float((rounding / (2 * roots)).sum()) if rounding else 0.0


def _has_determinant(eigenvalues: np.ndarray, expected: float) -> bool:
    """Whether the logarithms of the eigenvalues add up to the log-determinant that the Cholesky factors give.

    The eigenvalues of graded matrices, as Cholesky factors make them, come out far better than the size of the largest
    one promises. An error in a small one shows here by its share of that eigenvalue, in the sum of roots by much less.
    """
    return bool(eigenvalues[0] > 0) and abs(float(np.log(eigenvalues).sum()) - expected) <= DETERMINANT


def _cholesky(matrix: np.ndarray) -> np.ndarray | None:
    """The lower factor, or None where the matrix is singular to rounding."""
    factor, failed = lapack.dpotrf(matrix.T, lower=1, clean=1)
    if failed or np.diag(factor).min() ** 2 <= _rounding(matrix):
        return None
    return factor


def _pivoted_factor(matrix: np.ndarray) -> np.ndarray:
    """A [D, rank] with A A^T = matrix, by Cholesky with pivoting; what is at rounding is zero."""
    factor, order, rank, _ = lapack.dpstrf(matrix.T, lower=1, tol=_rounding(matrix))
    found = np.empty((len(matrix), rank))
    found[order - 1] = np.tril(factor[:, :rank])
    return found


def _rounding(matrix: np.ndarray) -> float:
    """What is not told from zero among the pivots."""
    return len(matrix) * float(np.finfo(np.float64).eps) * max(float(np.diag(matrix).max()), 0.0)


class FID(Metric):
    """Frechet distance between all reference images and all samples, from float64 streaming statistics."""

    of_moments = True

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < 2 or real.reference.count < 2:
            raise UserError(f"FID needs at least 2 images, got {samples.count} samples and {real.reference.count} real")

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        one, other = reference.features.moments, samples.features.moments
        return {"fid": frechet_distance(one.mean, one.covariance, other.mean, other.covariance)}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        return {"fid": f"FID-{thousands(samples)} ({network})"}


class HeldOutFID(FID):
    """The same distance to all held-out images, beside that to the training images.

    CDM reports both (section 4): its models are chosen by the distance to training images, which is then no fair judge.
    Of real images there is no number: that of the training images is the floor of `FID`.
    """

    of_held_out = True

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if real.held_out.count < 2:
            raise UserError(f"HeldOutFID needs at least 2 held-out images, and {real.held_out.name} has fewer")
        super().check(real=real, samples=samples)

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        found = super().compute(reference=reference, samples=samples, real=real, cache=cache)
        return {"fid_held_out": found["fid"]}

    def floor(
        self, *, pair: tuple[Evidence, Evidence] | None, count: int, real: RealImages, cache: Cache
    ) -> dict[str, float]:
        return {}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        return {"fid_held_out": f"FID-{thousands(samples)} ({network}), held-out images"}


class SFID(Metric):
    """The Frechet distance of spatial features, arXiv:2103.03841: an early layer of the network, not pooled.

    Of Inception they are the first 7 channels of mixed_6/conv, 17 x 17 each: 2,023 numbers.
    """

    needs = frozenset({"spatial"})
    of_moments = True

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < 2 or real.reference.count < 2:
            raise UserError(
                f"sFID needs at least 2 images, got {samples.count} samples and {real.reference.count} real"
            )

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        one, other = _spatial(reference), _spatial(samples)
        return {"sfid": frechet_distance(one.mean, one.covariance, other.mean, other.covariance)}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        return {"sfid": f"sFID-{thousands(samples)} ({network})"}


def _spatial(evidence: Evidence) -> Moments:
    if evidence.features.spatial is None:
        raise ValueError(f"the spatial features of {evidence.images.name} were not kept")
    return evidence.features.spatial
