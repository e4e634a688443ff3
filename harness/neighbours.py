"""The real images nearest to samples in feature space: has a model learnt its training images by heart?

    python -m harness.neighbours REFERENCE SAMPLES --out picture.png
    python -m harness.neighbours tfds:cifar10:train samples.npz --out p.png --samples 8 --neighbours 5

Each row of the picture is a sample and, after a gap, its nearest real images from
near to far (ADM, appendix C). REFERENCE and SAMPLES as in harness.evaluate. The
distances are printed; beside them how near real images are to one another, for a
distance says little alone.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.cache import Cache, write_json
from harness.features.network import Extractor, FeatureNetwork, extract, extract_cached
from harness.images import ImageSet, RealImages, Selection
from harness.metrics.neighbours import nearest
from zoo.console import UserError, command, import_tensorflow, say
from zoo.data.pictures import write_grid

KEEP = frozenset({"pooled"})
SMALLEST_SIDE = 64  # pixels that an image of the picture has at least


@dataclass(frozen=True)
class Neighbours:
    """The nearest reference images of some samples.

    Attributes:
        indices: places in the reference [n, k], from near to far.
        distances: Euclidean, in feature space [n, k].
        usual: distances of real images outside the reference to their nearest ones in it [m], or None.
    """

    indices: np.ndarray
    distances: np.ndarray
    usual: np.ndarray | None


def find_neighbours(
    features: FeatureNetwork, real: RealImages, samples: ImageSet, k: int, cache: Cache
) -> tuple[Neighbours, Extractor]:
    """The k nearest reference images of every sample, by the pooled features of a network.

    Raises:
        UserError: a set has no images or too few, or the network does not suit them.
    """
    for images in (real.reference, samples):
        if not images.has_images:
            raise UserError(f"{images.name} holds statistics alone: neighbours are found among images")
    if samples.shape != real.reference.shape:
        raise UserError(
            f"{samples.name} has images of {samples.shape}, {real.reference.name} of {real.reference.shape}"
        )
    if k > real.reference.count:
        raise UserError(f"there are {real.reference.count} real images, and {k} neighbours were asked for")
    features.check(real)
    network = features.prepare(real, cache)
    reference = _vectors(real.reference, network, cache)
    ours = extract(samples, network, KEEP, f"features of {samples.name}").pooled
    if ours is None:
        raise UserError(f"{samples.name} gave no features")
    indices, squared = nearest(ours, reference, k)
    usual = None
    if real.spare is not None:
        usual = np.sqrt(nearest(_vectors(real.spare, network, cache), reference, 1)[1][:, 0])
    return Neighbours(indices, np.sqrt(squared), usual), network


def picture(samples: ImageSet, reference: ImageSet, found: Neighbours) -> np.ndarray:
    """Rows of a sample, a white place and its neighbours: uint8 [n (k + 2), H, W, C]."""
    count, k = found.indices.shape
    own = samples.arrays()[0][:count]
    wanted = np.unique(found.indices)
    theirs = Selection(reference, wanted).arrays()[0][np.searchsorted(wanted, found.indices)]
    gap = np.full((count, 1, *own.shape[1:]), 255, np.uint8)
    return np.concatenate([own[:, None], gap, theirs], axis=1).reshape(count * (k + 2), *own.shape[1:])


def _vectors(images: ImageSet, network: Extractor, cache: Cache) -> np.ndarray:
    pooled = extract_cached(images, network, KEEP, f"features of {images.name}", cache).pooled
    if pooled is None:
        raise UserError(f"{images.name} gave no features")
    return pooled


def _report(found: Neighbours, network: Extractor, reference: ImageSet) -> None:
    say(f"distances in the features of the {network.title} to {reference.name}, from near to far:")
    for row, (indices, distances) in enumerate(zip(found.indices, found.distances, strict=True)):
        near = "  ".join(f"{distance:.4g} (#{index})" for index, distance in zip(indices, distances, strict=True))
        say(f"  sample {row}: {near}")
    if found.usual is not None:
        low, middle = np.quantile(found.usual, (0.01, 0.5))
        say(f"real images outside it: nearest at {middle:.4g} in the median, 1 in 100 nearer than {low:.4g}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from harness import choices
    from harness.evaluate import default_cache, real_from_files
    from harness.samples import open_images

    parser = argparse.ArgumentParser(
        prog="python -m harness.neighbours", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", metavar="REFERENCE", help="real images, such as those trained on")
    parser.add_argument("samples", metavar="SAMPLES", help="generated images")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="where the picture goes")
    parser.add_argument(
        "--samples", type=int, default=8, dest="count", help="how many at most, the first (%(default)s)"
    )
    parser.add_argument("--neighbours", type=int, default=5, help="of each (default %(default)s)")
    parser.add_argument("--features", default="classifier", metavar="NETWORK", help="classifier or inception[:WEIGHTS]")
    parser.add_argument("--held-out", metavar="IMAGES", help="real images outside REFERENCE, to compare distances with")
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="indices and distances as JSON")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER", help="of finished work")
    options = parser.parse_args(arguments)
    for name in ("count", "neighbours", "epochs"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('count', 'samples')} must be positive, got {getattr(options, name)}")
    whole = open_images(options.samples, allow_lossy=True)
    samples = whole.section(0, min(options.count, whole.count))
    real = real_from_files(options.reference, options.held_out)
    import_tensorflow()
    network = choices.feature_network(options.features, None, options.epochs)
    found, extractor = find_neighbours(network, real, samples, options.neighbours, Cache(options.cache))
    _report(found, extractor, real.reference)
    images = picture(samples, real.reference, found)
    write_grid(options.out, images, options.neighbours + 2, scale=-(-SMALLEST_SIDE // max(samples.shape[:2])))
    say(f"picture in {options.out}: each row a sample, then its neighbours")
    if options.json is not None:
        write_json(options.json, {"indices": found.indices.tolist(), "distances": found.distances.tolist()})


if __name__ == "__main__":
    command(main)
