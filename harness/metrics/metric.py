"""What a metric is: from features of real and of generated images to named numbers."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.statistics import Moments


@dataclass(frozen=True)
class Features:
    """What a feature network says of a set of images, as far as the metrics need it.

    Attributes:
        moments: mean and covariance of the pooled features.
        pooled: float32 [N, D], or None where no metric needs the vectors themselves.
        logits: float32 [N, classes], or None.
        spatial: mean and covariance of the spatial features, or None where no metric needs them.
    """

    moments: Moments
    pooled: np.ndarray | None = None
    logits: np.ndarray | None = None
    spatial: Moments | None = None


@dataclass(frozen=True)
class Evidence:
    """One side of a comparison: the images and their features."""

    images: ImageSet
    features: Features


class Metric(abc.ABC):
    """Maps (reference, samples), in this order and by name, to numbers.

    Attributes:
        needs: which of Features' optional parts it reads: 'pooled', 'logits', 'spatial'. Only what some metric needs
            is kept: vectors grow with the number of images, the moments of 'spatial' do not.
        of_moments: whether it compares means and covariances, which may come from a file in the place of images.
        of_held_out: whether its reference are the held-out images, whatever the others compare with.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    of_moments: ClassVar[bool] = False
    of_held_out: ClassVar[bool] = False

    @abc.abstractmethod
    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        """Fails before the expensive work where the sets do not suffice.

        Raises:
            UserError: what is missing and what to do.
        """

    @abc.abstractmethod
    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        """The numbers by name; `real` and `cache` are for metrics that train something."""

    @abc.abstractmethod
    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        """How each number is titled, so that unlike numbers never share a column: {'fid': 'FID-2k (...)'}.

        Args:
            samples: number of samples.
            network: title of the feature network.
        """

    def warnings(self, *, reference: Evidence, samples: Evidence) -> list[str]:
        """What makes its numbers less than they seem for these two sides, as 'name: sentence'; else nothing."""
        return []

    def details(self, *, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, Any]:
        """What a result holds of it beside numbers (JSON-able), such as `by_class`; asked after `compute`."""
        return {}

    def floor(
        self, *, pair: tuple[Evidence, Evidence] | None, count: int, real: RealImages, cache: Cache
    ) -> dict[str, float]:
        """The same numbers for `count` real images in the place of samples.

        Args:
            pair: disjoint real images (reference, samples), or None where there are too few.
        """
        if pair is None:
            return {}
        return self.compute(reference=pair[0], samples=pair[1], real=real, cache=cache)


def thousands(count: int) -> str:
    """50000 -> '50k', 2500 -> '2.5k', 512 -> '512'."""
    return f"{count / 1000:g}k" if count >= 1000 and count % 100 == 0 else str(count)


def vectors(evidence: Evidence) -> np.ndarray:
    """The pooled features [N, D] of one side."""
    if evidence.features.pooled is None:
        raise ValueError(f"the pooled features of {evidence.images.name} were not kept")
    return evidence.features.pooled
