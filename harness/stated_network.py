"""The feature network that statistics say they were made with: enough to compare them with one another."""

from typing import Any, ClassVar

import numpy as np

from harness.cache import Cache
from harness.features.network import Extractor, FeatureNetwork
from harness.images import RealImages
from harness.statistics_files import Statistics
from zoo.console import UserError


class StatedNetwork(FeatureNetwork):
    """Of two sides that hold statistics alone: nothing is extracted, so no weights are needed.

    Args:
        reference: of the real side.
        samples: of the generated side.
    """

    gives: ClassVar[frozenset[str]] = frozenset({"pooled", "spatial"})

    def __init__(self, reference: Statistics, samples: Statistics):
        self.reference, self.samples = reference, samples

    def check(self, real: RealImages) -> None:
        """Passes: whether the two fit is found out when their features are compared."""

    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        stated = self.reference.extractor or self.samples.extractor
        return _Stated(stated or self._assumed())

    def _assumed(self) -> dict[str, Any]:
        """What files that say nothing are taken for; a warning in the result says so."""
        return {
            "title": "Inception, not stated",
            "identity": "not stated",
            "dimensions": self.reference.moments.dimensions,
            "resize": self.reference.resize or self.samples.resize or "not stated",
            "input": "not stated",
            "weights": "not stated",
        }


class _Stated(Extractor):
    """A network by name only."""

    def __init__(self, facts: Any):
        self.facts = dict(facts)
        self.title, self.identity = str(self.facts["title"]), str(self.facts["identity"])

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        raise UserError(f"{self.title} is known by name only: give --features to describe images")
