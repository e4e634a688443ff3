"""Known degradations of real images: do the numbers go the way that they must?

    python -m harness.degradations REFERENCE IMAGES --out docs/degradations.md
    python -m harness.degradations --render results/degradations/cifar10.json --out docs/degradations.md

IMAGES, real ones outside REFERENCE, are blurred, made noisy, and taken with unlike
or missing classes, a little more each time. Every level stands beside whole images of the
same number. Exit code 1 where a number goes the wrong way.
"""

import abc
import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.cache import Cache, write_json
from harness.features.network import Extractor, FeatureNetwork, extract, extract_cached
from harness.images import ArrayImages, ImageSet, RealImages
from harness.metrics.frechet import FID
from harness.metrics.inception_score import InceptionScore
from harness.metrics.kernel import KID
from harness.metrics.metric import Evidence, Metric
from harness.metrics.precision_recall import PrecisionRecall
from zoo.console import UserError, command, import_tensorflow, say

METRICS: tuple[Metric, ...] = (FID(), KID(), PrecisionRecall(), InceptionScore())
SHOWN = ("fid", "kid", "precision", "recall", "is_one_split")
AT_EVERY_LEVEL = frozenset({"fid", "kid"})
SEED = 0


class Degradation(abc.ABC):
    """Makes real images worse, level by level.

    Attributes:
        title: what is done, with the unit of a level.
        levels: from little to much.
        expected: the numbers whose direction is known, +1 for up, against whole images of the same number.
    """

    title: ClassVar[str]
    levels: ClassVar[tuple[float, ...]]
    expected: ClassVar[Mapping[str, int]]

    @abc.abstractmethod
    def apply(self, images: np.ndarray, labels: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, H, W, C] and labels [N] -> the same of at most N images."""


class Blur(Degradation):
    """A Gaussian blur of every image, borders reflected."""

    title = "Gaussian blur, sigma in pixels"
    levels = (0.5, 0.75, 1.0, 1.5, 2.0)
    expected = {"fid": 1, "kid": 1, "precision": -1}

    def apply(self, images: np.ndarray, labels: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        from scipy import ndimage

        blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, level, level, 0))
        return np.clip(np.round(blurred), 0, 255).astype(np.uint8), labels


class Noise(Degradation):
    """Gaussian noise on every value."""

    title = "Gaussian noise, standard deviation in grey levels of 255"
    levels = (4.0, 8.0, 16.0, 32.0, 64.0)
    expected = {"fid": 1, "kid": 1, "precision": -1}

    def apply(self, images: np.ndarray, labels: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        noise = np.random.default_rng(SEED).standard_normal(images.shape, np.float32) * level
        return np.clip(np.round(images + noise), 0, 255).astype(np.uint8), labels


class Imbalance(Degradation):
    """Classes of unlike size: from one class to the next their shares fall by one factor."""

    title = "Class imbalance, largest class over smallest"
    levels = (2.0, 5.0, 10.0, 30.0, 100.0)
    expected = {"fid": 1, "kid": 1}

    def apply(self, images: np.ndarray, labels: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        classes, sizes = np.unique(labels, return_counts=True)
        if len(classes) < 2:
            raise UserError("class imbalance needs at least two classes")
        wanted = np.round(sizes.min() * level ** (-np.arange(len(classes)) / (len(classes) - 1))).astype(int)
        generator = np.random.default_rng(SEED)
        chosen = [
            generator.choice(np.flatnonzero(labels == one), count, replace=False)
            for one, count in zip(classes, np.maximum(wanted, 1), strict=True)
        ]
        rows = generator.permutation(np.concatenate(chosen))
        return images[rows], labels[rows]


class DroppedClasses(Degradation):
    """Images of some classes are missing."""

    title = "Dropped classes, share of all"
    levels = (0.1, 0.2, 0.4, 0.6, 0.8)
    expected = {"fid": 1, "kid": 1, "recall": -1}

    def apply(self, images: np.ndarray, labels: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        classes = np.unique(labels)
        kept = classes[: len(classes) - max(1, round(level * len(classes)))]
        if not len(kept):
            raise UserError(f"of {len(classes)} classes a share of {level:g} cannot be dropped: give more classes")
        rows = np.flatnonzero(np.isin(labels, kept))
        return images[rows], labels[rows]


DEGRADATIONS: tuple[Degradation, ...] = (Blur(), Noise(), Imbalance(), DroppedClasses())


class Experiment:
    """Numbers of degraded images against a reference.

    Args:
        real: the reference.
        network: features of it, prepared for these images.
        cache: of the reference's features.
    """

    def __init__(self, real: RealImages, network: Extractor, cache: Cache):
        self.real, self.network, self.cache = real, network, cache
        self.keep = frozenset[str]().union(*(metric.needs for metric in METRICS))
        title = f"features of {real.reference.name}"
        self.reference = Evidence(real.reference, extract_cached(real.reference, network, self.keep, title, cache))

    def numbers(self, images: np.ndarray, labels: np.ndarray, name: str) -> dict[str, float]:
        """All numbers of images [N, H, W, C] in the place of samples."""
        samples = ArrayImages(images, labels, name)
        for metric in METRICS:
            metric.check(real=self.real, samples=samples)
        ours = Evidence(samples, extract(samples, self.network, self.keep, name))
        found: dict[str, float] = {}
        for metric in METRICS:
            found |= metric.compute(reference=self.reference, samples=ours, real=self.real, cache=self.cache)
        return found

    def run(self, images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Every degradation at every level beside whole images of the same number: JSON-able."""
        whole: dict[int, dict[str, float]] = {}
        order = np.random.default_rng(SEED).permutation(len(images))
        found = []
        for degradation in DEGRADATIONS:
            rows = []
            for level in degradation.levels:
                worse, their_labels = degradation.apply(images, labels, level)
                count = len(worse)
                if count not in whole:
                    chosen = np.sort(order[:count])
                    whole[count] = self.numbers(images[chosen], labels[chosen], f"{count} whole images")
                numbers = self.numbers(worse, their_labels, f"{type(degradation).__name__} {level:g}")
                rows.append({"level": level, "count": count, "numbers": numbers, "whole": whole[count]})
                say(f"{type(degradation).__name__} {level:g}: " + ", ".join(f"{k} {numbers[k]:.4g}" for k in SHOWN))
            found.append(
                {"name": type(degradation).__name__, "title": degradation.title, "expected": dict(degradation.expected)}
                | {"levels": rows}
            )
        return found


def is_met(degradation: Mapping[str, Any], key: str) -> bool:
    """Whether a number goes its way as the degradation grows.

    Distances must at every level. Precision and recall must at the strongest level, and no more pairs of levels may go
    back than on: a little noise or blur takes images to where features lie closer together, and may raise precision.
    """
    sign = degradation["expected"][key]
    rows = degradation["levels"]
    changes = [(row["numbers"][key] - row["whole"][key]) * sign for row in rows]
    if key in AT_EVERY_LEVEL:
        return min(changes) > 0
    steps = [np.sign(later - sooner) for sooner, later in itertools.combinations(changes, 2)]
    return changes[-1] > 0 and sum(steps) >= 0


def wrong_signs(degradations: Sequence[Mapping[str, Any]]) -> list[str]:
    """What goes the other way than it must, in words; empty where all signs are met."""
    return [
        f"{each['title']}: {key} should go {'up' if sign > 0 else 'down'}, and from whole images to the levels went "
        + ", ".join(f"{row['whole'][key]:.6g} to {row['numbers'][key]:.6g}" for row in each["levels"])
        for each in degradations
        for key, sign in each["expected"].items()
        if not is_met(each, key)
    ]


def measure(real: RealImages, images: ImageSet, features: FeatureNetwork, cache: Cache, title: str) -> dict[str, Any]:
    """The result of the whole experiment, JSON-able.

    Raises:
        UserError: the images have no labels, or do not fit the reference.
    """
    if not images.classes:
        raise UserError(f"{images.name} has no labels: classes cannot be dropped (arr_1, or sub-folders)")
    if images.shape != real.reference.shape:
        raise UserError(f"{images.name} has images of {images.shape}, {real.reference.name} of {real.reference.shape}")
    features.check(real)
    network = features.prepare(real, cache)
    pixels, labels = images.arrays()
    if labels is None:
        raise UserError(f"{images.name} has no labels")
    protocol: dict[str, str] = {}
    for metric in METRICS:
        protocol |= metric.protocol(images.count, network.title)
    return {
        "title": title,
        "images": {"name": images.name, "count": images.count, "fingerprint": images.fingerprint()},
        "reference": {"name": real.reference.name, "count": real.reference.count},
        "feature_network": dict(network.facts),
        "protocol": {key: text for key, text in protocol.items() if key in SHOWN},
        "seed": SEED,
        "degradations": Experiment(real, network, cache).run(pixels, labels),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    from harness import choices, degradation_page
    from harness.evaluate import default_cache, real_from_files
    from harness.samples import open_images

    parser = argparse.ArgumentParser(
        prog="python -m harness.degradations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", nargs="?", metavar="REFERENCE", help="real images, as in harness.evaluate")
    parser.add_argument("images", nargs="?", metavar="IMAGES", help="other real images, with labels")
    parser.add_argument("--render", type=Path, metavar="JSON", help="write the page of what was measured before")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE", help="the page (.md); figures/ beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    parser.add_argument("--title", help="of the images (default: their name)")
    parser.add_argument("--features", default="classifier", metavar="NETWORK", help="classifier or inception[:WEIGHTS]")
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier (default %(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER", help="of finished work")
    options = parser.parse_args(arguments)
    if options.render is not None:
        result = json.loads(options.render.read_text(encoding="utf-8"))
    elif options.reference is None or options.images is None:
        raise UserError("give REFERENCE and IMAGES to measure, or --render JSON to write the page of a measurement")
    else:
        images = open_images(options.images, allow_lossy=True)
        real = real_from_files(options.reference, options.images)
        import_tensorflow()
        network = choices.feature_network(options.features, None, options.epochs)
        result = measure(real, images, network, Cache(options.cache), options.title or images.name)
        if options.json is not None:
            write_json(options.json, result)
    degradation_page.write(options.out, result)
    wrong = wrong_signs(result["degradations"])
    for line in wrong:
        say(f"wrong way: {line}")
    say(f"page in {options.out}; " + (f"{len(wrong)} signs are wrong" if wrong else "all expected signs are met"))
    return 1 if wrong else 0


if __name__ == "__main__":
    command(main)
