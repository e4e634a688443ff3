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
from zoo.data.shards import one_line
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
        text: suffix of the files with captions, one a line, beside the pictures; None where there are none.
    """

    def __init__(self, directory: str, captions: str | None = None) -> None:
        if not directory:
            raise ValueError("directory must be the path of a folder, got ''")
        if captions is not None and (not captions.startswith(".") or captions.lower() in SUFFIXES):
            raise ValueError(f"captions must be the suffix of text files, such as '.txt', got '{captions}'")
        self.directory, self.text = directory, captions

    @property
    def captioned(self) -> bool:
        return self.text is not None

    def captions(self, split: str) -> list[tuple[str, ...]]:
        if self.text is None:
            return super().captions(split)
        paths = tf.data.Dataset.from_tensor_slices(self._table(split)["captions"])
        texts = paths.map(self._text, tf.data.AUTOTUNE, deterministic=True)
        try:
            return [tuple(text.decode().split("\n")) for text in texts.as_numpy_iterator()]
        except tf.errors.OpError as error:
            raise UserError(
                f"a caption beside a picture in {self.directory} cannot be read: {str(error).splitlines()[0]}"
            ) from None

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
        if self.text is not None:
            digest.update(repr(self.captions(split)).encode())
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
        if self.text is not None:
            example["captions"] = self._text(record["captions"])
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
            table = {"path": tf.constant(files.paths), "label": tf.constant(files.labels, tf.int32)}
            if self.text is not None:
                table["captions"] = tf.constant([os.path.splitext(path)[0] + self.text for path in files.paths])
            return table

    def _text(self, path: tf.Tensor) -> tf.Tensor:
        """string []: the captions in a file, without empty lines."""
        content = tf.io.read_file(tf.strings.join([str(self._root), path], separator=os.sep))
        lines = one_line(tf.strings.split(content, "\n"))
        return tf.strings.reduce_join(tf.boolean_mask(lines, tf.strings.length(lines) > 0), separator="\n")


class ImageFolder(PictureFiles):
    """Image files, labelled by the folder that they lie in; classes are numbered in the order of their names.

    Where the folder has a level for splits, its names are the splits. Where it has none, every `held_out`-th file of a
    class belongs to `test` and the others to `train`, so that one pile of pictures can be trained on and measured.
    """

    def __init__(self, directory: str, held_out: int = 10, captions: str | None = None) -> None:
        """Names a folder; nothing is read yet.

        Args:
            held_out: of a folder without splits, which files are held out.
            captions: suffix of text files beside the pictures, a caption a line: '.txt' for dog.txt beside dog.jpg.
        """
        super().__init__(directory, captions)
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
