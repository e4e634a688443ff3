"""Mean and covariance of a stream of feature vectors, in float64, merged exactly."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean [D] and scatter [D, D] = sum (x - mean)(x - mean)^T of a set of vectors, float64.

    Immutable: `add` and `merge` return new moments. The merge is that of Chan, Golub and LeVeque (1979), equation 2.1,
    which loses nothing to a common offset of the features, as sums of squares would.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @staticmethod
    def empty(dimensions: int) -> "Moments":
        return Moments(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))

    @staticmethod
    def of(features: np.ndarray) -> "Moments":
        """The moments of vectors [N, D] of any float type.

        Raises:
            ValueError: a feature is not a finite number.
        """
        if features.ndim != 2:
            raise ValueError(f"features must be [N, D], got {features.shape}")
        values = features.astype(np.float64)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            raise ValueError(f"{bad} of {len(values)} feature vectors have NaN or infinite entries")
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        centred = values - mean
        return Moments(len(values), mean, centred.T @ centred)

    @staticmethod
    def merged(parts: Iterable["Moments"]) -> "Moments":
        """The moments of the union, merged in the given order: the same order gives the same bits."""
        first, *others = parts
        for other in others:
            first = first.merge(other)
        return first

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of {self.mean.shape[0]} and {other.mean.shape[0]} dimensions do not merge")
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def add(self, features: np.ndarray) -> "Moments":
        """These moments with the vectors [N, D] added."""
        return self.merge(Moments.of(features))

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], divided by count - 1 as `numpy.cov` does.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, got {self.count}")
        return self.scatter / (self.count - 1)
