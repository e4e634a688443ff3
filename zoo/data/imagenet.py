"""ImageNet (ILSVRC 2012), however it lies on this machine; labels are in the standard order in every form."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zoo.console import UserError
from zoo.data.folder import Files, PictureFiles, image_paths
from zoo.data.forms import Forms, PreparedForm
from zoo.data.imagenet_classes import (
    check_known,
    check_order,
    coverage,
    standard_ids,
    standard_labels,
    validation_labels,
    validation_number,
)
from zoo.data.packed import Index, PackedPictures, kept
from zoo.data.sources import Source
from zoo.data.tars import Member, member_name, members

NAME = "imagenet2012"  # as TensorFlow Datasets calls it
PLACE = "ZOO_IMAGENET"  # environment variable
READERS = 16  # tar files inside the tar file that are looked through at a time: the disk answers more than one


class ImageNet(Forms):
    """Splits `train` and `validation`; the same pictures have the same positions in tar files and in folders."""

    def __init__(self, directory: str | None = None) -> None:
        """Says where it is; nothing is read yet.

        Args:
            directory: folder with imagenet2012/ as TensorFlow Datasets prepares it, or with the official tar files
                ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or with train/n01440764/*.JPEG and likewise val
                or validation. None: the folder that the environment variable ZOO_IMAGENET names, then TFDS_DATA_DIR.
        """
        self.directory = directory

    @property
    def name(self) -> str:
        return NAME

    @property
    def class_names(self) -> tuple[str, ...]:
        return standard_ids()

    def forms(self) -> tuple[Source, ...]:
        place = self.directory or os.environ.get(PLACE)
        here = (PreparedImageNet(place), ImageNetTars(place), ImageNetFolders(place)) if place else ()
        return (*here, *(() if self.directory else (PreparedImageNet(None),)))

    def advice(self) -> str:
        return f"Say where it is by ImageNet.directory or the environment variable {PLACE}"

    def notes(self) -> tuple[str, ...]:
        return ("labels are in the standard order, that of the sorted WordNet ids", *super().notes())


class PreparedImageNet(PreparedForm):
    """As TensorFlow Datasets prepares it."""

    def __init__(self, directory: str | None) -> None:
        super().__init__(NAME, directory=directory)

    def check(self) -> None:
        super().check()
        # The package describes the dataset as its own code would prepare it; the list beside the records is older.
        listed = Path(self._builder.data_path, "label.labels.txt")
        ids = listed.read_text(encoding="utf-8").split() if listed.is_file() else self.class_names
        check_order(ids, str(listed.parent))


class ImageNetTars(PackedPictures):
    """The official tar files, where they lie: one of 1,000 tar files by WordNet id, and one of validation images."""

    FILES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._root = Path(directory).expanduser()

    @property
    def name(self) -> str:
        return NAME

    @property
    def class_names(self) -> tuple[str, ...]:
        return standard_ids()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.FILES if self.path(split).is_file())

    def check(self) -> None:
        """Nothing is read: that takes minutes, and the index is checked when it is made."""

    def missing(self) -> str | None:
        return None if self.splits() else f"tar files {' and '.join(self.FILES.values())} in {self._root}"

    def notes(self) -> tuple[str, ...]:
        here = [(split, self.file(split)) for split in self.splits()]
        lines = [f"{split}: {coverage(split, file.index.labels)}, in {file.path}" for split, file in here]
        origin = [f"validation labels from {self._validation_labels[1]}"] if "validation" in self.splits() else []
        return (*lines, *origin)

    def path(self, split: str) -> Path:
        return self._root / self.FILES[split]

    def index(self, split: str) -> Index:
        build = {"train": self._train_index, "validation": self._validation_index}[split]
        return kept(self.path(split), f"{NAME} {split}", build)

    def locate(self, split: str, position: int) -> str:
        name = member_name(self.path(split), int(self.file(split).index.offsets[position]))
        return f"{self.path(split)}: {name}"

    @functools.cached_property
    def _validation_labels(self) -> tuple[np.ndarray, str]:
        return validation_labels(self._root)

    def _train_index(self) -> Index:
        """Members of the inner files, in the order of class and name."""
        path = self.path("train")
        inner = sorted(members(path))
        wrong = [member.name for member in inner if not member.name.endswith(".tar")]
        if wrong:
            raise UserError(f"{path} must hold a tar file for each class, such as n01440764.tar, but has {wrong[0]}")
        ids = [Path(member.name).stem for member in inner]
        check_known(ids, str(path))

        def pictures(archive: Member) -> list[Member]:
            return sorted(members(path, archive.offset, archive.offset + archive.size))

        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(pictures, inner))
        rows = [
            (member.offset, member.size, standard_labels()[name])
            for name, listed in zip(ids, found, strict=True)
            for member in listed
        ]
        return _columns(rows)

    def _validation_index(self) -> Index:
        """Members in the order of class and name, as they would lie in folders."""
        path, labels = self.path("validation"), self._validation_labels[0]
        rows = []
        for member in members(path):
            number = validation_number(member.name)
            if number is None:
                raise UserError(
                    f"{path} holds {member.name}; members of the official file are called ILSVRC2012_val_00000001.JPEG "
                    "to ILSVRC2012_val_00050000.JPEG, and their labels go by the number"
                )
            rows.append((int(labels[number - 1]), number, member))
        rows.sort()
        return _columns([(member.offset, member.size, label) for label, _, member in rows])


class ImageNetFolders(PictureFiles):
    """Folders by WordNet id: train/n01440764/*.JPEG, val/n01440764/*.JPEG; or the validation images as they came.

    A part of the classes will do; labels are those of the whole.
    """

    FOLDERS = {"train": ("train",), "validation": ("validation", "val")}

    @property
    def name(self) -> str:
        return NAME

    @property
    def class_names(self) -> tuple[str, ...]:
        return standard_ids()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.FOLDERS if self._folder(split) is not None)

    def check(self) -> None:
        for split in self.splits():
            folder = self._required(split)
            names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
            check_known(sorted(names), str(folder))

    def missing(self) -> str | None:
        if self.splits():
            return None
        wanted = ", ".join(name for names in self.FOLDERS.values() for name in names)
        return f"folders {wanted} with folders by WordNet id in {self._root}"

    def notes(self) -> tuple[str, ...]:
        self.check()
        return tuple(
            f"{split}: {coverage(split, self.files(split).labels)}, in {self._folder(split)}" for split in self.splits()
        )

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a source lives as long as the run
    def files(self, split: str) -> Files:
        folder = self._required(split)
        rows = sorted((self._label(folder, path), path) for path in image_paths(folder))
        if not rows:
            raise UserError(f"folder {folder} holds no image files; it should have folders by WordNet id")
        paths = tuple(str(Path(folder.name, path)) for _, path in rows)
        return Files(paths, np.array([label for label, _ in rows], np.int32))

    def _label(self, folder: Path, path: str) -> int:
        """Label of a picture: by its folder, or of a validation image in none by its number."""
        first = Path(path).parts[0]
        if first != path:
            if first not in standard_labels():
                check_known([first], str(folder))
            return standard_labels()[first]
        number = validation_number(path) if folder.name in self.FOLDERS["validation"] else None
        if number is None:
            raise UserError(f"{folder / path} lies in no folder by WordNet id, such as {folder / standard_ids()[0]}")
        return int(self._validation_labels[number - 1])

    @functools.cached_property
    def _validation_labels(self) -> np.ndarray:
        return validation_labels(self._root)[0]

    def _folder(self, split: str) -> Path | None:
        places = (self._root / name for name in self.FOLDERS.get(split, ()))
        return next((place for place in places if place.is_dir()), None)

    def _required(self, split: str) -> Path:
        folder = self._folder(split)
        if folder is None:
            raise UserError(f"there is no folder for split '{split}' in {self._root}: {self.FOLDERS.get(split, ())}")
        return folder


def _columns(rows: list[tuple[int, int, int]]) -> Index:
    """Rows of (offset, length, label) as an index."""
    table = np.array(rows, np.int64).reshape(-1, 3)
    return Index(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.int32))
