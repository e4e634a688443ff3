"""Datasets that TensorFlow Datasets has prepared on this machine; nothing is ever downloaded."""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.console import UserError
from zoo.data.shards import Shard, Shards
from zoo.data.sources import Example, Record, Source, decode_image, nearest_hint


class TFDS(Source):
    """A dataset of TensorFlow Datasets by name, read from `TFDS_DATA_DIR` in file order.

    Splits may be cut as TFDS cuts them: `train[:90%]`, `train[45000:]`.
    """

    def __init__(
        self,
        dataset: str,
        image: str = "image",
        label: str | None = "label",
        directory: str | None = None,
        captions: str | None = None,
    ) -> None:
        """Names a dataset; nothing is read yet.

        Args:
            dataset: `name`, `name/config`, `name:version` or `name/config:version`.
            image: feature that holds the picture.
            label: feature that holds the class; None reads the dataset as unlabelled.
            directory: where prepared datasets lie; None takes TFDS_DATA_DIR, else TFDS' own default.
            captions: feature that holds one or several texts (`captions/text` of coco_captions); None reads none.
        """
        if not dataset:
            raise ValueError("dataset must be a name such as 'cifar10', got ''")
        self.dataset = dataset
        self.image = image
        self.label = label
        self.directory = directory
        self.text = captions

    @property
    def name(self) -> str:
        return self.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.label is None:
            return ()
        feature = self._features().get(self.label)
        if feature is None or not getattr(feature, "num_classes", None):
            raise UserError(
                f"dataset '{self.dataset}' has no class feature '{self.label}'; its features are "
                f"{', '.join(self._features())}: set TFDS.label to one that holds classes, or to None"
            )
        return tuple(feature.names)

    @property
    def captioned(self) -> bool:
        return self.text is not None

    def captions(self, split: str) -> list[tuple[str, ...]]:
        return self._shards(split).captions() if self.captioned else super().captions(split)

    def splits(self) -> tuple[str, ...]:
        return tuple(self._builder.info.splits) if self.missing() is None else ()

    def check(self) -> None:
        feature = self._features().get(self.image)
        if feature is None:
            names = tuple(self._features())
            raise UserError(
                f"dataset '{self.dataset}' has no feature '{self.image}'{nearest_hint(self.image, names)}; its "
                f"features are {', '.join(names)}: set TFDS.image to the one that holds the picture"
            )
        channels = feature.shape[-1] if feature.shape else 0
        if channels not in (None, 1, 3, 4) or np.dtype(feature.np_dtype).name not in ("uint8", "uint16"):
            raise UserError(
                f"feature '{self.image}' of dataset '{self.dataset}' is {feature}: only pictures of 1, 3 or 4 channels "
                "with 8 or 16 bits are read"
            )
        _ = self.class_names
        self._check_captions()

    def missing(self) -> str | None:
        if Path(self._builder.data_path, "dataset_info.json").exists() and self._builder.info.splits:
            return None
        return (
            f"dataset '{self.dataset}' is not prepared in {self._root}; set TFDS_DATA_DIR to the folder that has it, "
            f"or prepare it where there is a network: tfds build {self.dataset} --data_dir {self._root}"
        )

    def count(self, split: str) -> int:
        return self._shards(split).count

    def fingerprint(self, split: str) -> str:
        info, shards = self._builder.info, self._shards(split)
        facts: tuple[Any, ...] = (info.full_name, str(info.features), self.image, self.label, split, shards.size)
        facts += () if self.text is None else (self.text,)
        runs = [(Path(shard.path).name, shard.skip, shard.take) for shard in shards.shards]
        return hashlib.sha256(repr((facts, runs)).encode()).hexdigest()[:16]

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        return self._shards(split).records(seed, epoch, offsets)

    def order(self, split: str, seed: int, epoch: Any) -> tf.Tensor | None:
        return self._shards(split).order(seed, epoch)

    def encoded_bytes(self, split: str) -> int:
        return self._shards(split).size

    def decode(self, record: Record, size: int, split: str) -> Example:
        height, width = self._features()[self.image].shape[:2]
        example = {"image": tf.ensure_shape(decode_image(record["image"]), [height, width, 3])}
        example |= {} if self.label is None else {"label": tf.cast(record["label"], tf.int32)}
        return example | ({} if self.text is None else {"captions": record["captions"]})

    def locate(self, split: str, position: int) -> str:
        return f"{self.dataset} {split} {position} ({self._shards(split).locate(position)})"

    @property
    def _root(self) -> str:
        import tensorflow_datasets as tfds

        return self.directory or os.environ.get("TFDS_DATA_DIR") or str(tfds.core.constants.DATA_DIR)

    @functools.cached_property
    def _builder(self) -> Any:
        """TFDS' own description: from the prepared files, or from its code where they are not here."""
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(self.dataset, data_dir=os.path.expanduser(self._root), try_gcs=False)
        except tfds.core.registered.DatasetNotFoundError:
            names = tuple(tfds.list_builders(with_community_datasets=False))
            bare = self.dataset.split("/")[0].split(":")[0]
            raise UserError(
                f"no dataset is called '{self.dataset}'{nearest_hint(bare, names)}: neither TensorFlow Datasets knows "
                f"it nor is it prepared in {self._root}"
            ) from None
        except (ValueError, AssertionError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"dataset '{self.dataset}' cannot be described: {reason}") from None

    def _check_captions(self) -> None:
        """The feature is there, and holds texts."""
        if self.text is None:
            return
        found: Any = self._builder.info.features
        for name in (self.text,) if self.text in found else self.text.split("/"):
            found = getattr(found, "feature", found)  # of a sequence, that of its elements
            names = tuple(found) if hasattr(found, "keys") else ()
            if name not in names:
                raise UserError(
                    f"dataset '{self.dataset}' has no feature '{self.text}': '{name}' is not among {', '.join(names)}"
                    f"{nearest_hint(name, names)}; set TFDS.captions to one that holds texts"
                )
            found = found[name]
        kind = found.np_dtype
        if isinstance(kind, dict) or np.dtype(kind).kind not in "OSU":
            raise UserError(f"feature '{self.text}' of dataset '{self.dataset}' is {found}: captions must be texts")

    def _features(self) -> dict[str, Any]:
        return dict(self._builder.info.features.items())

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def _shards(self, split: str) -> Shards:
        message = self.missing()
        if message:
            raise UserError(message)
        try:
            info = self._builder.info.splits[split]
            runs = info.file_instructions
        except (KeyError, ValueError) as error:
            raise UserError(
                f"dataset '{self.dataset}' has no split '{split}'{nearest_hint(split, self.splits())}; its splits are "
                f"{', '.join(self.splits())} ({str(error).splitlines()[0][:80]})"
            ) from None
        shards = [
            Shard(os.fspath(run.filename), run.skip, run.examples_in_shard if run.take == -1 else run.take)
            for run in runs
        ]
        lost = [shard.path for shard in shards if not Path(shard.path).exists()]
        if lost:
            raise UserError(
                f"dataset '{self.dataset}' lacks {len(lost)} of {len(shards)} files, the first is {lost[0]}"
            )
        files = {run.filename: Path(run.filename).stat().st_size for run in runs}
        whole = sum(run.examples_in_shard for run in {run.filename: run for run in runs}.values())
        part = sum(shard.take for shard in shards) / max(1, whole)
        return Shards(shards, int(sum(files.values()) * part), self.image, self.label, captions=self.text)
