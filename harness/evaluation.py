"""The evaluation of a recipe or a command: features once, every metric, its floor, and where each number came from."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import likeness
from harness.cache import Cache
from harness.evidence import reference_evidence, sample_evidence, usable_statistics
from harness.features.network import Extractor, FeatureNetwork, extract_cached
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric
from harness.statistics_files import Statistics

if TYPE_CHECKING:
    from zoo.data.images import Images

FORMAT = 2  # of the result
PACKAGES = ("numpy", "scipy", "tensorflow", "keras", "pillow")


class Evaluation:
    """The metrics of a recipe on the features of one network.

    Args:
        features: the feature network.
        metrics: in the order in which they are printed.
        reference_split: 'train' or 'test': the real images that samples are compared with.
    """

    def __init__(self, features: FeatureNetwork, metrics: tuple[Metric, ...], reference_split: str = "train"):
        if not metrics:
            raise ValueError("metrics must name at least one metric, got none")
        if reference_split not in ("train", "test"):
            raise ValueError(f"reference_split must be 'train' or 'test', got {reference_split!r}")
        self.features, self.metrics, self.reference_split = features, tuple(metrics), reference_split

    def evaluate(
        self, samples_dir: Path, images: "Images", cache: Path, provenance: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Scores the shards of a folder against the dataset of a recipe's last stage.

        Args:
            samples_dir: with shard-*.npz; an .npz file or an image folder will do as well.
            images: the data that the samples imitate, at their size.
            cache: folder where trained classifiers, features and scores of real images are kept.
            provenance: joins the result (recipe, rows, seeds, hashes of weights, ...).

        Raises:
            UserError: samples and reference do not fit; before anything expensive.
        """
        from harness.samples import open_images
        from harness.splits import real_images

        samples = open_images(samples_dir)
        return self.compare(real_images(images, self.reference_split), samples, Cache(cache), provenance)

    def check_features(self, images: "Images") -> None:
        """Fails where the feature network cannot be had for the data of a stage (its weights are missing); cheap.

        Raises:
            UserError: what is missing and what to do.
        """
        from harness.splits import real_images

        self.features.check(real_images(images, self.reference_split))

    def check(self, real: RealImages, samples: ImageSet) -> None:
        """Fails where the sets do not fit each other or do not suffice for a metric; cheap."""
        likeness.check_sizes(real.reference, samples)
        for metric in self.metrics:
            likeness.check_needs(metric, self.features, real.reference, samples)
        self.features.check(real)
        for metric in self.metrics:
            metric.check(real=real, samples=samples)
        likeness.check_names(self.metrics, samples)

    def compare(
        self,
        real: RealImages,
        samples: ImageSet,
        cache: Cache,
        provenance: Mapping[str, Any],
        allow_few: bool = True,
        cross_check: bool = False,
    ) -> dict[str, Any]:
        """The result (JSON-able) of samples against real images.

        Args:
            allow_few: whether sets of no more images than dimensions are scored, with a warning, or refused.
            cross_check: whether tensorflow-gan's metric functions are asked for a second opinion.
        """
        self.check(real, samples)
        network = self.features.prepare(real, cache)
        used = usable_statistics(real.reference, network)
        if not allow_few:
            likeness.check_enough(self.metrics, samples, network)
            if used is None:
                likeness.check_enough(self.metrics, real.reference, network)
        keep = frozenset[str]().union(*(metric.needs for metric in self.metrics))
        reference = reference_evidence(real.reference, network, keep, cache)
        held_out = self._held_out(real, network, cache)
        pair = self._floor_pair(real, reference, samples.count, network, keep, cache)
        ours = sample_evidence(samples, network, keep)
        scores = self._scores(reference, held_out, ours, pair, real, network, cache)
        result = _result(network, reference, ours, pair, real, used)
        result["reference"] |= self._against(scores["metrics"], used, real)
        result["warnings"] = [
            *likeness.warnings(network, reference, ours, pair, real, used, cache),
            *likeness.metric_warnings(self.metrics, reference, ours),
        ]
        if cross_check:
            result["cross_check"] = _second_opinion(reference, ours)
        versions = dict(provenance.get("versions", {})) | result["versions"]
        return {**provenance, **scores, **result, "versions": versions}

    def _held_out(self, real: RealImages, network: Extractor, cache: Cache) -> Evidence | None:
        """The held-out images as a second reference, where a metric compares with them."""
        if not any(metric.of_held_out for metric in self.metrics):
            return None
        return reference_evidence(real.held_out, network, frozenset(), cache)

    def _scores(
        self,
        reference: Evidence,
        held_out: Evidence | None,
        samples: Evidence,
        pair: tuple[Evidence, Evidence] | None,
        real: RealImages,
        network: Extractor,
        cache: Cache,
    ) -> dict[str, Any]:
        """Every number, that of real images in the place of samples, and how each is titled."""
        numbers: dict[str, float] = {}
        floor: dict[str, float] = {}
        protocol: dict[str, str] = {}
        details: dict[str, Any] = {}
        count = samples.images.count
        for metric in self.metrics:
            against = held_out if held_out is not None and metric.of_held_out else reference
            numbers |= metric.compute(reference=against, samples=samples, real=real, cache=cache)
            floor |= self._floor(metric, pair, count, network, real, cache)
            protocol |= metric.protocol(count, network.title)
            details |= metric.details(samples=samples, real=real, cache=cache)
        scores = {"protocol": protocol, "metrics": numbers, "floor": floor, "cas_real_top1": floor.get("cas_top1")}
        return {**scores, **details}

    def _against(
        self, numbers: Mapping[str, float], used: Statistics | None, real: RealImages
    ) -> dict[str, dict[str, str]]:
        """For each number that depends on a reference what of it was compared; and its name where it is another one.

        Args:
            used: statistics from a file, or None where all comes from the images.
        """
        images = f"{real.reference.count} images"
        count = "an unstated number of" if used is None or used.count is None else str(used.count)
        layout = "" if used is None else f" (layout: {used.layout})"
        statistics = images if used is None else f"statistics of {count} images{layout}"
        vectors = f"{used.vectors} feature vectors" if used is not None and used.vectors else images
        found: dict[str, str] = {}
        others: dict[str, str] = {}
        for metric in self.metrics:
            keys = [key for key in metric.protocol(1, "") if key in numbers]
            if metric.of_held_out:
                found |= dict.fromkeys(keys, f"{real.held_out.count} images")
                others |= dict.fromkeys(keys, real.held_out.name)
            elif metric.of_moments:
                found |= dict.fromkeys(keys, statistics)
            elif "pooled" in metric.needs:
                found |= dict.fromkeys(keys, vectors)
        return {"against": found} | ({"others": others} if others else {})

    def _floor(
        self,
        metric: Metric,
        pair: tuple[Evidence, Evidence] | None,
        count: int,
        network: Extractor,
        real: RealImages,
        cache: Cache,
    ) -> dict[str, float]:
        """The floor of one metric: it depends on no sample, so it is computed once for all that are scored."""
        key = {
            "format": FORMAT,
            "metric": type(metric).__name__,
            "settings": {name: repr(value) for name, value in vars(metric).items()},
            "network": network.identity,
            "pair": [side.images.fingerprint() for side in pair] if pair else None,
            "train": real.train.fingerprint(),
            "held_out": real.held_out.fingerprint(),
            "count": count,
        }
        return cache.numbers("floor", key, lambda: metric.floor(pair=pair, count=count, real=real, cache=cache))

    def _floor_pair(
        self, real: RealImages, reference: Evidence, count: int, network: Extractor, keep: frozenset[str], cache: Cache
    ) -> tuple[Evidence, Evidence] | None:
        """Features of two disjoint real sets, the second as large as the samples."""
        pair = real.floor_pair(count)
        if pair is None:
            return None
        rest, held_out = pair
        if rest is not real.reference:
            reference = Evidence(rest, extract_cached(rest, network, keep, "features of the rest", cache))
        features = extract_cached(held_out, network, keep, f"features of {held_out.count} real images", cache)
        return reference, Evidence(held_out, features)


def _result(
    network: Extractor,
    reference: Evidence,
    samples: Evidence,
    pair: tuple[Evidence, Evidence] | None,
    real: RealImages,
    used: Statistics | None,
) -> dict[str, Any]:
    """What was compared, and what a reader of the numbers must know."""
    resize = network.facts.get("resize", "none")
    known = used.count if used is not None else reference.features.moments.count
    return {
        "format": FORMAT,
        "dataset": real.reference.dataset,
        "resolution": (samples.images if any(samples.images.shape) else real.reference).shape[0],
        "classifier_accuracy": network.facts.get("accuracy"),
        "counts": {
            "samples": samples.images.count if not samples.images.has_images else samples.features.moments.count,
            "reference": known,
            "floor": pair[1].features.moments.count if pair else 0,
            "train": real.train.count if real.train.has_images else 0,
            "held_out": real.held_out.count if real.held_out.has_images else 0,
        },
        "feature_network": dict(network.facts),
        "reference": {"name": real.reference.name, "fingerprint": real.reference.fingerprint()},
        "sample_set": {"name": samples.images.name, "fingerprint": samples.images.fingerprint()},
        "resize": "none: images are compared at their own size" if resize == "none" else resize,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _second_opinion(reference: Evidence, samples: Evidence) -> list[dict[str, Any]]:
    """The numbers of tensorflow-gan beside those of this project."""
    from harness.cross_check import cross_check

    found = cross_check(reference=reference.features, samples=samples.features)
    return [{"name": name, "ours": ours, "theirs": theirs} for name, ours, theirs in found]
