"""Scores a set of samples against real images: every number with its protocol, its floor and its provenance.

    python -m harness.evaluate REFERENCE SAMPLES [--held-out IMAGES] [--out result.json]

REFERENCE and SAMPLES are each an .npz file of the ADM layout (arr_0 uint8
[N, H, W, C], arr_1 labels), a folder of such shards, or a folder of images
(sub-folders are classes).
"""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cache import Cache, write_json
from harness.features.network import Extractor, FeatureNetwork, extract, extract_cached
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric
from zoo.console import UserError, command, import_tensorflow, say

if TYPE_CHECKING:
    from zoo.data.images import Images

FORMAT = 1  # of the result
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

    def check(self, real: RealImages, samples: ImageSet) -> None:
        """Fails where the sets do not fit each other or do not suffice for a metric; cheap."""
        if samples.shape != real.reference.shape:
            raise UserError(
                f"{samples.name} has images of {_size(samples)}, {real.reference.name} of {_size(real.reference)}: "
                "bring them to one size by a resize of your choice first, for it moves every score"
            )
        self.features.check(real)
        for metric in self.metrics:
            metric.check(real=real, samples=samples)

    def compare(
        self, real: RealImages, samples: ImageSet, cache: Cache, provenance: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The result (JSON-able) of samples against real images."""
        self.check(real, samples)
        network = self.features.prepare(real, cache)
        keep = frozenset[str]().union(*(metric.needs for metric in self.metrics))
        reference = Evidence(
            real.reference, extract_cached(real.reference, network, keep, f"features of {real.reference.name}", cache)
        )
        pair = self._floor_pair(real, reference, samples.count, network, keep, cache)
        ours = Evidence(samples, extract(samples, network, keep, f"features of {samples.name}"))
        numbers: dict[str, float] = {}
        floor: dict[str, float] = {}
        protocol: dict[str, str] = {}
        for metric in self.metrics:
            numbers |= metric.compute(reference=reference, samples=ours, real=real, cache=cache)
            floor |= self._floor(metric, pair, samples.count, network, real, cache)
            protocol |= metric.protocol(samples.count, network.title)
        result = _result(network, reference, ours, pair, real)
        scores = {"protocol": protocol, "metrics": numbers, "floor": floor, "cas_real_top1": floor.get("cas_top1")}
        versions = dict(provenance.get("versions", {})) | result["versions"]
        return {**provenance, **scores, **result, "versions": versions}

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
    network: Extractor, reference: Evidence, samples: Evidence, pair: tuple[Evidence, Evidence] | None, real: RealImages
) -> dict[str, Any]:
    """What was compared, and what a reader of the numbers must know."""
    return {
        "format": FORMAT,
        "dataset": real.reference.dataset,
        "resolution": real.reference.shape[0],
        "classifier_accuracy": network.facts.get("accuracy"),
        "counts": {
            "samples": samples.features.moments.count,
            "reference": reference.features.moments.count,
            "floor": pair[1].features.moments.count if pair else 0,
            "train": real.train.count,
            "held_out": real.held_out.count,
        },
        "feature_network": dict(network.facts),
        "reference": {"name": real.reference.name, "fingerprint": real.reference.fingerprint()},
        "sample_set": {"name": samples.images.name, "fingerprint": samples.images.fingerprint()},
        "resize": "none: images are compared at their own size",
        "warnings": _warnings(reference, samples, pair, real),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _warnings(
    reference: Evidence, samples: Evidence, pair: tuple[Evidence, Evidence] | None, real: RealImages
) -> list[str]:
    """What makes the numbers less than they seem."""
    found = [*samples.images.notes, *reference.images.notes]
    dimensions = samples.features.moments.dimensions
    for side in (samples, reference):
        count = side.features.moments.count
        if count <= dimensions:
            found.append(
                f"{side.images.name}: {count} images for {dimensions} feature dimensions; the covariance is singular "
                "and the Frechet distance far too large"
            )
    if pair is None:
        found.append(f"no floor: there are not {samples.images.count} real images outside the reference")
    elif pair[0].images is not real.reference:
        found.append(
            f"the floor compares {pair[1].images.count} images of the reference with its other "
            f"{pair[0].images.count}: there are no others"
        )
    return found


def _size(images: ImageSet) -> str:
    height, width, channels = images.shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels > 1 else ''}"


def real_from_files(reference: Path, held_out: Path | None) -> RealImages:
    """The real side from files: without held-out images a fifth of the reference is kept from all training."""
    from harness.samples import open_images

    whole = open_images(reference)
    if held_out is not None:
        test = open_images(held_out)
        if test.shape != whole.shape:
            raise UserError(f"{test.name} has images of {_size(test)}, {whole.name} of {_size(whole)}")
        return RealImages(whole, whole, test, spare=test)
    if whole.count < 10:
        raise UserError(f"{whole.name} has {whole.count} images: at least 10 are needed, to train and to test on")
    test, train = whole.split(whole.count // 5, seed=0)
    return RealImages(whole, train, test)


def default_evaluation(samples: ImageSet, epochs: int) -> Evaluation:
    """All metrics that these samples allow, on a classifier of the reference."""
    from harness.features.classifier import DatasetClassifier
    from harness.metrics.classification_accuracy import ClassificationAccuracy
    from harness.metrics.frechet import FID
    from harness.metrics.inception_score import InceptionScore
    from harness.metrics.kernel import KID
    from harness.metrics.precision_recall import PrecisionRecall

    metrics: list[Metric] = [FID(), InceptionScore(), KID(), PrecisionRecall()]
    if samples.classes:
        metrics.append(ClassificationAccuracy())
    return Evaluation(DatasetClassifier(epochs=epochs), tuple(metrics))


def default_cache() -> Path:
    """The user's cache folder, as the XDG base directories name it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-zoo"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="real images with labels")
    parser.add_argument("samples", type=Path, metavar="SAMPLES", help="generated images; labels for the CAS")
    parser.add_argument("--held-out", type=Path, help="real images outside REFERENCE; else a fifth of it is held out")
    parser.add_argument("--out", type=Path, help="file for the result (JSON)")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="folder for trained classifiers (default %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier on REFERENCE (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        raise UserError(f"--epochs must be positive, got {options.epochs}")
    real = real_from_files(options.reference, options.held_out)
    from harness.report import print_row
    from harness.samples import open_images

    samples = open_images(options.samples)
    say(f"{real.reference.count} real images, {samples.count} samples of {_size(samples)}; cache in {options.cache}")
    import_tensorflow()
    result = default_evaluation(samples, options.epochs).compare(real, samples, Cache(options.cache), {})
    print_row(result, [])
    if options.out is not None:
        write_json(options.out, result)
        say(f"result in {options.out}")


if __name__ == "__main__":
    command(main)
