"""A small Frechet distance by which training chooses its best checkpoint; the papers select models by FID-10k."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.cache import Cache
from harness.features.network import Extractor, FeatureNetwork, extract, extract_cached
from harness.images import ArrayImages, ImageSet, RealImages
from harness.metrics.frechet import FID, frechet_distance
from harness.metrics.statistics import Moments
from zoo.console import UserError

if TYPE_CHECKING:
    from zoo.data.images import Images


class SmallFID:
    """Frechet distance between real images and a few samples; lower is better.

    Scores of one number of samples compare with one another, and with nothing else: fewer samples give larger ones.
    The feature network and the statistics of the real images are made once and found in the cache of the evaluation.

    Args:
        features: the feature network, the evaluation's own where nothing is to be trained twice.
        reference_split: 'train' or 'test': the real images that samples are compared with.
        reference_count: how many of them, drawn at random; None takes all.
    """

    def __init__(
        self, features: FeatureNetwork, reference_split: str = "train", reference_count: int | None = None
    ) -> None:
        if reference_split not in ("train", "test"):
            raise ValueError(f"reference_split must be 'train' or 'test', got {reference_split!r}")
        if reference_count is not None and reference_count < 2:
            raise ValueError(f"reference_count must be at least 2 or None, got {reference_count}")
        self.features, self.reference_split, self.reference_count = features, reference_split, reference_count
        self._ready: dict[str, tuple[Extractor, Moments]] = {}

    def check(self, images: "Images") -> None:
        """Fails before training where samples that imitate these images cannot be scored; cheap.

        Raises:
            UserError: what is missing and what to do.
        """
        self._real(images)

    def score(self, samples: np.ndarray, labels: np.ndarray | None, images: "Images", cache: Path) -> float:
        """The distance of samples to the dataset of a stage.

        Args:
            samples: uint8 [N, H, W, C].
            labels: [N], or None; the distance does not depend on them.
            images: the data that the samples imitate, at their size.
            cache: folder where trained classifiers and features of real images are kept.
        """
        if len(samples) < 2 or samples.shape[1:] != images.shape:
            raise ValueError(f"samples must be at least two images of the shape {images.shape}, got {samples.shape}")
        network, reference = self._prepared(images, Cache(cache))
        found = extract(ArrayImages(samples, labels, "samples"), network, frozenset(), "features of samples").moments
        return frechet_distance(reference.mean, reference.covariance, found.mean, found.covariance)

    def title(self, count: int, images: "Images") -> str:
        """Of a score that was computed from `count` samples: 'FID-1k (shapes classifier)'."""
        key = self._reference(self._real(images)).fingerprint()
        if key not in self._ready:
            raise ValueError("nothing was scored yet: the title names the feature network")
        return FID().protocol(count, self._ready[key][0].title)["fid"]

    def _real(self, images: "Images") -> RealImages:
        from harness.splits import real_images

        problem = images.source.missing()
        if problem:
            raise UserError(problem)
        real = real_images(images, self.reference_split)
        wanted = self.reference_count or 2
        if real.reference.count < wanted:
            raise UserError(
                f"SmallFID needs {wanted} reference images, and {real.reference.name} has {real.reference.count}: "
                "set SmallFID.reference_count to no more than that, or take the other split"
            )
        self.features.check(real)
        return real

    def _reference(self, real: RealImages) -> ImageSet:
        count = self.reference_count
        return real.reference if count in (None, real.reference.count) else real.reference.split(count, seed=0)[0]

    def _prepared(self, images: "Images", cache: Cache) -> tuple[Extractor, Moments]:
        """The feature network and the statistics of the reference."""
        real = self._real(images)
        reference = self._reference(real)
        key = reference.fingerprint()
        if key not in self._ready:
            network = self.features.prepare(real, cache)
            title = f"features of {reference.name}"
            self._ready[key] = network, extract_cached(reference, network, frozenset(), title, cache).moments
        return self._ready[key]
