"""A second opinion: FID, KID and inception score by tensorflow-gan's metric functions on the same features.

Nothing of them is shared with this project: another Frechet distance (float32, by eigenvectors), another kernel
estimate, another inception score.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.metrics.frechet import frechet_distance
from harness.metrics.inception_score import inception_score
from harness.metrics.kernel import kernel_distance_of_all
from harness.metrics.metric import Features
from harness.metrics.statistics import Moments
from zoo.console import UserError, import_tensorflow, say

PACKAGE = "tensorflow_gan"
AT_ONCE = 4000  # vectors of each side in a kernel matrix, which tensorflow-gan holds whole

Row = tuple[str, float, float]


def classifier_metrics() -> Any:
    """tensorflow-gan's module of metric functions.

    Its package asks for tf.estimator, which TensorFlow no longer has; its metric modules do not. They are reached
    through empty packages in the place of those whose `__init__` would fail.

    Raises:
        UserError: tensorflow-gan is not installed.
    """
    found = importlib.util.find_spec(PACKAGE) if PACKAGE not in sys.modules else sys.modules[PACKAGE].__spec__
    if found is None or not found.submodule_search_locations:
        raise UserError("the second opinion needs tensorflow-gan, which is not installed: pip install tensorflow-gan")
    import_tensorflow()
    folder = found.submodule_search_locations[0]
    for name in (PACKAGE, f"{PACKAGE}.python", f"{PACKAGE}.python.eval"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = ["/".join([folder, *name.split(".")[1:]])]
            package.__spec__ = importlib.util.spec_from_loader(name, None, is_package=True)
            if package.__spec__ is not None:
                package.__spec__.submodule_search_locations = list(package.__path__)
            sys.modules[name] = package
    return importlib.import_module(f"{PACKAGE}.python.eval.classifier_metrics")


def cross_check(reference: Features, samples: Features) -> list[Row]:
    """(name, ours, theirs) of what both compute from these features by one definition.

    FID of all vectors; KID of the first vectors of each side in one block; the inception score of one split.

    Raises:
        UserError: neither vectors nor logits were kept.
    """
    theirs = classifier_metrics()
    import tensorflow as tf

    rows: list[Row] = []
    if reference.pooled is not None and samples.pooled is not None:
        one, other = _moments(reference), _moments(samples)
        ours = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
        # In float64: their eigenvectors in float32 would be off by more than the distance of good samples.
        arrays = [tf.constant(side.pooled, tf.float64) for side in (reference, samples)]
        rows.append(("fid", ours, float(theirs.frechet_classifier_distance_from_activations(*arrays))))
        count = min(len(reference.pooled), len(samples.pooled), AT_ONCE)
        first = [side.pooled[:count] for side in (reference, samples) if side.pooled is not None]
        ours = kernel_distance_of_all(*first)
        blocks = theirs.kernel_classifier_distance_from_activations(
            *(tf.constant(array, tf.float64) for array in first), max_block_size=count, dtype=tf.float64
        )
        rows.append((f"kid of {count}", ours, float(blocks)))
    if samples.logits is not None:
        score = theirs.classifier_score_from_logits(tf.constant(samples.logits, tf.float64))
        rows.append(("is_one_split", inception_score(samples.logits), float(np.asarray(score))))
    if not rows:
        raise UserError("the second opinion needs pooled features or logits: add KID or InceptionScore to the metrics")
    return rows


def _moments(features: Features) -> Moments:
    """Of the vectors themselves: those of a reference file may be of more images than are in it."""
    vectors = features.pooled
    if vectors is None or features.moments.count == len(vectors):
        return features.moments
    return Moments.merged(Moments.of(vectors[start : start + AT_ONCE]) for start in range(0, len(vectors), AT_ONCE))


def print_cross_check(rows: Sequence[Row]) -> None:
    """Shows both numbers and how far they are apart."""
    say(f"{'':16s} {'this project':>16s} {'tensorflow-gan':>16s} {'relative':>9s}")
    for name, ours, theirs in rows:
        apart = abs(ours - theirs) / max(abs(ours), abs(theirs), np.finfo(np.float64).tiny)
        say(f"{name:16s} {ours:16.9g} {theirs:16.9g} {apart:9.0e}")
