"""TFRecord shards of tf.train.Example with encoded pictures, as many projects write them."""

import functools
import glob
import hashlib
import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from zoo.console import UserError
from zoo.data.shards import Shard, Shards, count_records
from zoo.data.sources import Example, Record, Source, decode_image


class TFRecords(Source):
    """Shards found by a pattern with `{split}` in it, such as `data/imagenet/{split}-*`."""

    def __init__(
        self,
        files: str,
        image: str = "image",
        label: str | None = "label",
        classes: int = 0,
        names: str | None = None,
        first_label: int = 0,
        captions: str | None = None,
    ) -> None:
        """Names the files; nothing is read yet.

        Args:
            files: glob pattern; `{split}` stands for the split.
            image: key of the encoded picture (often `image/encoded`).
            label: key of the class number (often `image/class/label`); None for unlabelled data.
            classes: number of classes, 0 for unlabelled data.
            names: text file with a class name a line; None calls the classes by their numbers.
            first_label: number that the files give to the first class (1 where 0 means background).
            captions: key of one or several texts (often `caption`); None reads none.
        """
        if "{split}" not in files:
            raise ValueError(f"files must contain {{split}}, such as 'data/{{split}}-*.tfrecord', got '{files}'")
        if classes < 0:
            raise ValueError(f"classes must not be negative, got {classes}")
        if (classes > 0) != (label is not None):
            raise ValueError(f"label and classes go together (None with 0), got label={label!r} and classes={classes}")
        self.files = files
        self.image = image
        self.label = label
        self.names = names
        self.first_label = first_label
        self.text = captions
        self._classes = classes

    @property
    def name(self) -> str:
        return Path(self.files).parent.name or "tfrecords"

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.names is None:
            return tuple(str(number) for number in range(self._classes))
        try:
            lines = Path(self.names).expanduser().read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise UserError(
                f"class names {self.names} cannot be read ({error.strerror}); correct TFRecords.names"
            ) from None
        names = tuple(line.strip() for line in lines if line.strip())
        if len(names) != self._classes:
            raise UserError(f"{self.names} names {len(names)} classes, but TFRecords.classes is {self._classes}")
        return names

    @property
    def captioned(self) -> bool:
        return self.text is not None

    def captions(self, split: str) -> list[tuple[str, ...]]:
        return self._shards(split).captions() if self.captioned else super().captions(split)

    def splits(self) -> tuple[str, ...]:
        return tuple(
            sorted({_split_of(path, self._pattern) for path in glob.glob(self._pattern.replace("{split}", "*"))} - {""})
        )

    def check(self) -> None:
        message = self.missing()
        if message:
            raise UserError(message)
        _ = self.class_names

    def missing(self) -> str | None:
        if self.splits():
            return None
        return f"no file matches {self.files} (with any name in place of {{split}}); correct TFRecords.files"

    def count(self, split: str) -> int:
        return self._shards(split).count

    def fingerprint(self, split: str) -> str:
        shards = self._shards(split).shards
        facts = [(Path(shard.path).name, shard.take, Path(shard.path).stat().st_size) for shard in shards]
        settings: tuple[Any, ...] = (split, self.image, self.label, self.first_label, self.class_names)
        settings += () if self.text is None else (self.text,)
        return hashlib.sha256(repr((settings, facts)).encode()).hexdigest()[:16]

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        return self._shards(split).records(seed, epoch, offsets)

    def order(self, split: str, seed: int, epoch: Any) -> tf.Tensor | None:
        return self._shards(split).order(seed, epoch)

    def encoded_bytes(self, split: str) -> int:
        return self._shards(split).size

    def decode(self, record: Record, size: int, split: str) -> Example:
        example = {"image": decode_image(record["image"])}
        if self.text is not None:
            example["captions"] = record["captions"]
        if self.label is None:
            return example
        label = tf.cast(record["label"], tf.int32) - self.first_label
        sound = tf.logical_and(label >= 0, label < self._classes)
        allowed = f"label outside {self.first_label} to {self.first_label + self._classes - 1}"
        checked = tf.debugging.assert_equal(sound, True, message=allowed)
        with tf.control_dependencies([] if checked is None else [checked]):
            return example | {"label": tf.identity(label)}

    def locate(self, split: str, position: int) -> str:
        return self._shards(split).locate(position)

    @property
    def _pattern(self) -> str:
        return str(Path(self.files).expanduser())

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def _shards(self, split: str) -> Shards:
        paths = sorted(glob.glob(self._pattern.replace("{split}", split)))
        if not paths:
            here = ", ".join(self.splits()) or "none"
            raise UserError(f"no file matches {self.files} for split '{split}'; splits that are here: {here}")
        shards = [Shard(path, 0, count_records(path)) for path in paths]
        return Shards(
            shards, sum(Path(path).stat().st_size for path in paths), self.image, self.label, captions=self.text
        )


def _split_of(path: str, pattern: str) -> str:
    """The text that stands for {split} in a path that matches the pattern."""
    before, *after = (re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", ".") for part in pattern.split("{split}"))
    match = re.fullmatch(f"{before}(?P<split>[^/]+?)" + "(?P=split)".join(after), path)
    return match["split"] if match else ""
