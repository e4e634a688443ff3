"""A stand-in for Inception whose features are known: the mean and the deviation of each channel; no weights."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from harness import evaluate
from harness.cache import Cache
from harness.evaluation import Evaluation
from harness.features.network import Extractor, FeatureNetwork
from harness.images import RealImages
from harness.metrics.frechet import FID, frechet_distance
from harness.metrics.inception_score import InceptionScore
from harness.metrics.kernel import KID
from harness.metrics.precision_recall import PrecisionRecall
from harness.metrics.statistics import Moments
from harness.samples import open_set

RANDOM = np.random.default_rng(1)
DIMENSIONS = 6


def pictures(count: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


class MeansAndDeviations(Extractor):
    """Features that are known: mean and deviation of each channel."""

    def __init__(self, resize: str = "TF1 bilinear"):
        self.title, self.identity = "Inception (means)", f"means and deviations, {resize}"
        self.facts = {
            "title": self.title,
            "identity": self.identity,
            "dimensions": DIMENSIONS,
            "resize": resize,
            "input": "uint8",
            "weights": "none",
        }

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values = images.astype(np.float32)
        pooled = np.concatenate([values.mean(axis=(1, 2)), values.std(axis=(1, 2))], axis=1)
        return {"pooled": pooled, "logits": pooled / 50, "spatial": values[:, 0].reshape(len(images), -1)}


class Means(FeatureNetwork):
    """Stands in the place of Inception, without weights."""

    gives: ClassVar[frozenset[str]] = frozenset({"pooled", "logits", "spatial"})

    def __init__(self, resize: str = "TF1 bilinear"):
        self.resize = resize

    def check(self, real: RealImages) -> None:
        """Passes."""

    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        return MeansAndDeviations(self.resize)


def means_of(images: np.ndarray) -> Moments:
    return Moments.of(MeansAndDeviations()(images)["pooled"])


METRICS = (FID(), KID(subsets=3, subset_size=20), PrecisionRecall(), InceptionScore(splits=2))


def compared(real: RealImages | Path, samples: Path, cache: Path, *metrics, **settings) -> dict:
    """The result of the stand-in for Inception."""
    side = evaluate.real_from_files(real, None) if isinstance(real, Path) else real
    return Evaluation(Means(), metrics or METRICS).compare(side, open_set(samples), Cache(cache), {}, **settings)


def names(result: dict) -> set[str]:
    return {warning.partition(":")[0] for warning in result["warnings"]}


def fid_between(one: Moments, other: Moments) -> float:
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
