"""Scores samples against real images: every number with its protocol and origin.

    python -m harness.evaluate REFERENCE SAMPLES [--out result.json]
    python -m harness.evaluate VIRTUAL_imagenet256_labeled.npz samples.npz
    python -m harness.evaluate tfds:cifar10:train pngs --features inception

REFERENCE and SAMPLES are each one of
  FILE.npz          ADM layout: arr_0 uint8 [N, H, W, C], perhaps arr_1 labels;
                    or statistics of ADM, pytorch-fid, clean-fid (mu, sigma);
                    or both, as in ADM's reference batches: FID and sFID are
                    then against the statistics, the rest against the images
  FOLDER            of such shards, of images (sub-folders are classes), or
                    of TFRecord files
  tfds:NAME:SPLIT   a dataset in TFDS_DATA_DIR; at the end :SIZE crops it
  tfrecord:PATTERN  TFRecord files, such as 'tfrecord:data/samples-*'

Images are compared as they are: 8-bit grey or RGB, of one size. What cannot be
compared ends with exit code 2; what makes a number less than it seems is a
named warning in the result.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cache import Cache, write_json
from harness.evaluation import Evaluation
from harness.features.network import FeatureNetwork
from harness.images import ImageSet, RealImages
from harness.likeness import size
from harness.stated_network import StatedNetwork
from zoo.console import UserError, command, import_tensorflow, say

SMALLEST_REFERENCE = 10  # images: some to train on, some to test on


def real_from_files(reference: str | Path, held_out: str | Path | None, train: str | Path | None = None) -> RealImages:
    """The real side from files: without held-out images a fifth of the reference is kept from all training.

    Args:
        reference: images or statistics.
        held_out: real images outside the reference, for the floor and for testing classifiers.
        train: images that classifiers learn from, where the reference has none or no labels.
    """
    from harness.samples import open_images, open_set

    whole = open_set(reference, allow_lossy=True)
    taught = whole if train is None else _alike(open_images(train, allow_lossy=True), whole)
    if held_out is not None:
        test = _alike(open_images(held_out, allow_lossy=True), whole)
        return RealImages(whole, taught, test, spare=test)
    if not taught.has_images:
        return RealImages(whole, whole, whole)
    if taught.count < SMALLEST_REFERENCE:
        raise UserError(
            f"{taught.name} has {taught.count} images: at least {SMALLEST_REFERENCE} are needed, to train and test on"
        )
    test, rest = taught.split(taught.count // 5, seed=0)
    return RealImages(whole, rest, test)


def _alike(images: ImageSet, reference: ImageSet) -> ImageSet:
    """Images of the reference's size."""
    if any(reference.shape) and images.shape != reference.shape:
        raise UserError(f"{images.name} has images of {size(images)}, {reference.name} of {size(reference)}")
    return images


def opened_samples(spelling: str, allow_lossy: bool, count: int | None) -> tuple[ImageSet, list[str]]:
    """The samples, all or the first `count`, and the named warning that says so.

    Raises:
        UserError: there are fewer, or the count of statistics is not known.
    """
    import dataclasses

    from harness.samples import open_set

    samples = open_set(spelling, allow_lossy)
    if not samples.has_images:
        given = samples.statistics
        if given is not None and given.count is None:
            if count is None:
                raise UserError(
                    f"{samples.name} does not say of how many images its statistics are, and FID depends on it: "
                    "--count N tells"
                )
            samples.statistics, samples.count = dataclasses.replace(given, count=count), count
            return samples, [f"stated-count: {samples.name} is of {count} images by --count, not by the file"]
        if count not in (None, samples.count):
            raise UserError(f"{samples.name} holds statistics of {samples.count} images: --count cannot change that")
        return samples, []
    if count is None or count == samples.count:
        return samples, []
    if not 0 < count <= samples.count:
        raise UserError(f"--count must be between 1 and the {samples.count} images of {samples.name}, got {count}")
    return samples.section(0, count), [f"part-of-samples: the first {count} of {samples.count} images (--count)"]


def chosen_evaluation(options: argparse.Namespace, real: RealImages, samples: ImageSet) -> tuple[Evaluation, list[str]]:
    """The feature network and the metrics that were asked for, or the usual ones, and what was left out of these."""
    from harness import choices

    features: FeatureNetwork
    mine, theirs = samples.statistics, real.reference.statistics
    if options.features is None and not (samples.has_images or real.reference.has_images) and mine and theirs:
        features = StatedNetwork(theirs, mine)
    else:
        word = options.features or choices.default_features(real.reference)
        if word == "classifier" and not real.train.has_images:
            raise UserError(
                f"the classifier learns from images, and {real.reference.name} holds statistics alone: give them by "
                "--train IMAGES, or take --features inception"
            )
        features = choices.feature_network(word, options.resize, options.epochs)
    left_out: list[str] = []
    if options.metrics is not None:
        metrics = choices.chosen_metrics(options.metrics)
    else:
        metrics, left_out = choices.default_metrics(features, real, samples)
    if options.full_cas:
        small = type(choices.chosen_metrics("cas")[0])
        metrics = [metric for metric in metrics if not isinstance(metric, small)]
        metrics += choices.chosen_metrics("full_cas")
    if options.clip is not None:
        metrics.append(choices.clip_score(options.clip, options.captions))
    if not metrics:
        raise UserError("nothing can be scored: " + "; ".join(left_out))
    return Evaluation(features, tuple(metrics)), left_out


def score(options: argparse.Namespace) -> dict[str, Any]:
    """The result of the options of the command line."""
    if options.epochs < 1:
        raise UserError(f"--epochs must be positive, got {options.epochs}")
    if options.out is not None and options.out.is_dir():
        raise UserError(f"--out must be a file, and {options.out} is a folder")
    if options.offline:
        os.environ["ZOO_OFFLINE"] = "1"
    samples, notes = opened_samples(options.samples, options.allow_lossy, options.count)
    real = real_from_files(options.reference, options.held_out, options.train)
    say(f"{_told(real.reference)}, {_told(samples)}; cache in {options.cache}")
    import_tensorflow()
    evaluation, left_out = chosen_evaluation(options, real, samples)
    cache = Cache(options.cache)
    allowed = [name for name in ("lossy", "few") if getattr(options, f"allow_{name}")]
    result = evaluation.compare(
        real, samples, cache, {"allowed": allowed}, allow_few=options.allow_few, cross_check=options.cross_check
    )
    result["warnings"] = [*left_out, *notes, *result["warnings"]]
    return result


def _told(images: ImageSet) -> str:
    """A set in one phrase."""
    if images.has_images:
        return f"{images.name}: {images.count} images of {size(images)}"
    return f"{images.name}: statistics"


def default_cache() -> Path:
    """The user's cache folder, as the XDG base directories name it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-zoo"


def make_parser() -> argparse.ArgumentParser:
    """The options, in groups; the help fits 80 columns."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", metavar="REFERENCE", help="what samples are compared with")
    parser.add_argument("samples", metavar="SAMPLES", help="generated images")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--features",
        metavar="NETWORK",
        help="classifier (trained on REFERENCE or --train, needs labels) or inception[:WEIGHTS] (default: inception "
        "for statistics, else classifier). Only Inception's numbers compare with published ones",
    )
    how.add_argument(
        "--resize",
        metavar="FILTER",
        help="how images come to Inception's size: tf1 (the published protocol, default), clean (clean-fid), "
        "bicubic, lanczos",
    )
    how.add_argument(
        "--metrics", metavar="LIST", help="of fid, sfid, is, is_adm, kid, precision, recall, cas, full_cas"
    )
    how.add_argument("--full-cas", action="store_true", help="CAS by ResNet-50, not by the small one: days")
    how.add_argument("--clip", metavar="FOLDER", help="also the CLIP score, by this preset folder of keras-hub")
    how.add_argument("--captions", metavar="FILE", help="for --clip: .txt, .json or .npz; else `captions` in SAMPLES")
    how.add_argument("--cross-check", action="store_true", help="print tensorflow-gan's numbers beside these")
    how.add_argument("--count", type=int, metavar="N", help="the first N samples only")
    how.add_argument("--epochs", type=int, default=3, help="of the classifier (default %(default)s)")
    files = parser.add_argument_group("files")
    files.add_argument("--held-out", metavar="IMAGES", help="real images outside REFERENCE; else a fifth is held out")
    files.add_argument("--train", metavar="IMAGES", help="what the classifier learns from, with labels; else REFERENCE")
    files.add_argument("--out", type=Path, metavar="FILE", help="where the result goes (JSON)")
    files.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    files.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER", help="of finished work")
    files.add_argument("--offline", action="store_true", help="never touch the network (also ZOO_OFFLINE=1)")
    allow = parser.add_argument_group("against better judgement; the result says so")
    allow.add_argument("--allow-lossy", action="store_true", help="score JPEG or WebP samples")
    allow.add_argument("--allow-few", action="store_true", help="FID of fewer images than feature dimensions")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = make_parser().parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        result = score(options)
    if options.json:
        say(json.dumps(result, indent=2))
    else:
        from harness.report import print_row

        print_row(result, [])
        for line in result.get("cross_check", []):
            say(f"tensorflow-gan: {line['name']:<24} {line['theirs']:.6g}   here {line['ours']:.6g}")
    if options.out is not None:
        write_json(options.out, result)
        if not options.json:
            say(f"result in {options.out}")


if __name__ == "__main__":
    command(main)
