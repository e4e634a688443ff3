"""Files of feature statistics as ADM, pytorch-fid and clean-fid write them: mean and covariance without images."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.cache import write_arrays
from harness.images import Batch, ImageSet
from harness.metrics.statistics import Moments
from harness.npz import Header, read_array, read_headers
from zoo.console import UserError

# The file names of clean-fid: NAME_MODE[_MODEL]_SPLIT_RESOLUTION[_kid].npz
CLEAN_FID = re.compile(
    r"(?P<name>.+)_(?P<mode>clean|legacy_tensorflow|legacy_pytorch)(?P<model>_clip_vit_b_32)?"
    r"_(?P<split>[^_]+)_(?P<resolution>\d+|na)(?P<kid>_kid)?$"
)
# What its modes do to an image, by the names of harness/features/resizing.py; the last one is not among them.
RESIZE_OF_MODE = {
    "clean": "clean-fid bicubic",
    "legacy_tensorflow": "TF1 bilinear",
    "legacy_pytorch": "PyTorch bilinear",
}
FEWEST = 2  # images that have a covariance: what is known where a file does not say


@dataclass(frozen=True)
class GivenMoments(Moments):
    """Mean [D] and covariance [D, D] as a file gives them, to the bit; nothing can be added to them."""

    given: np.ndarray | None = None

    @property
    def covariance(self) -> np.ndarray:
        return self.scatter / (self.count - 1) if self.given is None else self.given

    def merge(self, other: Moments) -> Moments:
        raise UserError("finished statistics cannot be merged, for their count may be unknown: merge shards instead")


@dataclass(frozen=True)
class Statistics:
    """What a file says of the features of a set of images.

    Attributes:
        path: the file.
        layout: whose it is, such as 'clean-fid'.
        moments: of the pooled features.
        spatial: of the spatial features, for sFID.
        count: number of images behind them; None where the file does not say.
        shape: (height, width, channels) of these images, or None.
        extractor: facts of the feature network, or None.
        resize: the filter by which images came to the network's size, if the layout or the file says it.
        vectors: number of feature vectors in the file; 0 if there are none.
    """

    path: Path
    layout: str
    moments: Moments
    spatial: Moments | None = None
    count: int | None = None
    shape: tuple[int, int, int] | None = None
    extractor: Mapping[str, Any] | None = None
    resize: str | None = None
    vectors: int = 0

    def pooled(self) -> np.ndarray:
        """The feature vectors float32 [N, D], where the file has them."""
        return read_array(self.path, "feats").astype(np.float32, copy=False)

    def misfit(self, facts: Mapping[str, Any]) -> str | None:
        """Why features of a network cannot be compared with these; None where they can, as far as the file tells.

        Args:
            facts: of the network.
        """
        mine = self.extractor
        if mine is not None and mine.get("identity") != facts.get("identity"):
            return (
                f"{self.path.name} was made with {_described(mine)}, the features are those of {_described(facts)}: "
                "take the same feature network, or build the reference again"
            )
        dimensions = facts.get("dimensions", self.moments.dimensions)
        if dimensions != self.moments.dimensions:
            return (
                f"{self.path.name} has {self.moments.dimensions} dimensions, the features of {_described(facts)} have "
                f"{dimensions}: take the same feature network, or build the reference again"
            )
        if mine is None and not str(facts.get("title", "")).startswith("Inception"):
            return (
                f"{self.path.name} does not say its feature network, and files of its kind ({self.layout}) are made "
                f"with Inception, not with {_described(facts)}: take --features inception"
            )
        if mine is None and self.resize not in (None, facts.get("resize")):
            return (
                f"{self.path.name} is of images resized by {self.resize!r} (from its name), the features are of images "
                f"resized by {facts.get('resize')!r}: take the filter of the file (--resize), if it is one of those"
            )
        return None

    def unstated(self) -> str:
        """What the file leaves open, in words; empty if nothing."""
        known: dict[str, Any] = {"feature network": self.extractor, "resize filter": self.resize or self.extractor}
        known |= {"number of images": self.count, "size of the images": self.shape}
        return ", ".join(name for name, value in known.items() if value is None)

    def serves(self) -> list[str]:
        """Names of the metrics that it suffices for."""
        found = ["fid"] + ["sfid"] * (self.spatial is not None)
        return found + ["kid", "precision", "recall"] * bool(self.vectors)


class ReferenceStatistics(ImageSet):
    """Statistics in the place of images, for FID and sFID; whoever asks for a picture is told that there is none.

    Args:
        path: an .npz file with `mu` and `sigma`, or clean-fid's `feats`.
    """

    has_images = False

    def __init__(self, path: Path):
        found = read_statistics(path)
        self.statistics: Statistics = found
        self.name = self.dataset = path.stem
        self.count = FEWEST if found.count is None else found.count
        self.shape = found.shape or (0, 0, 0)
        self.classes = 0

    def parts(self) -> Iterator[Batch]:
        raise UserError(f"{self.name} holds statistics and no images: give the images for all but FID and sFID")

    def fingerprint(self) -> str:
        with self.statistics.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def holds_statistics(names: Mapping[str, Any]) -> bool:
    """Whether arrays of these names are statistics of features."""
    return {"mu", "sigma"} <= set(names) or "feats" in names


def read_statistics(path: Path) -> Statistics:
    """The statistics of a file of any of the layouts.

    Raises:
        UserError: they are no statistics: wrong shapes, NaN, not symmetric.
    """
    headers = read_headers(path)
    if not holds_statistics(headers):
        raise UserError(f"{path} has no statistics (mu, sigma), it holds {', '.join(headers) or 'nothing'}")
    count = int(read_array(path, "count")) if "count" in headers else None
    facts = _read_facts(path) if "extractor" in headers else None
    named = CLEAN_FID.match(path.stem)
    vectors = headers["feats"].shape[0] if "feats" in headers else 0
    if "mu" in headers:
        moments: Moments = _read_pair(path, "mu", "sigma", count)
    else:
        moments = _moments_of_vectors(path, headers["feats"])
        count = vectors
    return Statistics(
        path,
        layout="this project" if facts else "clean-fid" if named else "ADM" if "mu_s" in headers else "pytorch-fid",
        moments=moments,
        spatial=_read_pair(path, "mu_s", "sigma_s", count) if {"mu_s", "sigma_s"} <= set(headers) else None,
        count=count,
        shape=_shape(path, headers, named),
        extractor=facts,
        resize=str(facts.get("resize")) if facts else RESIZE_OF_MODE.get(named["mode"]) if named else None,
        vectors=vectors,
    )


def write_statistics(
    path: Path,
    pooled: Moments,
    facts: Mapping[str, Any],
    spatial: Moments | None = None,
    shape: tuple[int, int, int] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes `mu`, `sigma` (and `mu_s`, `sigma_s`) as float64, which ADM, pytorch-fid and clean-fid read alike.

    Args:
        facts: of the feature network.
        shape: of the images behind the statistics.
        images: `arr_0` and perhaps `arr_1` to go with them, as in ADM's reference batches.
    """
    arrays: dict[str, np.ndarray] = {"mu": pooled.mean, "sigma": pooled.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    arrays |= {"count": np.array(pooled.count), "extractor": np.array(json.dumps(dict(facts)))}
    if shape is not None:
        arrays["shape"] = np.array(shape)
    write_arrays(path, arrays | dict(images or {}))


def clean_fid_name(name: str, facts: Mapping[str, Any], split: str, resolution: str) -> str:
    """The name under which clean-fid looks for statistics: NAME_MODE_SPLIT_RESOLUTION.npz, in small letters.

    Raises:
        UserError: clean-fid has no mode with this resize filter.
    """
    modes = {resize: mode for mode, resize in RESIZE_OF_MODE.items()}
    mode = modes.get(str(facts.get("resize")))
    if mode is None or not str(facts.get("title", "")).startswith("Inception"):
        raise UserError(
            f"clean-fid has no statistics of {_described(facts)} with the resize filter {facts.get('resize')!r}; "
            f"it has Inception with {', '.join(modes)}: write the file under a name of your own (--out)"
        )
    return f"{name}_{mode}_{split}_{resolution}.npz".lower()


def _read_pair(path: Path, mean_name: str, covariance_name: str, count: int | None) -> Moments:
    """A mean and a covariance, checked."""
    mean, covariance = (read_array(path, name).astype(np.float64) for name in (mean_name, covariance_name))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path}: shapes {mean.shape} and {covariance.shape} are not a mean [D] and covariance [D, D]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: the statistics have NaN or infinite entries: build them again")
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * np.abs(covariance).max()):
        raise UserError(f"{path}: the covariance is not symmetric: build it again")
    known = FEWEST if count is None else count
    return GivenMoments(known, mean, covariance * (known - 1), covariance)


def _moments_of_vectors(path: Path, header: Header) -> Moments:
    if len(header.shape) != 2 or header.shape[0] < FEWEST:
        raise UserError(f"{path}: feats must be at least two feature vectors [N, D], got {list(header.shape)}")
    try:
        return Moments.of(read_array(path, "feats"))
    except ValueError as error:
        raise UserError(f"{path}: {error}: build it again") from error


def _read_facts(path: Path) -> Mapping[str, Any]:
    try:
        facts = json.loads(str(read_array(path, "extractor")))
    except ValueError as error:
        raise UserError(f"{path}: extractor is not JSON ({error}): build the file again") from error
    if not isinstance(facts, dict):
        raise UserError(f"{path}: extractor must be the facts of a feature network, got {facts!r}: build it again")
    return facts


def _shape(path: Path, headers: Mapping[str, Header], named: re.Match[str] | None) -> tuple[int, int, int] | None:
    """The size of the images behind the statistics."""
    if "shape" in headers:
        height, width, channels = (int(side) for side in read_array(path, "shape"))
        return height, width, channels
    if "arr_0" in headers and len(headers["arr_0"].shape) == 4:
        _, height, width, channels = headers["arr_0"].shape
        return height, width, channels
    if named is not None and named["resolution"] != "na":
        return int(named["resolution"]), int(named["resolution"]), 3
    return None


def _described(facts: Mapping[str, Any]) -> str:
    """A feature network in a message."""
    return f"{facts.get('title', 'an unknown network')} ({str(facts.get('identity', '?'))[:12]})"
