"""What a feature network is: a component that names and prepares an extractor of features from images."""

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Features
from harness.metrics.statistics import Moments
from zoo.console import UserError, progress

BATCH = 250  # images a forward pass on one device


class Extractor(abc.ABC):
    """A network ready to use.

    Attributes:
        title: how protocols call it, such as 'shapes classifier'.
        identity: hash of its weights and its input processing: features of unlike identities are never compared.
        facts: what a result records of it (JSON-able), with `accuracy` on held-out images where it is a classifier.
        at_once: the most images in one call: `BATCH` for every device of the strategy in whose scope it was made.
    """

    title: str
    identity: str
    facts: Mapping[str, Any]
    at_once: int = BATCH

    @abc.abstractmethod
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [B, H, W, C] -> float32 'pooled' [B, D] and, where it classifies, 'logits' [B, classes]."""


class FeatureNetwork(abc.ABC):
    """A component that recipes name; making it does no work."""

    @abc.abstractmethod
    def check(self, real: RealImages) -> None:
        """Fails where no extractor can be had for these images.

        Raises:
            UserError: what is missing and what to do.
        """

    @abc.abstractmethod
    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        """Loads or trains the network for these images."""


def extract(images: ImageSet, network: Extractor, keep: frozenset[str], title: str) -> Features:
    """Features of all images in one pass; only statistics are kept unless `keep` names arrays.

    Args:
        keep: of 'pooled' and 'logits'.
        title: of the progress bar.

    Raises:
        UserError: there are no images, or a feature is not a finite number.
    """
    moments: Moments | None = None
    kept: dict[str, list[np.ndarray]] = {name: [] for name in keep}
    with progress(images.count, title, "images", leave=False) as bar:
        for batch, _ in images.batches(network.at_once):
            features = network(batch)
            try:
                # A forward pass at a time: sums depend on their order, and these are to be those of one device.
                for start in range(0, len(batch), BATCH):
                    found = Moments.of(features["pooled"][start : start + BATCH])
                    moments = found if moments is None else moments.merge(found)
            except ValueError as error:
                raise UserError(f"{images.name}: {error}; the {network.title} cannot describe these images") from error
            for name, arrays in kept.items():
                arrays.append(features[name])
            bar.update(len(batch))
    if moments is None:
        raise UserError(f"{images.name} gave no images")
    return Features(moments, **{name: np.concatenate(arrays) for name, arrays in kept.items()})


def extract_cached(images: ImageSet, network: Extractor, keep: frozenset[str], title: str, cache: Cache) -> Features:
    """The same, remembered: for real images, whose features many evaluations share."""
    key = {"network": network.identity, "images": images.fingerprint(), "keep": sorted(keep)}

    def make() -> dict[str, np.ndarray]:
        features = extract(images, network, keep, title)
        moments = features.moments
        arrays = {"count": np.array(moments.count), "mean": moments.mean, "scatter": moments.scatter}
        return arrays | {name: getattr(features, name) for name in keep}

    found = cache.arrays("features", key, make)
    moments = Moments(int(found["count"]), found["mean"], found["scatter"])
    return Features(moments, found.get("pooled"), found.get("logits"))
