"""What a feature network is: a component that names and prepares an extractor of features from images."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

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
        facts: what a result records of it (JSON-able): always `title`, `identity`, `dimensions` of 'pooled', `input`
            (what becomes of the pixels), `resize` (name of the filter, or 'none') and `weights` (their hash); with
            `accuracy` on held-out images where it was trained on the dataset.
        batch: images in a forward pass on one device.
        at_once: the most images in one call: a batch for every device of the strategy in whose scope it was made.
    """

    title: str
    identity: str
    facts: Mapping[str, Any]
    batch: int = BATCH
    at_once: int = BATCH

    @abc.abstractmethod
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [B, H, W, C] -> float32 'pooled' [B, D] and what else its network `gives`.

        That is 'logits' [B, classes] where it classifies, 'spatial' [B, S] where it has features by place.
        """


class FeatureNetwork(abc.ABC):
    """A component that recipes name; making it does no work.

    Attributes:
        gives: which of 'pooled', 'logits', 'spatial' its extractor returns: what metrics may need.
    """

    gives: ClassVar[frozenset[str]] = frozenset({"pooled", "logits"})

    @abc.abstractmethod
    def check(self, real: RealImages) -> None:
        """Fails where no extractor can be had for these images.

        Raises:
            UserError: what is missing and what to do.
        """

    @abc.abstractmethod
    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        """Loads or trains the network for these images."""


class _Stream:
    """Moments of features that come in batches.

    Args:
        batch: vectors at a time: sums depend on their order, and these are to be those of one device.
    """

    def __init__(self, batch: int):
        self.batch = batch
        self.moments: Moments | None = None

    def add(self, features: np.ndarray) -> None:
        """Takes vectors [n, D].

        Raises:
            ValueError: a feature is not a finite number.
        """
        for start in range(0, len(features), self.batch):
            found = Moments.of(features[start : start + self.batch])
            self.moments = found if self.moments is None else self.moments.merge(found)


def extract(images: ImageSet, network: Extractor, keep: frozenset[str], title: str) -> Features:
    """Features of all images in one pass; only statistics are kept unless `keep` names arrays.

    Args:
        keep: of 'pooled' and 'logits', whose vectors are kept, and 'spatial', of which only moments are.
        title: of the progress bar.

    Raises:
        UserError: there are no images, or a feature is not a finite number.
    """
    pooled, spatial = _Stream(network.batch), _Stream(network.batch)
    kept: dict[str, np.ndarray] = {}
    done = 0
    with progress(images.count, title, "images", leave=False) as bar:
        for batch, _ in images.batches(network.at_once):
            features = network(batch)
            try:
                pooled.add(features["pooled"])
                if "spatial" in keep:
                    spatial.add(features["spatial"])
            except ValueError as error:
                raise UserError(f"{images.name}: {error}; the {network.title} cannot describe these images") from error
            for name in keep - {"spatial"}:
                # In place: gathered in a list, they would be there twice when it is joined.
                if name not in kept:
                    kept[name] = np.empty((images.count, features[name].shape[1]), np.float32)
                kept[name][done : done + len(batch)] = features[name]
            done += len(batch)
            bar.update(len(batch))
    if pooled.moments is None:
        raise UserError(f"{images.name} gave no images")
    read = {name: array[:done] for name, array in kept.items()}  # of a set with damaged records fewer than it says
    return Features(pooled.moments, read.get("pooled"), read.get("logits"), spatial.moments)


def extract_cached(images: ImageSet, network: Extractor, keep: frozenset[str], title: str, cache: Cache) -> Features:
    """The same, remembered: for real images, whose features many evaluations share."""
    key = {"network": network.identity, "images": images.fingerprint(), "keep": sorted(keep)}

    def make() -> dict[str, np.ndarray]:
        features = extract(images, network, keep, title)
        arrays = _to_arrays(features.moments, "")
        if features.spatial is not None:
            arrays |= _to_arrays(features.spatial, "spatial_")
        return arrays | {name: getattr(features, name) for name in keep - {"spatial"}}

    found = cache.arrays("features", key, make)
    spatial = _from_arrays(found, "spatial_") if "spatial" in keep else None
    return Features(_from_arrays(found, ""), found.get("pooled"), found.get("logits"), spatial)


def _to_arrays(moments: Moments, prefix: str) -> dict[str, np.ndarray]:
    named = {"count": np.array(moments.count), "mean": moments.mean, "scatter": moments.scatter}
    return {prefix + name: array for name, array in named.items()}


def _from_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> Moments:
    return Moments(int(arrays[prefix + "count"]), arrays[prefix + "mean"], arrays[prefix + "scatter"])
