"""Pictures for a person: of classes, of given images reconstructed, and of what lies between two images."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from zoo.console import UserError, say
from zoo.data.pictures import write_grid
from zoo.sample_files import write_arrays

if TYPE_CHECKING:
    from zoo.data.images import Images
    from zoo.experiment import Experiment

# What reading something else than an npz file with images raises.
NOT_READ = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile)
BETWEEN = 9  # pictures from one image to the other, both ends included


def write_samples(
    experiment: "Experiment",
    labels: list[int] | None,
    count: int | None,
    seed: int | None,
    prompts: list[str] | None = None,
    **chosen: Any,
) -> None:
    """Samples classes or texts, or enlarges `low_resolution`: PNG files and a grid in WORKDIR/pictures.

    Args:
        labels, count, seed, prompts, chosen: of `Experiment.sample`.
    """
    result = experiment.sample(labels, count, seed, prompts=prompts, **chosen)
    folder = experiment.workdir / "pictures"
    for old in folder.glob("[0-9][0-9][0-9]*.png"):  # of other labels or prompts
        old.unlink()
    for i, image in enumerate(result):
        label = f"-class{labels[i % len(labels)]}" if labels else ""
        words = f"-{_slug(prompts[i % len(prompts)])}" if prompts else ""
        _save(image, folder / f"{i:03d}{label}{words}.png")
    turn = len(labels or prompts or ())
    columns = turn if 0 < turn <= 16 else None  # then a column is a class or a text
    _write_grid(folder, result, columns)
    say(f"{len(result)} pictures and grid.png in {folder}")
    if not labels and any(stage.labelled for stage in experiment.pipeline.cascade):
        say("their classes are the recipe's, by SampleSet.labels or of real images: --labels names others")


def _slug(prompt: str) -> str:
    """A prompt as part of a file's name: 'a red circle' -> 'a-red-circle'."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:60] or "prompt"


def write_encoded(experiment: "Experiment", files: Sequence[str], labels: list[int] | None, **chosen: Any) -> None:
    """Encodes images and decodes them again: latents.npz and reconstructions.png in WORKDIR/encoded.

    Args:
        files: pictures, or one npz file.
        labels: one an image, of a model that has classes.
        chosen: `stage`, `checkpoint` and `decay` of `Experiment.latents`.
    """
    latents = experiment.latents(**chosen)
    images = read_images(files, latents.stage.images)
    with experiment.strategy.scope():
        found = latents.encode(images, labels)
        again = latents.decode(found, labels)
    folder = experiment.workdir / "encoded"
    write_arrays(
        folder / "latents.npz", {"arr_0": found} | ({} if labels is None else {"arr_1": np.array(labels, np.int64)})
    )
    _write_grid(folder, np.concatenate([images, again]), len(images), "reconstructions.png")
    difference = again.astype(np.float64) - images
    for number, error in enumerate(np.sqrt(np.mean(np.square(difference), axis=(1, 2, 3)))):
        say(f"image {number}: reconstructed to {error:.2f} of 255 grey levels (root mean square)")
    say(f"latents.npz and reconstructions.png (images above, reconstructions below) in {folder}")


def write_interpolations(
    experiment: "Experiment", files: Sequence[str], labels: list[int] | None, count: int | None, **chosen: Any
) -> None:
    """What lies between pairs of images: PNG files, and a grid with a pair a row, in WORKDIR/interpolations.

    A row of the grid is an image, the pictures from its reconstruction to that of the other, and the other (ADM, figure
    10).

    Args:
        files: pictures, or one npz file: the first and the second are a pair, the third and the fourth, ...
        labels: one an image, of a model that has classes.
        count: pictures from one image to the other.
        chosen: `stage`, `checkpoint` and `decay` of `Experiment.latents`.
    """
    latents = experiment.latents(**chosen)
    images = read_images(files, latents.stage.images)
    if len(images) % 2:
        raise UserError(f"--images must be pairs to interpolate between, got {len(images)} images")
    first, second = images[0::2], images[1::2]
    with experiment.strategy.scope():
        made = latents.interpolate(first, second, labels, count or BETWEEN)
    folder = experiment.workdir / "interpolations"
    for row, pictures in enumerate(made):
        for column, image in enumerate(pictures):
            _save(image, folder / f"{row:03d}-{column:03d}.png")
    rows = np.concatenate([first[:, None], made, second[:, None]], axis=1)
    _write_grid(folder, rows.reshape(-1, *rows.shape[2:]), rows.shape[1])
    say(f"{made.shape[0] * made.shape[1]} pictures and grid.png (each row between its two images) in {folder}")


def read_images(files: Sequence[str], images: "Images") -> np.ndarray:
    """uint8 [N, S, S, C] of picture files, or of `arr_0` of one npz file, cropped as the data of a stage.

    Raises:
        UserError: a file is not there, or is no picture.
    """
    if len(files) == 1 and files[0].endswith(".npz"):
        found = list(read_npz(Path(files[0]), "--images"))
    else:
        found = [_read_picture(Path(file)) for file in files]
    return np.stack([np.asarray(images.fit(picture)) for picture in found])


def read_npz(path: Path, flag: str) -> np.ndarray:
    """`arr_0` of an npz file.

    Args:
        flag: that named it, for the message.
    """
    try:
        with path.open("rb") as file:
            return np.load(file)["arr_0"]
    except NOT_READ as error:
        raise UserError(f"{flag} must be an npz file with images in arr_0: {error}") from error


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"--images must be picture files or one npz file: {path}: {reason}") from error


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)


def _write_grid(folder: Path, images: np.ndarray, columns: int | None, name: str = "grid.png") -> None:
    write_grid(folder / name, images, columns, scale=max(1, 128 // images.shape[1]))
