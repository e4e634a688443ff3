"""The 1,000 classes of ImageNet (ILSVRC 2012) in the standard order, and the labels of its validation images.

A class is known by its WordNet id, such as n01440764; the standard order, that of published classifiers and papers, is
that of the sorted ids. Other orders are about (that of the development kit, in which TensorFlow Datasets numbers
imagenet_resized) and would give wrong labels without any error, so every reader's is held against the hash of this one.
"""

import functools
import hashlib
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from zoo.console import UserError
from zoo.data.sources import class_order

CLASSES = 1000
ORDER = "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"  # `class_order` of the sorted ids
VALIDATION = "313fc3f23c864dde9183c9a368809065765dd1b657a6904fded44e3e46d34604"  # of the ids of images 1 to 50,000
COUNTS = {"train": 1_281_167, "validation": 50_000}
DEVKIT = "ILSVRC2012_devkit_t12"
NAMED = 5  # ids that a message lists


@functools.cache
def standard_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids in label order."""
    path = Path(__file__).with_name("imagenet_ids.txt")
    ids = tuple(path.read_text(encoding="ascii").split())
    if class_order(ids) != ORDER:
        raise UserError(f"{path} is not as it was delivered; restore it from the project's repository")
    return ids


@functools.cache
def standard_labels() -> dict[str, int]:
    """WordNet id -> label."""
    return {name: label for label, name in enumerate(standard_ids())}


def check_order(ids: Sequence[str], where: str) -> None:
    """Raises UserError if classes are not the 1,000 in the standard order: which are missing, extra and misplaced."""
    if class_order(tuple(ids)) == ORDER:
        return
    standard = standard_labels()
    missing = sorted(set(standard) - set(ids))
    extra = sorted(set(ids) - set(standard))
    misplaced = [
        f"{name} ({place} instead of {standard[name]})"
        for place, name in enumerate(ids)
        if standard.get(name, place) != place
    ]
    found = [
        f"{len(names):,} {word} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for word, names in (("missing", missing), ("extra", extra), ("misplaced", misplaced))
        if names
    ]
    raise UserError(
        f"{where} does not have the classes of ImageNet in the standard order, the sorted WordNet ids with SHA-256 "
        f"{ORDER[:12]}...: {'; '.join(found) or 'some appear twice'}. Its labels would mean other classes than those "
        "of the papers; prepare it again from the official files"
    )


def check_known(names: Sequence[str], where: str) -> None:
    """Raises UserError if there are classes other than the 1,000; a subset of them passes."""
    strange = [name for name in names if name not in standard_labels()]
    if strange:
        shown = ", ".join(strange[:NAMED]) + (", ..." if len(strange) > NAMED else "")
        raise UserError(
            f"{where} has {len(strange):,} classes that are none of ImageNet's 1,000: {shown}. A class must be called "
            "by its WordNet id, such as n01440764: rename or remove them, or read the folder as a dataset of its own "
            "(@ImageFolder())"
        )


def coverage(split: str, labels: np.ndarray) -> str:
    """How much of a split is here: its pictures, and which of the 1,000 classes."""
    present = np.unique(labels)
    count = f"{len(labels):,} of {COUNTS[split]:,} pictures"
    if len(present) == CLASSES:
        return f"{count}, all {CLASSES:,} classes"
    absent = [name for label, name in enumerate(standard_ids()) if label not in set(present.tolist())]
    few, word = (absent, "lacking") if len(absent) <= CLASSES // 2 else ([standard_ids()[i] for i in present], "only")
    shown = ", ".join(few[:NAMED]) + (", ..." if len(few) > NAMED else "")
    return f"{count}, a subset of {len(present):,} of the {CLASSES:,} classes ({word} {shown}), labels as in the whole"


def validation_number(name: str) -> int | None:
    """The number, 1 to 50,000, in the official name of a validation image."""
    match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", Path(name).name, re.IGNORECASE)
    return int(match[1]) if match and 1 <= int(match[1]) <= COUNTS["validation"] else None


def validation_labels(directory: Path) -> tuple[np.ndarray, str]:
    """Labels of the validation images by number, int32 [50,000], and where they come from.

    The official tar file has pictures alone. Their classes are in the development kit (a text file of its own class
    numbers, and their WordNet ids in meta.mat) and, as WordNet ids, in the package of TensorFlow Datasets. A kit
    that lies in `directory`, as it was downloaded or unpacked, goes first.

    Raises:
        UserError: neither is there, or not as it should be.
    """
    packed, unpacked = directory / f"{DEVKIT}.tar.gz", directory / DEVKIT
    if unpacked.is_dir() or packed.is_file():
        origin = unpacked if unpacked.is_dir() else packed
        ids = _devkit_ids(origin)
    else:
        origin = _packaged_file()
        if not origin.is_file():
            raise UserError(
                f"the validation images have no labels: neither is the development kit {packed.name} in {directory}, "
                f"nor has the installed TensorFlow Datasets {origin}; put the kit there"
            )
        ids = origin.read_text(encoding="ascii").split()
    check_known(sorted(set(ids)), str(origin))
    if hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest() != VALIDATION:
        raise UserError(
            f"{origin} does not have the labels of the 50,000 validation images as published ({len(ids):,} are there, "
            "their SHA-256 is another); get it again"
        )
    return np.array([standard_labels()[name] for name in ids], np.int32), str(origin)


def _packaged_file() -> Path:
    """The list that TensorFlow Datasets prepares imagenet2012 with; found without importing the package."""
    from importlib.util import find_spec

    found = find_spec("tensorflow_datasets")
    root = Path(found.origin).parent if found is not None and found.origin else Path("tensorflow_datasets")
    return root / "datasets" / "imagenet2012" / "validation_labels.txt"


def _devkit_ids(origin: Path) -> list[str]:
    """WordNet ids of the validation images in order, from the development kit."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        if origin.is_dir():
            with (origin / "data" / "meta.mat").open("rb") as meta:
                synsets = loadmat(meta, squeeze_me=True)["synsets"]
            truth = (origin / "data" / "ILSVRC2012_validation_ground_truth.txt").read_text(encoding="ascii")
        else:
            with tarfile.open(origin) as archive:
                synsets = loadmat(_member(archive, "meta.mat"), squeeze_me=True)["synsets"]
                truth = _member(archive, "ILSVRC2012_validation_ground_truth.txt").read().decode("ascii")
        names = {int(number): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        return [names[int(number)] for number in truth.split()]
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError, MatReadError) as error:
        raise UserError(f"{origin} is no development kit that can be read ({error!r}); download it again") from None


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(f"{DEVKIT}/data/{name}")
    if file is None:
        raise KeyError(name)
    return file
