"""Reads and writes sample sets in the layouts that people use: npz files of the ADM suite, shards, image folders."""

import hashlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.cache import write_arrays
from harness.folders import FolderImages
from harness.images import Batch, ImageSet
from zoo.console import UserError

Header = tuple[tuple[int, ...], np.dtype]


def open_images(path: Path) -> ImageSet:
    """Opens an npz file, a folder of npz shards or an image folder; reads headers only.

    Raises:
        UserError: there is nothing, or something else than uint8 images of one size.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".npz":
        return ShardImages([path], path.stem)
    if path.is_dir():
        shards = sorted(path.glob("shard-*.npz"), key=_natural) or sorted(path.glob("*.npz"), key=_natural)
        return ShardImages(shards, path.name) if shards else FolderImages(path)
    if not path.exists():
        raise UserError(f"{path} is not there: give an .npz file, a folder of .npz shards or a folder of images")
    raise UserError(f"{path} is neither an .npz file nor a folder: give one of these")


def write_samples(path: Path, images: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Writes one file of the ADM layout: uint8 [N, H, W, C] as `arr_0`, labels [N] as `arr_1`; atomically."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 [N, H, W, C], got {images.dtype} {images.shape}")
    write_arrays(path, {"arr_0": images} if labels is None else {"arr_0": images, "arr_1": labels})


class ShardImages(ImageSet):
    """One or several npz files with `arr_0` uint8 [N, H, W, C] and perhaps `arr_1` labels [N], one after another.

    Args:
        files: in order; only their headers and labels are read here.
        name: for messages and results.
    """

    def __init__(self, files: Sequence[Path], name: str):
        headers = [_checked_header(file) for file in files]
        self.files = list(files)
        self.name = self.dataset = name
        shapes = {header["arr_0"][0][1:] for header in headers}
        if len(shapes) > 1:
            raise UserError(f"{name} mixes image shapes {sorted(shapes)}: one set has one size")
        labelled = {"arr_1" in header for header in headers}
        if len(labelled) > 1:
            raise UserError(f"{name} has labels (arr_1) in some shards and none in others: write all or none")
        height, width, channels = shapes.pop()
        self.shape = (height, width, channels)
        self.count = sum(header["arr_0"][0][0] for header in headers)
        if self.count == 0:
            raise UserError(f"{name} holds no images")
        self.labelled = labelled.pop()
        self.classes = max(_classes(file) for file in self.files) if self.labelled else 0

    def parts(self) -> Iterator[Batch]:
        for file in self.files:
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    yield arrays["arr_0"], arrays["arr_1"].astype(np.int64) if self.labelled else None
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise UserError(f"{file} is damaged ({error}): write it again") from error

    def fingerprint(self) -> str:
        content = hashlib.sha256()
        for file in self.files:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        return content.hexdigest()


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every array of an npz file without reading the arrays."""
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        read = np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                headers[member.removesuffix(".npy")] = (shape, dtype)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is cut short or not an npz file ({error}): write it again") from error
    return headers


def _checked_header(path: Path) -> dict[str, Header]:
    """The headers of one file of images, refused with the reason where it is not of the ADM layout."""
    headers = read_headers(path)
    if "arr_0" not in headers:
        found = ", ".join(headers) or "nothing"
        hint = "; these are reference statistics: give the images" if "mu" in headers else ""
        raise UserError(f"{path} has no arr_0 with images, it holds {found}{hint}")
    for name, (_, dtype) in headers.items():
        if dtype.hasobject:
            raise UserError(f"{path}: {name} is a pickled object, which can run code when read: save plain arrays")
    shape, dtype = headers["arr_0"]
    if len(shape) != 4:
        raise UserError(f"{path}: arr_0 must have the shape [N, H, W, C], got {list(shape)}")
    if shape[3] not in (1, 3):
        advice = "; it looks channel-first: transpose it to [N, H, W, C]" if shape[1] in (1, 3) else ""
        raise UserError(f"{path}: images must have 1 or 3 channels in the last place, got {list(shape)}{advice}")
    if dtype != np.uint8:
        raise UserError(f"{path}: images must be uint8 from 0 to 255, got {dtype}: scale, round and convert them")
    if "arr_1" in headers:
        labels, kind = headers["arr_1"]
        if labels != shape[:1] or kind.kind not in "iu":
            raise UserError(
                f"{path}: arr_1 must be one integer label per image [{shape[0]}], got {kind} {list(labels)}"
            )
    return headers


def _classes(path: Path) -> int:
    """One more than the largest label of a file."""
    with np.load(path, allow_pickle=False) as arrays:
        labels = arrays["arr_1"]
    if len(labels) and labels.min() < 0:
        raise UserError(f"{path}: labels must not be negative, got {labels.min()}")
    return int(labels.max()) + 1 if len(labels) else 0


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sorting key under which shard-9 comes before shard-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
