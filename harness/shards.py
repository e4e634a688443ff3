"""Parts of a reference, made by several processes and merged by index: the same bits in whatever order they came."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.cache import write_arrays
from harness.images import ImageSet
from harness.metrics.statistics import Moments
from harness.npz import read_array, read_headers
from zoo.console import UserError


@dataclass(frozen=True)
class Origin:
    """Which part of what a shard is.

    Attributes:
        index, number: of the shard, counted from 0, and of shards.
        images: fingerprint of the whole set.
        extractor: facts of the feature network.
        shape: (height, width, channels) of the images.
    """

    index: int
    number: int
    images: str
    extractor: Mapping[str, Any]
    shape: tuple[int, int, int]


def part(images: ImageSet, index: int, number: int) -> ImageSet:
    """The images from N index / number to N (index + 1) / number.

    Raises:
        UserError: there are fewer than two images a part.
    """
    first, last = (images.count * bound // number for bound in (index, index + 1))
    if images.count < 2 * number:
        raise UserError(f"{images.name} has {images.count} images: too few for {number} shards of at least 2")
    return images.section(first, last - first)


def write(path: Path, pooled: Moments, spatial: Moments | None, origin: Origin) -> None:
    """Writes the sums of one part, which merge exactly where mean and covariance would not."""
    arrays = {"shard": np.array([origin.index, origin.number]), "count": np.array(pooled.count)}
    arrays |= {"mean": pooled.mean, "scatter": pooled.scatter}
    if spatial is not None:
        arrays |= {"mean_s": spatial.mean, "scatter_s": spatial.scatter}
    about = {"images": origin.images, "extractor": dict(origin.extractor), "shape": list(origin.shape)}
    write_arrays(path, arrays | {"origin": np.array(json.dumps(about))})


def is_shard(names: Mapping[str, Any]) -> bool:
    """Whether arrays of these names are a part of a reference."""
    return {"shard", "scatter", "origin"} <= set(names)


def read_origin(path: Path) -> Origin:
    """What a shard is.

    Raises:
        UserError: the file is none.
    """
    if not is_shard(read_headers(path)):
        raise UserError(f"{path} is no shard of a reference: merge takes files of `build --shard i/n`")
    index, number = (int(value) for value in read_array(path, "shard"))
    about = json.loads(str(read_array(path, "origin")))
    height, width, channels = about["shape"]
    return Origin(index, number, about["images"], about["extractor"], (height, width, channels))


def merged(files: Sequence[Path]) -> tuple[Moments, Moments | None, Origin]:
    """Pooled and spatial moments of all shards, merged in the order of their indices, and what they are of.

    Raises:
        UserError: one is missing, there twice, or of other images or another feature network.
    """
    origins = {file: read_origin(file) for file in files}
    first = origins[files[0]]
    by_index: dict[int, Path] = {}
    for file, origin in origins.items():
        unlike = {
            "number of shards": origin.number != first.number,
            "images": origin.images != first.images,
            "feature network": origin.extractor.get("identity") != first.extractor.get("identity"),
        }
        for what, differs in unlike.items():
            if differs:
                raise UserError(f"{file} and {files[0]} are of another {what}: build the shards by one command each")
        if origin.index in by_index:
            raise UserError(f"{file} and {by_index[origin.index]} are both shard {origin.index + 1}/{origin.number}")
        by_index[origin.index] = file
    missing = [str(index + 1) for index in range(first.number) if index not in by_index]
    if missing:
        raise UserError(f"of {first.number} shards {', '.join(missing)} are missing: build them, and name every file")
    ordered = [by_index[index] for index in range(first.number)]
    pooled = Moments.merged(_read(file, "") for file in ordered)
    has_spatial = "scatter_s" in read_headers(files[0])
    return pooled, Moments.merged(_read(file, "_s") for file in ordered) if has_spatial else None, first


def _read(path: Path, suffix: str) -> Moments:
    mean, scatter = (read_array(path, name + suffix) for name in ("mean", "scatter"))
    return Moments(int(read_array(path, "count")), mean, scatter)
