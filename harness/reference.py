"""Makes and explains reference files: statistics of real images in ADM's layout.

    python -m harness.reference build IMAGES --out reference.npz
    python -m harness.reference build IMAGES --out part-3.npz --shard 3/8
    python -m harness.reference merge part-*.npz --out reference.npz
    python -m harness.reference inspect FILE

IMAGES is anything that python -m harness.evaluate takes as images. A file that
is made here has mu and sigma (with Inception mu_s and sigma_s too), which ADM's
evaluator, pytorch-fid and clean-fid read as their own, and beside them the
count and the feature network, so that unlike things are never compared.
Shards are merged by their index: the same bits in whatever order they were made
or are named; equal to one build without shards to rounding (1e-12).
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness import shards
from harness.cache import Cache
from harness.evaluate import default_cache, real_from_files
from harness.images import ImageSet
from harness.inspection import inspect
from harness.statistics_files import clean_fid_name, write_statistics
from zoo.console import UserError, command, import_tensorflow, say


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a reference file is built with.

    Attributes:
        features, resize, epochs: see `harness.choices.feature_network`.
        images: how many images go into the file, drawn at random, for precision, recall and KID.
        shard: (index, number) of the part of the images, index from 0; None for all.
        clean_fid: name under which clean-fid is to find the file; `out` is a folder then.
    """

    features: str = "classifier"
    resize: str | None = None
    epochs: int = 3
    images: int = 0
    shard: tuple[int, int] | None = None
    clean_fid: str | None = None


def build(spelling: str, out: Path, cache: Path, plan: Plan) -> Path:
    """Writes the statistics of all images, or of one shard of them; returns the place of the file.

    Raises:
        UserError: images and feature network do not fit.
    """
    real = real_from_files(spelling, None)
    if not real.reference.has_images:
        raise UserError(f"{spelling} holds statistics and no images: there is nothing to build from")
    if not 0 <= plan.images <= real.reference.count:
        raise UserError(f"--images must be at most the {real.reference.count} images there are, got {plan.images}")
    import_tensorflow()
    from harness.choices import feature_network
    from harness.features.network import extract_cached

    features = feature_network(plan.features, plan.resize, plan.epochs)
    network = features.prepare(real, Cache(cache))
    place = out if plan.clean_fid is None else out / clean_fid_name(plan.clean_fid, network.facts, "custom", "na")
    part = real.reference if plan.shard is None else shards.part(real.reference, *plan.shard)
    keep = features.gives & {"spatial"}
    found = extract_cached(part, network, keep, f"features of {part.name}", Cache(cache))
    if plan.shard is None:
        extra = _drawn(real.reference, plan.images)
        write_statistics(place, found.moments, network.facts, found.spatial, part.shape, extra)
    else:
        origin = shards.Origin(*plan.shard, real.reference.fingerprint(), network.facts, part.shape)
        shards.write(place, found.moments, found.spatial, origin)
    say(f"{place}: {found.moments.count} images, {found.moments.dimensions} dimensions ({network.title})")
    return place


def merge(files: Sequence[Path], out: Path) -> None:
    """Writes the reference file that the shards together are.

    Raises:
        UserError: one is missing, there twice, or of other images or another feature network.
    """
    pooled, spatial, origin = shards.merged(files)
    write_statistics(out, pooled, origin.extractor, spatial, origin.shape)
    say(f"{out}: {pooled.count} images of {len(files)} shards, {pooled.dimensions} dimensions")


def _drawn(images: ImageSet, count: int) -> dict[str, np.ndarray]:
    """`count` images drawn without replacement, and their labels, as arrays of the ADM layout."""
    if not count:
        return {}
    chosen = images if count == images.count else images.split(count, seed=0)[0]
    pixels, labels = chosen.arrays()
    return {"arr_0": pixels} | ({} if labels is None else {"arr_1": labels})


def _shard(text: str) -> tuple[int, int]:
    """'3/8' -> (2, 8)."""
    index, _, number = text.partition("/")
    if not (index.isdigit() and number.isdigit() and 1 <= int(index) <= int(number)):
        raise argparse.ArgumentTypeError(f"must be i/n with 1 <= i <= n, got {text!r}")
    return int(index) - 1, int(number)


def make_parser() -> argparse.ArgumentParser:
    """The options of the three actions."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="action", required=True)
    building = commands.add_parser("build", help="statistics of real images")
    building.add_argument("images", metavar="IMAGES", help="as for python -m harness.evaluate")
    building.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    building.add_argument(
        "--features", default="classifier", metavar="NETWORK", help="classifier or inception[:WEIGHTS] (%(default)s)"
    )
    building.add_argument("--resize", metavar="FILTER", help="tf1, clean, bicubic or lanczos, for Inception")
    building.add_argument(
        "--images",
        dest="kept",
        type=int,
        default=0,
        metavar="N",
        help="put N images into the file, for precision, recall and KID (ADM: 10000)",
    )
    building.add_argument("--shard", type=_shard, metavar="i/n", help="only the i-th of n parts, to be merged")
    building.add_argument(
        "--clean-fid", metavar="NAME", help="write into the folder --out under the name by which clean-fid finds it"
    )
    building.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER", help="of finished work")
    building.add_argument("--epochs", type=int, default=3, help="of the classifier (%(default)s)")
    merging = commands.add_parser("merge", help="one file of shards")
    merging.add_argument("files", nargs="+", type=Path, metavar="FILE", help="every shard, in any order")
    merging.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    inspecting = commands.add_parser("inspect", help="what a file holds, and which metrics it can serve")
    inspecting.add_argument("file", type=Path, metavar="FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = make_parser().parse_args(arguments)
    if options.action == "inspect":
        say("\n".join(inspect(options.file)))
        return
    if options.action == "merge":
        merge(options.files, options.out)
        return
    if options.epochs < 1:
        raise UserError(f"--epochs must be positive, got {options.epochs}")
    if options.shard is not None and (options.kept or options.clean_fid):
        raise UserError("--shard writes a part to be merged: without --images and --clean-fid")
    plan = Plan(options.features, options.resize, options.epochs, options.kept, options.shard, options.clean_fid)
    build(options.images, options.out, options.cache, plan)


if __name__ == "__main__":
    command(main)
