"""Reads and writes sets of images in the layouts that people use: npz files of the ADM suite, shards, image folders."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.cache import write_arrays
from harness.folders import FolderImages
from harness.images import Batch, ImageSet
from harness.npz import Header, read_array, read_headers, read_rows
from harness.statistics_files import ReferenceStatistics, holds_statistics, read_statistics
from zoo.console import UserError, import_tensorflow

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?(\.|$)")  # in the names of TFRecord files


def open_set(spelling: str | Path, allow_lossy: bool = False) -> ImageSet:
    """Opens anything that can be one side of a comparison; reads headers and labels, no pixels.

    Args:
        spelling: an .npz file with images, statistics or both; a folder of .npz shards, of TFRecord files or of
            images; TFRecord files by a pattern; or a dataset, 'tfds:cifar10:test'.
        allow_lossy: whether JPEG and WebP files are taken.

    Raises:
        UserError: there is nothing, or something that cannot be compared; the message says what and what to do.
    """
    text = str(spelling)
    if text.startswith(("tfds:", "tfrecord:")) or (RECORDS.search(Path(text).name) and not Path(text).is_dir()):
        return _open_dataset(text, allow_lossy)
    path = Path(text).expanduser()
    if path.is_file() and path.suffix == ".npz":
        headers = read_headers(path)
        if "arr_0" not in headers and holds_statistics(headers):
            return ReferenceStatistics(path)
        return ShardImages([path], path.stem)
    if path.is_dir():
        return _open_folder(path, allow_lossy)
    if not path.exists():
        raise UserError(
            f"{path} is not there: give an .npz file, a folder of .npz shards or of images, TFRecord files, "
            "or a dataset such as tfds:cifar10:test"
        )
    raise UserError(f"{path} is neither an .npz file nor a folder nor a TFRecord file: give one of these")


def open_images(spelling: str | Path, allow_lossy: bool = False) -> ImageSet:
    """The same where there must be images.

    Raises:
        UserError: also where there are only statistics.
    """
    found = open_set(spelling, allow_lossy)
    if not found.has_images:
        raise UserError(f"{spelling} has no images: these are reference statistics: give the images")
    return found


def _open_folder(path: Path, allow_lossy: bool) -> ImageSet:
    shards = sorted(path.glob("shard-*.npz"), key=_natural) or sorted(path.glob("*.npz"), key=_natural)
    if shards:
        return ShardImages(shards, path.name)
    if any(RECORDS.search(entry.name) for entry in path.iterdir() if entry.is_file()):
        return _open_dataset(f"tfrecord:{path}/*", allow_lossy)
    return FolderImages(path, allow_lossy)


def _open_dataset(spelling: str, allow_lossy: bool) -> ImageSet:
    import_tensorflow()
    from harness.datasets import open_dataset

    return open_dataset(spelling, allow_lossy)


def write_samples(path: Path, images: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Writes one file of the ADM layout: uint8 [N, H, W, C] as `arr_0`, labels [N] as `arr_1`; atomically."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 [N, H, W, C], got {images.dtype} {images.shape}")
    write_arrays(path, {"arr_0": images} if labels is None else {"arr_0": images, "arr_1": labels})


class ShardImages(ImageSet):
    """One or several npz files with `arr_0` uint8 [N, H, W, C] and perhaps `arr_1` labels [N], one after another.

    A single file may hold statistics as well, as ADM's reference batches do.

    Args:
        files: in order; only their headers and labels are read here.
        name: for messages and results.
    """

    def __init__(self, files: Sequence[Path], name: str):
        headers = [_checked_headers(file) for file in files]
        self.files = list(files)
        self.name = self.dataset = name
        shapes = {header["arr_0"].shape[1:] for header in headers}
        if len(shapes) > 1:
            raise UserError(f"{name} mixes image shapes {sorted(shapes)}: one set has one size")
        labelled = {"arr_1" in header for header in headers}
        if len(labelled) > 1:
            raise UserError(f"{name} has labels (arr_1) in some shards and none in others: write all or none")
        height, width, channels = shapes.pop()
        self.shape = (height, width, channels)
        self.count = sum(header["arr_0"].shape[0] for header in headers)
        if self.count == 0:
            raise UserError(f"{name} holds no images")
        self._labels = np.concatenate([_read_labels(file) for file in self.files]) if labelled.pop() else None
        self.classes = 0 if self._labels is None else int(self._labels.max()) + 1
        if len(files) == 1 and holds_statistics(headers[0]):
            self.statistics = read_statistics(self.files[0])

    def parts(self) -> Iterator[Batch]:
        done = 0
        for file in self.files:
            for images in read_rows(file, "arr_0"):
                yield images, None if self._labels is None else self._labels[done : done + len(images)]
                done += len(images)

    def all_labels(self) -> np.ndarray | None:
        return self._labels

    def fingerprint(self) -> str:
        content = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                content.update(hashlib.file_digest(file, "sha256").digest())
        return content.hexdigest()


def _checked_headers(path: Path) -> Mapping[str, Header]:
    """The headers of one file of images, refused with the reason where it is not of the ADM layout."""
    headers = read_headers(path)
    if "arr_0" not in headers:
        raise UserError(f"{path} has no arr_0 with images, it holds {', '.join(headers) or 'nothing'}")
    shape, dtype, _ = headers["arr_0"]
    if len(shape) != 4:
        raise UserError(f"{path}: arr_0 must have the shape [N, H, W, C], got {list(shape)}")
    if shape[3] not in (1, 3):
        advice = "; it looks channel-first: transpose it to [N, H, W, C]" if shape[1] in (1, 3) else ""
        raise UserError(f"{path}: images must have 1 or 3 channels in the last place, got {list(shape)}{advice}")
    if dtype != np.uint8:
        raise UserError(f"{path}: images must be uint8 from 0 to 255, got {dtype}: scale, round and convert them")
    if "arr_1" in headers:
        labels, kind, _ = headers["arr_1"]
        if labels != shape[:1] or kind.kind not in "iu":
            raise UserError(
                f"{path}: arr_1 must be one integer label per image [{shape[0]}], got {kind} {list(labels)}"
            )
    return headers


def _read_labels(path: Path) -> np.ndarray:
    """int64 [N]."""
    labels = read_array(path, "arr_1").astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise UserError(f"{path}: labels must not be negative, got {labels.min()}")
    return labels


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sorting key under which shard-9 comes before shard-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
