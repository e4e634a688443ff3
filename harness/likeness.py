"""Whether two sets may be compared at all, and what makes the numbers less than they seem: named warnings.

A warning is a string 'name: sentence'; the names do not change, so that a program can look for them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.cache import Cache
from harness.features.network import Extractor, FeatureNetwork
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from harness.statistics_files import Statistics
from zoo.console import UserError

PAPERS_COUNT = 50_000  # samples behind the FID of the papers
SLACK = 0.05  # of all images: a difference of label mixes that nobody would call large


def check_sizes(real: ImageSet, samples: ImageSet) -> None:
    """Fails where images of two sizes meet.

    Raises:
        UserError: both sizes and what to do.
    """
    known = any(real.shape) and any(samples.shape)
    if known and samples.shape != real.shape:
        raise UserError(
            f"{samples.name} has images of {size(samples)}, {real.name} of {size(real)}: "
            "bring them to one size by a resize of your choice first, for it moves every score"
        )


def check_needs(metric: Metric, features: FeatureNetwork, reference: ImageSet, samples: ImageSet) -> None:
    """Fails where a metric asks for what the feature network or one side does not have.

    Raises:
        UserError: what is missing and what to give instead.
    """
    name = type(metric).__name__
    lacking = metric.needs - features.gives
    if lacking:
        raise UserError(
            f"{name} needs {_words(lacking)} features, and {type(features).__name__} gives "
            f"{_words(features.gives)} ones only: take another feature network (--features), or leave {name} out"
        )
    for side, needs in ((reference, metric.needs - {"logits"}), (samples, metric.needs)):
        if not side.has_images:
            absent = needs - _held(side.statistics)
            if absent:
                raise UserError(
                    f"{name} needs {_words(absent)} features, and {side.name} holds statistics alone "
                    f"({_words(_held(side.statistics)) or 'pooled'} ones at most): give the images, or leave {name} out"
                )


def check_names(metrics: Sequence[Metric], samples: ImageSet) -> None:
    """Fails where two metrics give one name to different numbers, as the small CAS and that by ResNet-50 do."""
    titles: dict[str, str] = {}
    for metric in metrics:
        for name, title in metric.protocol(samples.count, "").items():
            if titles.setdefault(name, title) != title:
                raise UserError(
                    f"two metrics give {name}, as {titles[name]!r} and as {title!r}: take one of them at a time"
                )


def check_enough(metrics: Sequence[Metric], images: ImageSet, network: Extractor) -> None:
    """Fails where FID is asked for of a set with no more images than the features have dimensions.

    Raises:
        UserError: with what to do.
    """
    dimensions = int(network.facts.get("dimensions", 0))
    if any(metric.of_moments for metric in metrics) and images.has_images and images.count <= dimensions:
        raise UserError(
            f"{images.name} has {images.count} images for {dimensions} feature dimensions: the covariance is singular "
            "and the Frechet distance far too large. Give more images, take KID alone (--metrics kid), or --allow-few "
            "to score them all the same, which the result then says"
        )


def size(images: ImageSet) -> str:
    """The size of images in words."""
    height, width, channels = images.shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels > 1 else ''}"


def warnings(
    network: Extractor,
    reference: Evidence,
    samples: Evidence,
    pair: tuple[Evidence, Evidence] | None,
    real: RealImages,
    used: Statistics | None,
    cache: Cache,
) -> list[str]:
    """What makes the numbers less than they seem.

    Args:
        pair: the sides of the floor.
        used: the statistics that took the place of those of the reference's images.
    """
    found = [*samples.images.notes, *reference.images.notes]
    for side in (samples, reference):
        found += _unread(side) + _few(side, used if side is reference else None)
    found += _of_statistics(network, reference.images, used)
    found += _of_counts(network, samples)
    found += _of_labels(real.reference, samples.images, cache)
    return found + _of_floor(pair, samples, real)


def label_distance(reference: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """How much two label mixes differ, and how much they might by the luck of the draw.

    Args:
        reference: int [N].
        samples: int [M].

    Returns:
        The total variation distance of the two histograms, and the distance that two draws from their mixture have
        on average: half the sum over classes of sqrt(2 p (1 - p) (1/N + 1/M) / pi).
    """
    classes = int(max(reference.max(), samples.max())) + 1
    one, other = (np.bincount(labels, minlength=classes) for labels in (reference, samples))
    mixed = (one + other) / (len(reference) + len(samples))
    spread = np.sqrt(2 / np.pi * mixed * (1 - mixed) * (1 / len(reference) + 1 / len(samples)))
    return float(np.abs(one / len(reference) - other / len(samples)).sum() / 2), float(spread.sum() / 2)


def _held(given: Statistics | None) -> frozenset[str]:
    """What statistics have beside the moments of the pooled features."""
    if given is None:
        return frozenset()
    held = {"spatial": given.spatial is not None, "pooled": bool(given.vectors)}
    return frozenset(name for name, there in held.items() if there)


def _words(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _unread(side: Evidence) -> list[str]:
    images, read = side.images, side.features.moments.count
    if not images.has_images or images.statistics is not None or read == images.count:
        return []
    return [f"unread-images: {images.name} says {images.count} images, and {read} could be read"]


def _few(side: Evidence, used: Statistics | None) -> list[str]:
    """A warning of a singular covariance, where the count is known."""
    moments = side.features.moments
    known = side.images.statistics.count if not side.images.has_images and side.images.statistics else moments.count
    known = used.count if used is not None else known
    if known is None or known > moments.dimensions:
        return []
    return [
        f"few-images: {side.images.name}: {known} images for {moments.dimensions} feature dimensions; the covariance "
        "is singular and the Frechet distance far too large"
    ]


def _of_statistics(network: Extractor, reference: ImageSet, used: Statistics | None) -> list[str]:
    given = reference.statistics
    if given is None:
        return []
    if used is None:
        return [f"statistics-unused: {given.misfit(network.facts)}; its {reference.count} images were taken instead"]
    unstated = used.unstated()
    found = []
    if unstated:
        found.append(
            f"unstated-reference: {used.path.name} (layout: {used.layout}) does not say its {unstated}; that they fit "
            f"{network.facts.get('title', 'the network')} with the resize filter {network.facts.get('resize')!r} is "
            "taken on trust"
        )
    if reference.has_images:
        count = "an unstated number of" if used.count is None else f"{used.count}"
        found.append(
            f"two-references: {', '.join(used.serves())} are against the mean and covariance in {used.path.name}, of "
            f"{count} images; other metrics against its {reference.count} images"
        )
    return found


def _of_counts(network: Extractor, samples: Evidence) -> list[str]:
    count = samples.images.count
    if count == PAPERS_COUNT or not network.title.startswith("Inception"):
        return []
    return [
        f"sample-count: {count} samples; the papers' scores are of {PAPERS_COUNT}, and fewer give a larger FID: "
        f"FID-{thousands(count)} compares with FID-{thousands(count)} alone"
    ]


def _of_labels(reference: ImageSet, samples: ImageSet, cache: Cache) -> list[str]:
    """A warning where the classes of the two sides are mixed in other proportions."""
    if not (reference.classes and samples.classes):
        return []
    ours = samples.all_labels()

    def read() -> dict[str, Any]:
        labels = reference.all_labels()
        return {"labels": np.zeros(0, np.int64) if labels is None else labels}

    theirs = cache.arrays("labels", {"images": reference.fingerprint()}, read)["labels"]
    if ours is None or not len(ours) or not len(theirs):
        return []
    distance, luck = label_distance(theirs, ours)
    if distance <= SLACK + 2 * luck:
        return []
    return [
        f"label-mix: the classes of {samples.name} are mixed otherwise than those of {reference.name}: {distance:.0%} "
        "of the images would have to change their class; every score but precision moves with it"
    ]


def _of_floor(pair: tuple[Evidence, Evidence] | None, samples: Evidence, real: RealImages) -> list[str]:
    if pair is None:
        return [f"no-floor: there are not {samples.images.count} real images outside the reference"]
    if pair[0].images is not real.reference:
        return [
            f"floor-inside-reference: the floor compares {pair[1].images.count} images of the reference with its other "
            f"{pair[0].images.count}: there are no others"
        ]
    return []


def metric_warnings(metrics: Sequence[Metric], reference: Evidence, samples: Evidence) -> list[str]:
    """What the metrics themselves have to say of these two sides."""
    return [text for metric in metrics for text in metric.warnings(reference=reference, samples=samples)]
