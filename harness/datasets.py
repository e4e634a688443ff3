"""Splits of datasets and TFRecord files as sides of a comparison: 'tfds:cifar10:test', 'tfrecord:data/samples-*'.

Images are compared as they are stored; a size at the end ('tfds:imagenet2012:validation:256') crops them as ADM does.
"""

import functools
import glob
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image, UnidentifiedImageError

from harness.folders import CHANNELS, lossy_note
from harness.images import Batch, ImageSet
from harness.splits import SplitImages
from zoo.console import UserError
from zoo.data.crops import CenterCrop, Crop
from zoo.data.images import Images
from zoo.data.sources import Source
from zoo.data.tfds import TFDS
from zoo.data.tfrecords import TFRecords

DATASET = re.compile(r"(?P<name>.+?):(?P<split>[^:\[\]]+(\[[^\]]*\])?)(:(?P<size>\d+))?")
FILES = re.compile(r"(?P<files>.+?)(:(?P<size>\d+))?")
LABELS = ("label", "image/class/label", "class", "image/label")  # keys under which TFRecord files hold the class
LOSSY = frozenset({"JPEG", "WEBP"})


class AsStored(Crop):
    """Leaves images as they are: one of another size is an error, for a resize moves every score."""

    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        if picture.size != (size, size):
            raise ValueError(f"{picture.height}x{picture.width} pixels, where the others have {size}x{size}")
        return picture

    def reduce(self, image: np.ndarray, size: int) -> np.ndarray:
        return np.asarray(self.cut(Image.fromarray(image), size))


class DatasetImages(SplitImages):
    """A split whose records must all be sound: what is left out would be missing from the score without a word.

    Args:
        images: the source at one size.
        split: of the source.
        name: for messages and results.
        notes: see `ImageSet`.
    """

    def __init__(self, images: Images, split: str, name: str, notes: tuple[str, ...] = ()):
        super().__init__(images, "test")
        self.name, self.notes = name, notes
        self.dataset = Path(images.source.name).name or split
        if not self.count:
            raise UserError(f"{name} holds no images")

    def parts(self) -> Iterator[Batch]:
        yield from super().parts()
        problems = self.images.problems
        if problems:
            raise UserError(f"{len(problems)} images of {self.name} cannot be compared, the first is {problems[0]}")


class Picture(NamedTuple):
    """What an encoded picture is, from its header."""

    height: int
    width: int
    mode: str
    format: str


def open_dataset(spelling: str, allow_lossy: bool = False) -> ImageSet:
    """Opens `tfds:NAME:SPLIT[:SIZE]`, `tfrecord:PATTERN[:SIZE]` or the path of a TFRecord file.

    Args:
        spelling: NAME and SPLIT as TFDS understands them (TFDS_DATA_DIR is read, nothing is downloaded).
        allow_lossy: whether JPEG and WebP are taken.

    Raises:
        UserError: there is no such dataset, or its images are not of one size and SIZE is not given.
    """
    kind, _, rest = spelling.partition(":")
    if kind == "tfds":
        match = DATASET.fullmatch(rest)
        if match is None:
            raise UserError(f"{spelling} is no dataset: write tfds:NAME:SPLIT[:SIZE], such as tfds:cifar10:test")
        return _open_tfds(match["name"], match["split"], match["size"], allow_lossy)
    files = FILES.fullmatch(rest if kind == "tfrecord" else spelling)
    if files is None:
        raise UserError(f"{spelling} names no files: write tfrecord:PATTERN, such as 'tfrecord:data/samples-*'")
    return _open_records(os.path.expanduser(files["files"]), files["size"], allow_lossy)


def _open_tfds(name: str, split: str, size: str | None, allow_lossy: bool) -> ImageSet:
    source = TFDS(name)
    problem = source.missing()
    if problem:
        raise UserError(problem)
    source = _labelled_or_not(source)
    title = f"{name} {split}"
    encoded = next(iter(source.records(split).take(1).as_numpy_iterator()), None)
    if encoded is None:
        raise UserError(f"{title} holds no images")
    picture = _picture(encoded["image"], f"the first image of {title}")
    notes = (lossy_note(title, title, allow_lossy),) if picture.format in LOSSY else ()
    height, width, _ = _stored_shape(source, split)
    if size is not None:
        images = _images(source, split, int(size), CenterCrop(), picture)
    elif height is not None and height == width:
        images = _images(source, split, height, AsStored(), picture)
    else:
        raise UserError(
            f"the images of {title} are of several sizes or not square: say at which size they are cropped "
            f"centrally, such as tfds:{name}:{split}:64"
        )
    return DatasetImages(images, split, title, notes)


def _labelled_or_not(source: TFDS) -> TFDS:
    """The source, without labels where its dataset has none."""
    try:
        source.check()
    except UserError:
        source = TFDS(source.dataset, label=None)
        source.check()
    return source


def _stored_shape(source: Source, split: str) -> tuple[int | None, ...]:
    """(height, width, channels) as far as all images share them."""
    decoded = source.records(split).map(lambda record: source.decode(record, 0, split)["image"])
    return tuple(decoded.element_spec.shape)


def _open_records(pattern: str, size: str | None, allow_lossy: bool) -> ImageSet:
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise UserError(f"no file matches {pattern}: give TFRecord files, such as 'tfrecord:data/samples-*'")
    image, label = _keys(paths[0])
    found, largest, lossy = _scan(paths, image, label)
    title = Path(pattern).name
    sizes = {(picture.height, picture.width) for picture in found}
    if size is None and (len(sizes) > 1 or any(height != width for height, width in sizes)):
        raise UserError(
            f"{title} mixes image sizes or has oblong ones, {sorted(sizes)[:4]} (height, width): bring them to one "
            f"square size, or say at which size they are cropped centrally, tfrecord:{pattern}:64"
        )
    notes = (lossy_note(title, lossy, allow_lossy),) if lossy else ()
    # The source has a place for the name of a split in its pattern: here that name is the whole pattern.
    source = TFRecords("{split}", image, label, classes=largest + 1)
    crop = AsStored() if size is None else CenterCrop()
    picture = next(iter(found))
    images = _images(source, pattern, int(size or picture.height), crop, picture)
    return DatasetImages(images, pattern, title, notes)


def _images(source: Source, split: str, size: int, crop: Crop, picture: Picture) -> Images:
    return Images(source, size, crop, channels=CHANNELS[picture.mode], train=split, test=split)


def _keys(path: str) -> tuple[str, str | None]:
    """Names of the picture and of its class in the first record."""
    try:
        record = next(iter(tf.data.TFRecordDataset(path).take(1).as_numpy_iterator()), None)
        if record is None:
            raise UserError(f"{path} holds no images")
        features = tf.train.Example.FromString(record).features.feature
    except tf.errors.DataLossError as error:
        raise UserError(f"{path} is damaged: {error.message}: write it again") from None
    except DecodeError as error:
        raise UserError(f"{path} does not hold records of tf.train.Example ({error})") from error
    pictures = [key for key in features if _is_picture(features[key].bytes_list.value)]
    if len(pictures) != 1:
        raise UserError(
            f"{path}: a record must have one encoded picture (PNG, JPEG, ...), and has {len(pictures)} among its "
            f"features {', '.join(sorted(features))}"
        )
    labels = [key for key in LABELS if key in features and len(features[key].int64_list.value) == 1]
    return pictures[0], labels[0] if labels else None


def _is_picture(values: list[bytes]) -> bool:
    if len(values) != 1:
        return False
    try:
        Image.open(io.BytesIO(values[0])).close()
    except (OSError, UnidentifiedImageError):
        return False
    return True


def _scan(paths: list[str], image: str, label: str | None) -> tuple[set[Picture], int, str]:
    """The kinds of pictures in TFRecord files, the largest label (-1 if none), and where the first lossy one is.

    Only headers of pictures are read, not pixels.
    """
    keys = {image: tf.io.FixedLenFeature([], tf.string)}
    keys |= {label: tf.io.FixedLenFeature([], tf.int64)} if label else {}
    found: set[Picture] = set()
    largest, lossy = -1, ""
    parse = functools.partial(tf.io.parse_example, features=keys)
    for path in paths:
        number = 0
        try:
            for block in tf.data.TFRecordDataset(path).batch(256).map(parse).as_numpy_iterator():
                largest = max(largest, int(block[label].max()) if label else -1)
                if label and block[label].min() < 0:
                    raise UserError(f"{path}: labels must not be negative, got {block[label].min()}")
                for encoded in block[image]:
                    place = f"record {number} of {path}"
                    picture = _picture(encoded, place)
                    found.add(picture)
                    lossy = lossy or (place if picture.format in LOSSY else "")
                    number += 1
        except tf.errors.DataLossError as error:
            raise UserError(f"{path} is cut short or damaged after record {number} ({error.message})") from None
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{path}: a record lacks {' or '.join(keys)} ({error.message[:200]})") from None
    return found, largest, lossy


def _picture(encoded: bytes | np.bytes_, place: str) -> Picture:
    """The header of an encoded picture; refused where it has no one conversion to 8-bit grey or RGB."""
    try:
        with Image.open(io.BytesIO(bytes(encoded))) as image:
            picture = Picture(image.height, image.width, image.mode, str(image.format))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{place} cannot be read as an image ({error}): remove or replace it") from error
    if picture.mode not in CHANNELS:
        raise UserError(
            f"{place} has the mode {picture.mode}; 8-bit grey-scale (L) and RGB can be compared: convert it by a rule "
            "of your own, since transparency and depth have no one right conversion"
        )
    return picture
