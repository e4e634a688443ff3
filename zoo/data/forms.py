"""A dataset that people keep in several forms: each split is read from the first form that has it."""

import abc
import functools
from pathlib import Path
from typing import Any

import tensorflow as tf

from zoo.console import UserError
from zoo.data.sources import Example, Record, Source, nearest_hint
from zoo.data.tfds import TFDS

SPLITS = ("train", "validation")


class Forms(Source):
    """Looks for its forms and hands everything on to them."""

    @abc.abstractmethod
    def forms(self) -> tuple[Source, ...]:
        """The ways in which the dataset may lie on this machine, the preferred first. Nothing is read yet."""

    @abc.abstractmethod
    def advice(self) -> str:
        """How to say where the dataset is."""

    def splits(self) -> tuple[str, ...]:
        return tuple(self._found)

    def check(self) -> None:
        for form in dict.fromkeys(self._found.values()):
            form.check()

    def missing(self) -> str | None:
        if self._found:
            return None
        return f"{self.name} is not here; looked for {'; '.join(self._not_here())}. {self.advice()}"

    def notes(self) -> tuple[str, ...]:
        found = [line for form in dict.fromkeys(self._found.values()) for line in form.notes()]
        lacking = [f"{split}: not here" for split in SPLITS if split not in self._found]
        return (*found, *lacking, *(f"also looked for, not here: {message}" for message in self._not_here()))

    def count(self, split: str) -> int:
        return self.form(split).count(split)

    def fingerprint(self, split: str) -> str:
        return self.form(split).fingerprint(split)

    def records(
        self, split: str, seed: int | None = None, epoch: Any = 0, offsets: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        return self.form(split).records(split, seed, epoch, offsets)

    def order(self, split: str, seed: int, epoch: Any) -> tf.Tensor | None:
        return self.form(split).order(split, seed, epoch)

    def encoded_bytes(self, split: str) -> int:
        return self.form(split).encoded_bytes(split)

    def decode(self, record: Record, size: int, split: str) -> Example:
        return self.form(split).decode(record, size, split)

    def locate(self, split: str, position: int) -> str:
        return self.form(split).locate(split, position)

    def form(self, split: str) -> Source:
        """The form that a split is read from, checked.

        Raises:
            UserError: no form has the split, or the one that has it is not the dataset that it should be.
        """
        if split not in self._found:
            here = f"splits that are here: {', '.join(self.splits())}. {self.advice()}"
            hint = nearest_hint(split, self.splits())
            raise UserError(self.missing() or f"{self.name} has no split '{split}' here{hint}; {here}")
        self._checked(split)
        return self._found[split]

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def _checked(self, split: str) -> None:
        self._found[split].check()

    @functools.cached_property
    def _all(self) -> tuple[Source, ...]:
        return self.forms()

    @functools.cached_property
    def _found(self) -> dict[str, Source]:
        """The form of every split that is here."""
        having = [(form, form.splits()) for form in self._all]
        first = {split: next((form for form, splits in having if split in splits), None) for split in SPLITS}
        return {split: form for split, form in first.items() if form is not None}

    def _not_here(self) -> list[str]:
        return [message for form in self._all if (message := form.missing())]


class PreparedForm(TFDS):
    """A dataset that TensorFlow Datasets may have prepared; its code is not loaded where there is no such folder."""

    def splits(self) -> tuple[str, ...]:
        return super().splits() if self._folder.is_dir() else ()

    def missing(self) -> str | None:
        return super().missing() if self._folder.is_dir() else f"TensorFlow Datasets' folder {self._folder}"

    def notes(self) -> tuple[str, ...]:
        version = self._builder.data_path
        return tuple(
            f"{split}: {self.count(split):,} pictures, prepared by TensorFlow Datasets in {version}"
            for split in self.splits()
            if split in SPLITS
        )

    @property
    def _folder(self) -> Path:
        return Path(self._root).expanduser() / self.dataset
