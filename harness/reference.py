"""Makes and explains reference statistics in the layout of the ADM evaluation suite.

python -m harness.reference build IMAGES --out reference.npz      statistics of real images
python -m harness.reference inspect FILE                          what a file holds and what each part is for
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.cache import Cache, write_arrays
from harness.evaluate import default_cache, real_from_files
from harness.features.network import extract_cached
from harness.samples import read_headers
from zoo.console import UserError, command, import_tensorflow, say

PARTS = {
    "mu": "mean of the pooled features: FID",
    "sigma": "covariance of the pooled features, divided by n - 1: FID",
    "mu_s": "mean of the spatial features: sFID",
    "sigma_s": "covariance of the spatial features: sFID",
    "arr_0": "images: every metric, with any feature network",
    "arr_1": "labels of the images: the dataset classifier and the classification accuracy score",
    "count": "number of images behind the statistics",
    "extractor": "the feature network behind the statistics (JSON): only features of the same identity compare",
}


def build(images: Path, out: Path, cache: Path, epochs: int) -> None:
    """Writes mu [D] and sigma [D, D] of all images, with their count and the identity of the feature network."""
    real = real_from_files(images, None)
    import_tensorflow()
    from harness.features.classifier import DatasetClassifier

    network = DatasetClassifier(epochs=epochs).prepare(real, Cache(cache))
    moments = extract_cached(real.reference, network, frozenset(), f"features of {images.name}", Cache(cache)).moments
    about = {"count": np.array(moments.count), "extractor": np.array(json.dumps(dict(network.facts)))}
    write_arrays(out, {"mu": moments.mean, "sigma": moments.covariance, **about})
    say(f"{out}: statistics of {moments.count} images in {moments.dimensions} dimensions ({network.title})")


def inspect(path: Path) -> list[str]:
    """Lines that say what a file holds.

    Raises:
        UserError: it is no npz file, or its statistics are none.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there: give an .npz file")
    headers = read_headers(path)
    lines = [f"{path}: {len(headers)} arrays"]
    for name, (shape, dtype) in headers.items():
        if dtype.hasobject:
            raise UserError(f"{path}: {name} is a pickled object, which can run code when read: save plain arrays")
        lines.append(f"  {name:<10} {list(shape)!s:<20} {dtype!s:<8} {PARTS.get(name, 'not used here')}")
    with np.load(path, allow_pickle=False) as arrays:
        for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
            if mean in headers and covariance in headers:
                lines.append(f"  {mean}, {covariance}: {_judge(path, arrays[mean], arrays[covariance])}")
        if "arr_1" in headers:
            counts = np.bincount(arrays["arr_1"].astype(np.int64))
            lines.append(f"  labels: {len(counts)} classes of {counts.min()} to {counts.max()} images")
        if "extractor" in headers:
            lines.append(f"  feature network: {_facts(json.loads(str(arrays['extractor'])))}")
    return lines


def _judge(path: Path, mean: np.ndarray, covariance: np.ndarray) -> str:
    """What the eigenvalues say of a covariance [D, D]."""
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path}: shapes {mean.shape} and {covariance.shape} are not a mean [D] and covariance [D, D]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: the statistics have NaN or infinite entries: build them again")
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * np.abs(covariance).max()):
        raise UserError(f"{path}: the covariance is not symmetric: build it again")
    eigenvalues = np.linalg.eigvalsh(covariance.astype(np.float64))
    rank = int((eigenvalues > len(mean) * np.finfo(np.float64).eps * eigenvalues[-1]).sum())
    full = "full rank" if rank == len(mean) else f"rank {rank}: fewer images than dimensions, or constant features"
    return f"{len(mean)} dimensions, trace {eigenvalues.sum():.4g}, {full}"


def _facts(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="action", required=True)
    building = commands.add_parser("build", help="statistics of real images")
    building.add_argument(
        "images", type=Path, metavar="IMAGES", help=".npz file, folder of shards or of images; labelled"
    )
    building.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    building.add_argument("--cache", type=Path, default=default_cache(), help="folder for classifiers (%(default)s)")
    building.add_argument("--epochs", type=int, default=3, help="of the classifier (%(default)s)")
    inspecting = commands.add_parser("inspect", help="what a file holds")
    inspecting.add_argument("file", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.action == "inspect":
        say("\n".join(inspect(options.file)))
        return
    if options.epochs < 1:
        raise UserError(f"--epochs must be positive, got {options.epochs}")
    build(options.images, options.out, options.cache, options.epochs)


if __name__ == "__main__":
    command(main)
