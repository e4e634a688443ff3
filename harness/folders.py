"""Folders of image files: sub-folders are the classes, in alphabetical order; a flat folder has no labels."""

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.images import Batch, ImageSet
from zoo.console import UserError

LOSSLESS = frozenset({".png", ".bmp", ".ppm", ".tif", ".tiff"})
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
CHANNELS = {"L": 1, "RGB": 3}
PART = 256  # images decoded at a time


class FolderImages(ImageSet):
    """Image files of one size and kind, sorted by name.

    Args:
        folder: files directly in it (no labels), or sub-folders that are the classes.
        allow_lossy: whether JPEG and WebP files are taken; a note says so then.

    Raises:
        UserError: no images, something else among them, or images of several sizes or kinds.
    """

    def __init__(self, folder: Path, allow_lossy: bool = False):
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        self.name = self.dataset = folder.name
        self.files: list[Path] = []
        labels: list[int] = []
        for label, place in enumerate(classes or [folder]):
            found = _image_files(place)
            self.files += found
            labels += [label] * len(found)
        if classes and _visible(folder, files=True):
            raise UserError(f"{folder} holds both files and sub-folders: have classes in sub-folders, or none")
        if not self.files:
            raise UserError(f"{folder} holds no images: give .npz files or {', '.join(sorted(LOSSLESS | LOSSY))}")
        self.labels = np.array(labels, np.int64) if classes else None
        self.classes = len(classes)
        self.count = len(self.files)
        lossy = [file for file in self.files if file.suffix.lower() in LOSSY]
        if lossy:
            self.notes = (lossy_note(self.name, str(lossy[0]), allow_lossy),)
        self.shape = self._common_shape()

    def parts(self) -> Iterator[Batch]:
        for start in range(0, self.count, PART):
            files = self.files[start : start + PART]
            images = np.stack([_decode(file) for file in files])
            yield images, None if self.labels is None else self.labels[start : start + PART]

    def all_labels(self) -> np.ndarray | None:
        return self.labels

    def section(self, first: int, count: int) -> ImageSet:
        """As of every image set, without decoding the images before it."""
        part = copy.copy(self)
        part.files = self.files[first : first + count]
        part.labels = None if self.labels is None else self.labels[first : first + count]
        part.count = len(part.files)
        return part

    def fingerprint(self) -> str:
        content = hashlib.sha256()
        for file in self.files:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        content.update(b"" if self.labels is None else self.labels.tobytes())
        return content.hexdigest()

    def _common_shape(self) -> tuple[int, int, int]:
        """The shape that all headers agree on; the first file that differs is named."""
        first = _header(self.files[0])
        for file in self.files[1:]:
            shape = _header(file)
            if shape != first:
                raise UserError(
                    f"{file} is {shape}, but {self.files[0].name} is {first} (height, width, channels): "
                    "all images of a set have one size and kind"
                )
        return first


def lossy_note(name: str, example: str, allowed: bool) -> str:
    """The note that goes with lossy images where they are allowed.

    Raises:
        UserError: they are not.
    """
    if not allowed:
        raise UserError(
            f"{example} is JPEG or WebP, whose compression moves every score: give the samples as PNG or .npz, or "
            "--allow-lossy to score them all the same, which the result then says"
        )
    return f"lossy-images: {name} holds JPEG or WebP files, and compression itself moves every score"


def _visible(folder: Path, files: bool) -> list[Path]:
    entries = sorted(folder.iterdir())
    return [entry for entry in entries if entry.is_file() == files and not entry.name.startswith(".")]


def _image_files(folder: Path) -> list[Path]:
    """The image files of one folder, by name; anything else is an error, for it may be a sample that is lost."""
    files = _visible(folder, files=True)
    for file in files:
        if file.suffix.lower() not in LOSSLESS | LOSSY:
            raise UserError(f"{file} is not an image file: move it out of the folder of images")
    return files


def _header(path: Path) -> tuple[int, int, int]:
    """(height, width, channels) without decoding the pixels; 8-bit grey-scale and RGB only."""
    try:
        with Image.open(path) as image:
            if image.mode not in CHANNELS:
                raise UserError(
                    f"{path} has the mode {image.mode}; 8-bit grey-scale (L) and RGB can be compared: "
                    "convert it by a rule of your own, since transparency and depth have no one right conversion"
                )
            return image.height, image.width, CHANNELS[image.mode]
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): remove or replace it") from error


def _decode(path: Path) -> np.ndarray:
    """uint8 [H, W, C]."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image, np.uint8)
    except OSError as error:
        raise UserError(f"{path} is damaged ({error}): remove or replace it") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
