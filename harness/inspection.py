"""What a reference or sample file holds, what each part is for, and which metrics it can serve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import shards
from harness.metrics.statistics import Moments
from harness.npz import Header, read_headers
from harness.samples import open_set
from harness.statistics_files import Statistics, holds_statistics
from zoo.console import UserError

PARTS = {
    "mu": "mean of the pooled features: FID",
    "sigma": "covariance of the pooled features, divided by n - 1: FID",
    "mu_s": "mean of the spatial features: sFID",
    "sigma_s": "covariance of the spatial features: sFID",
    "feats": "the pooled features themselves: FID, KID, precision, recall",
    "arr_0": "images: every metric, with any feature network",
    "arr_1": "labels of the images: the dataset classifier and the classification accuracy score",
    "count": "number of images behind the statistics",
    "shape": "height, width and channels of these images",
    "extractor": "the feature network behind the statistics (JSON): only features of the same identity compare",
    "shard": "index from 0 and number of shards: to be merged with the others",
    "mean": "mean of the pooled features of a shard",
    "scatter": "sum of (x - mean)(x - mean)^T over a shard",
    "mean_s": "mean of the spatial features of a shard",
    "scatter_s": "scatter of the spatial features of a shard",
    "origin": "images and feature network of a shard (JSON)",
}
FACTS = ("title", "identity", "dimensions", "resize", "weights", "accuracy", "input")  # in this order, where known


def inspect(path: Path) -> list[str]:
    """Lines that say what a file holds.

    Raises:
        UserError: it is no npz file, or neither images nor statistics that can be used.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there: give an .npz file")
    headers = read_headers(path)
    lines = [f"{path}: {len(headers)} arrays"]
    for name, (shape, dtype, _) in headers.items():
        lines.append(f"  {name:<10} {list(shape)!s:<20} {dtype!s:<8} {PARTS.get(name, 'not used here')}")
    if shards.is_shard(headers):
        return lines + _of_shard(path)
    if "arr_0" not in headers and not holds_statistics(headers):
        return [*lines, "  serves: nothing: neither images (arr_0) nor statistics (mu, sigma)"]
    return lines + _of_set(path, headers)


def _of_shard(path: Path) -> list[str]:
    origin = shards.read_origin(path)
    return [
        f"  shard {origin.index + 1} of {origin.number}, to be merged: python -m harness.reference merge",
        f"  feature network: {_told(origin.extractor)}",
    ]


def _of_set(path: Path, headers: Mapping[str, Header]) -> list[str]:
    """Lines on images, statistics and what both serve."""
    found = open_set(path, allow_lossy=True)
    lines = []
    labels = found.all_labels() if found.has_images else None
    if labels is not None:
        counts = np.bincount(labels)
        lines.append(f"  labels: {len(counts)} classes of {counts.min()} to {counts.max()} images")
    given = found.statistics
    if given is not None:
        lines += _of_statistics(given)
    if found.has_images and given is not None:
        of_statistics = ", ".join(given.serves())
        lines.append(f"  two references in one: {of_statistics} take the statistics, all else the {found.count} images")
    served = given.serves() if given is not None else []
    if found.has_images:
        served = [*served, *(name for name in ("fid", "sfid", "kid", "precision", "recall") if name not in served)]
        served += ["cas"] if "arr_1" in headers else []
    lines.append(f"  serves: {', '.join(served)}")
    return lines


def _of_statistics(given: Statistics) -> list[str]:
    lines = [f"  layout: {given.layout}; number of images: {given.count or 'not stated'}"]
    lines.append(f"  mu, sigma: {_judged(given.moments)}")
    if given.spatial is not None:
        lines.append(f"  mu_s, sigma_s: {_judged(given.spatial)}")
    lines.append(f"  resize filter: {given.resize or 'not stated'}")
    lines.append(f"  feature network: {_told(given.extractor) if given.extractor else 'not stated'}")
    if given.unstated():
        lines.append(f"  not stated: {given.unstated()}: a score against it says so")
    return lines


def _judged(moments: Moments) -> str:
    """What the eigenvalues say of a covariance [D, D]."""
    eigenvalues = np.linalg.eigvalsh(moments.covariance)
    dimensions = moments.dimensions
    rank = int((eigenvalues > dimensions * np.finfo(np.float64).eps * eigenvalues[-1]).sum())
    full = "full rank" if rank == dimensions else f"rank {rank}: fewer images than dimensions, or constant features"
    return f"{dimensions} dimensions, trace {eigenvalues.sum():.4g}, {full}"


def _told(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {facts[name]}" for name in FACTS if facts.get(name) is not None)
