"""LSUN, one category at a time: from its LMDB files where they lie, or from folders of pictures. It has no classes."""

import functools
import os
from pathlib import Path

import numpy as np

from zoo.console import UserError
from zoo.data.folder import SUFFIXES, Files, PictureFiles, image_paths
from zoo.data.forms import Forms, PreparedForm
from zoo.data.lmdb_file import value_places
from zoo.data.packed import Index, PackedPictures, kept
from zoo.data.sources import Source, nearest_hint

SCENES = (
    "bedroom", "bridge", "church_outdoor", "classroom", "conference_room", "dining_room", "kitchen", "living_room",
    "restaurant", "tower",
)  # fmt: skip
OBJECTS = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining_table", "dog",
    "horse", "motorbike", "person", "potted_plant", "sheep", "sofa", "train", "tv-monitor",
)  # fmt: skip
CATEGORIES = SCENES + OBJECTS
PLACE = "ZOO_LSUN"  # environment variable


class LSUN(Forms):
    """Splits `train` and, of scenes, `validation` (300 pictures); objects have no validation pictures."""

    def __init__(self, category: str, directory: str | None = None) -> None:
        """Names a category; nothing is read yet.

        Args:
            category: as in the names of the files, such as bedroom, church_outdoor, cat.
            directory: folder with bedroom_train_lmdb/data.mdb and bedroom_val_lmdb/data.mdb as the official files
                unpack (of objects, cat/data.mdb), or with the folders bedroom_train and bedroom_val, or bedroom/train
                and bedroom/val, of pictures. None: the folder that the environment variable ZOO_LSUN names, then
                lsun/bedroom of TFDS_DATA_DIR.
        """
        if category not in CATEGORIES:
            raise ValueError(
                f"category must be one of LSUN's ({', '.join(CATEGORIES)}), got '{category}'"
                f"{nearest_hint(category, CATEGORIES)}"
            )
        self.category = category
        self.directory = directory

    @property
    def name(self) -> str:
        return f"lsun/{self.category}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def forms(self) -> tuple[Source, ...]:
        place = self.directory or os.environ.get(PLACE)
        here = (LSUNDatabases(self.category, place), LSUNFolders(self.category, place)) if place else ()
        prepared = PreparedForm(self.name, label=None, directory=self.directory)
        return (*here, prepared)

    def advice(self) -> str:
        return f"Say where it is by LSUN.directory or the environment variable {PLACE}"


class LSUNDatabases(PackedPictures):
    """The official LMDB files: a picture for each key, in the order of the keys."""

    def __init__(self, category: str, directory: str) -> None:
        super().__init__()
        self.category = category
        self._root = Path(directory).expanduser()
        files = {"train": (f"{category}_train_lmdb", category), "validation": (f"{category}_val_lmdb",)}
        self._places = {split: [self._root / name / "data.mdb" for name in names] for split, names in files.items()}

    @property
    def name(self) -> str:
        return f"lsun/{self.category}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, places in self._places.items() if any(place.is_file() for place in places))

    def check(self) -> None:
        """Nothing is read: files are checked when they are indexed."""

    def missing(self) -> str | None:
        wanted = ", ".join(str(place) for places in self._places.values() for place in places)
        return None if self.splits() else f"LMDB files {wanted}"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{split}: {self.count(split):,} pictures, in {self.path(split)}" for split in self.splits())

    def path(self, split: str) -> Path:
        return next(place for place in self._places[split] if place.is_file())

    def index(self, split: str) -> Index:
        return kept(self.path(split), "lmdb", lambda: _index(self.path(split)))


class LSUNFolders(PictureFiles):
    """Pictures written out of the LMDB files, in one folder for each split and in folders below it."""

    def __init__(self, category: str, directory: str) -> None:
        super().__init__(directory)
        self.category = category
        train, validation = ("train",), ("validation", "val")
        self._places = {
            split: [self._root / place for word in words for place in (f"{category}_{word}", f"{category}/{word}")]
            for split, words in (("train", train), ("validation", validation))
        }

    @property
    def name(self) -> str:
        return f"lsun/{self.category}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, places in self._places.items() if any(place.is_dir() for place in places))

    def check(self) -> None:
        """Whatever pictures are there will do."""

    def missing(self) -> str | None:
        wanted = ", ".join(str(place) for places in self._places.values() for place in places)
        return None if self.splits() else f"folders {wanted}"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{split}: {self.count(split):,} pictures, in {self._folder(split)}" for split in self.splits())

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def files(self, split: str) -> Files:
        folder = self._folder(split)
        paths = tuple(sorted(str(folder.relative_to(self._root) / path) for path in image_paths(folder)))
        if not paths:
            raise UserError(f"folder {folder} holds no image files ({', '.join(SUFFIXES)})")
        return Files(paths, np.full(len(paths), -1, np.int32))

    def _folder(self, split: str) -> Path:
        return next(place for place in self._places[split] if place.is_dir())


def _index(path: Path) -> Index:
    offsets, lengths = value_places(path)
    return Index(offsets, lengths, np.full(len(offsets), -1, np.int32))
