"""Frechet distance between two Gaussians: FID, arXiv:1706.08500, equation 6."""

from collections.abc import Mapping

import numpy as np
from scipy import linalg

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from zoo.console import UserError

SMALLEST_EIGENVALUE = 1e-11  # of the largest: roots below it would be wrong by more than 1e-11 of the largest root


def frechet_distance(
    reference_mean: np.ndarray, reference_covariance: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means [D] and covariances [D, D], in float64."""
    if reference_mean.shape != mean.shape:
        raise ValueError(f"features of {len(reference_mean)} and {len(mean)} dimensions cannot be compared")
    difference = reference_mean.astype(np.float64) - mean.astype(np.float64)
    first = reference_covariance.astype(np.float64)
    second = covariance.astype(np.float64)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * trace_of_root(first, second))


def trace_of_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr (S1 S2)^(1/2) of two symmetric positive semi-definite matrices [D, D].

    With S1 = L L^T the product has the eigenvalues of the symmetric L^T S2 L. The root of an eigenvalue near zero
    would carry the root of its rounding error: matrices of such a product (fewer samples than dimensions, constant
    features) take the route by singular values, which costs more and loses nothing.
    """
    one, other = _cholesky(first), _cholesky(second)
    if one is not None and other is not None:
        eigenvalues = linalg.eigvalsh(one.T @ second @ one, check_finite=False)
        if eigenvalues[0] > SMALLEST_EIGENVALUE * eigenvalues[-1]:
            return float(np.sqrt(eigenvalues).sum())
    return trace_of_root_by_factors(
        _symmetric_factor(first) if one is None else one, _symmetric_factor(second) if other is None else other
    )


def trace_of_root_by_factors(one: np.ndarray, other: np.ndarray) -> float:
    """The same from factors A [D, r1], B [D, r2] of S1 = A A^T, S2 = B B^T: the sum of the singular values of A^T B."""
    product = one.T @ other
    return float(linalg.svdvals(product, check_finite=False).sum()) if product.size else 0.0


def _cholesky(matrix: np.ndarray) -> np.ndarray | None:
    """The lower factor, or None where the matrix is singular to rounding."""
    try:
        factor = linalg.cholesky(matrix, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    return factor if np.diag(factor).min() ** 2 > _rounding(matrix) * np.diag(matrix).max() else None


def _symmetric_factor(matrix: np.ndarray) -> np.ndarray:
    """A [D, rank] with A A^T = matrix, from the symmetric eigendecomposition; eigenvalues at rounding are zeros."""
    eigenvalues, eigenvectors = linalg.eigh(matrix, check_finite=False)
    kept = eigenvalues > _rounding(matrix) * max(eigenvalues[-1], 0.0)
    return eigenvectors[:, kept] * np.sqrt(eigenvalues[kept])


def _rounding(matrix: np.ndarray) -> float:
    """The share of the largest eigenvalue below which an eigenvalue is not told from zero."""
    return len(matrix) * float(np.finfo(np.float64).eps)


class FID(Metric):
    """Frechet distance between all reference images and all samples, from float64 streaming statistics."""

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < 2 or real.reference.count < 2:
            raise UserError(f"FID needs at least 2 images, got {samples.count} samples and {real.reference.count} real")

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        one, other = reference.features.moments, samples.features.moments
        return {"fid": frechet_distance(one.mean, one.covariance, other.mean, other.covariance)}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        return {"fid": f"FID-{thousands(samples)} ({network})"}
