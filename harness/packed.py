"""A set of images as one file on disk, read in any order: what training needs of sets larger than the memory."""

import os
import shutil
from pathlib import Path

import numpy as np

from harness.cache import digest
from harness.images import ImageSet
from zoo.console import UserError, progress

GIB = 2**30


class Packed:
    """The images and labels of a set under a cache folder, memory-mapped.

    Made in one pass over the set; whole or not there.

    Args:
        source: labelled images.
        folder: where the two files are kept.

    Attributes:
        images: uint8 [N, H, W, C], not in memory.
        labels: int32 [N].

    Raises:
        UserError: the disk is full.
    """

    def __init__(self, source: ImageSet, folder: Path):
        stem = f"packed-{digest(source.fingerprint())}"
        self._files = [folder / f"{stem}-images.npy", folder / f"{stem}-labels.npy"]
        if not all(file.is_file() for file in self._files):
            self._write(source, folder)
        self.images = np.load(self._files[0], mmap_mode="r")
        self.labels = np.load(self._files[1])

    def remove(self) -> None:
        """Gives the disk back."""
        for file in self._files:
            file.unlink(missing_ok=True)

    def _write(self, source: ImageSet, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        needed = source.count * int(np.prod(source.shape))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{folder} has {free / GIB:.1f} GiB free, and {source.count} images of {source.name} need "
                f"{needed / GIB:.1f}: make room, or give a cache folder on another disk"
            )
        parts = [file.with_suffix(f".part{os.getpid()}") for file in self._files]
        try:
            labels = _write_images(source, parts[0])
            with parts[1].open("wb") as file:
                np.save(file, labels)
            for part, place in zip(parts, self._files, strict=True):
                part.replace(place)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}: make room, or give another cache folder") from error
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def _write_images(source: ImageSet, path: Path) -> np.ndarray:
    """Writes the images one part at a time; returns the labels int32 [N]."""
    labels: list[np.ndarray] = []
    header = {"descr": "|u1", "fortran_order": False, "shape": (source.count, *source.shape)}
    with path.open("wb") as file, progress(source.count, f"copy of {source.name}", "images", leave=False) as bar:
        np.lib.format.write_array_header_1_0(file, header)
        for images, found in source.parts():
            if found is None:
                raise ValueError(f"{source.name} has no labels")
            file.write(np.ascontiguousarray(images).tobytes())
            labels.append(found.astype(np.int32))
            bar.update(len(images))
    return np.concatenate(labels)
