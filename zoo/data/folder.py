"""Image files in folders: SPLIT/CLASS/FILE, CLASS/FILE, SPLIT/FILE or just files."""

import abc
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data.sources import Example, Record, Source, decode_image, nearest_hint, ordered, table_blocks

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "test")


class Files(NamedTuple):
    """One split: paths relative to the folder, sorted, and the class of each (-1: unlabelled)."""

    paths: tuple[str, ...]
    labels: np.ndarray


class PictureFiles(Source):
    """Image files under one folder, in the order of their paths; subclasses say which belong to which split and class.

    Attributes:
        directory: the folder as it was given.
    """

    def __init__(self, directory: str) -> None:
        if not directory:
            raise ValueError("directory must be the path of a folder, got ''")
        self.directory = directory

    @abc.abstractmethod
    def files(self, split: str) -> Files:
        """The files of a split. Raises UserError if there is no such split."""

    def count(self, split: str) -> int:
        return len(self.files(split).paths)

    def fingerprint(self, split: str) -> str:
        files = self.files(split)
        digest = hashlib.sha256(repr((split, self.class_names)).encode())
        for path, label in zip(files.paths, files.labels, strict=True):
            digest.update(f"{path}\0{label}\0{(self._root / path).stat().st_size}\n".encode())
        return digest.hexdigest()[:16]

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        return table_blocks(self._table(split), seed, epoch, offsets).unbatch()

    def order(self, split: str, seed: int, epoch: Any) -> tf.Tensor | None:
        return ordered(self.count(split), seed, epoch)

    def encoded_bytes(self, split: str) -> int:
        return sum((self._root / path).stat().st_size for path in self.files(split).paths)

    def decode(self, record: Record, size: int, split: str) -> Example:
        encoded = tf.io.read_file(tf.strings.join([str(self._root), record["path"]], separator=os.sep))
        example = {"image": decode_image(encoded)}
        return example | {"label": record["label"]} if self.class_names else example

    def locate(self, split: str, position: int) -> str:
        return str(self._root / self.files(split).paths[position])

    @property
    def _root(self) -> Path:
        return Path(self.directory).expanduser()

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def _table(self, split: str) -> dict[str, tf.Tensor]:
        files = self.files(split)
        with tf.init_scope():
            return {"path": tf.constant(files.paths), "label": tf.constant(files.labels, tf.int32)}


class ImageFolder(PictureFiles):
    """Image files, labelled by the folder that they lie in; classes are numbered in the order of their names.

    Where the folder has a level for splits, its names are the splits. Where it has none, every `held_out`-th file of a
    class belongs to `test` and the others to `train`, so that one pile of pictures can be trained on and measured.
    """

    def __init__(self, directory: str, held_out: int = 10) -> None:
        super().__init__(directory)
        if held_out < 2:
            raise ValueError(f"held_out must be at least 2 (every second file), got {held_out}")
        self.held_out = held_out

    @property
    def name(self) -> str:
        return Path(self.directory).name

    @property
    def class_names(self) -> tuple[str, ...]:
        self._require()
        return self._found[0]

    def splits(self) -> tuple[str, ...]:
        return tuple(self._found[1]) if self._root.is_dir() else ()

    def check(self) -> None:
        self._require()

    def missing(self) -> str | None:
        if not self._root.is_dir():
            found = self._root.resolve()
            return f"there is no folder {self.directory} (looked for {found}); correct ImageFolder.directory"
        if not self._found[1]:
            return f"folder {self.directory} holds no image files ({', '.join(SUFFIXES)})"
        return None

    def files(self, split: str) -> Files:
        self._require()
        splits = self._found[1]
        if split not in splits:
            hint = nearest_hint(split, tuple(splits))
            raise UserError(f"folder {self.directory} has no split '{split}'{hint}; its splits are {', '.join(splits)}")
        return splits[split]

    def _require(self) -> None:
        message = self.missing()
        if message:
            raise UserError(message)

    @functools.cached_property
    def _found(self) -> tuple[tuple[str, ...], dict[str, Files]]:
        """Class names and splits, from one walk through the folder."""
        paths = sorted(image_paths(self._root))
        depth = max((path.count(os.sep) for path in paths), default=0)
        top = {path.split(os.sep)[0] for path in paths if os.sep in path}
        has_splits = depth >= 2 or (depth == 1 and all(name.lower() in SPLIT_NAMES for name in top))
        level = 1 if has_splits else 0  # where the class stands in a path
        classes = tuple(sorted({path.split(os.sep)[level] for path in paths if path.count(os.sep) > level}))
        numbers = {name: number for number, name in enumerate(classes)}
        members: dict[str, list[str]] = {}
        seen: dict[str, int] = {}
        for path in paths:
            parts = path.split(os.sep)
            if len(parts) <= level or (classes and len(parts) <= level + 1):
                continue  # a file beside the folders, such as a contact sheet
            parent = os.sep.join(parts[:-1])
            seen[parent] = seen.get(parent, 0) + 1
            held = "test" if seen[parent] % self.held_out == 0 else "train"
            members.setdefault(parts[0] if has_splits else held, []).append(path)
        labels = {
            split: np.array([numbers[path.split(os.sep)[level]] if classes else -1 for path in chosen], np.int32)
            for split, chosen in members.items()
        }
        return classes, {split: Files(tuple(chosen), labels[split]) for split, chosen in members.items()}


def image_paths(root: Path) -> list[str]:
    """Image files under a folder, relative to it; hidden files and folders are passed over."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = (name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        found += [os.path.relpath(os.path.join(folder, name), root) for name in kept]
    return found
