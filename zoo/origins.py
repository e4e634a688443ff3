"""Where the low-resolution images of a sample set come from: the stage before, real images, or a file."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.console import UserError
from zoo.diffusion.conditioning import Origin
from zoo.sample_files import DAMAGED, file_hash, read_set

if TYPE_CHECKING:
    from zoo.data.images import Images


class StageSamples(Origin):
    """z_0 of the stage before; the augmentation then spoils it (non-truncated, CDM, section 3.3)."""

    def read(self, indices: np.ndarray, pairs: "Images", before: Path | None, shard: int, s: float) -> dict[str, Any]:
        if before is None:
            raise UserError("there is no stage before whose samples could be taken")
        return named(read_set(before, indices, shard), "low_resolution")


class TruncatedSamples(Origin):
    """z_s of the stage before, whose reverse process is stopped at the level s of the augmentation (algorithm 2).

    Args:
        levels: of every s that will be asked for: one pass of the stage before keeps them all (CDM, section 3.3).
            None keeps the one of the augmentation.
    """

    truncated = True

    def __init__(self, levels: tuple[int, ...] | None = None) -> None:
        if levels is not None and any(s < 1 or s != int(s) for s in levels):
            raise ValueError(f"levels must be whole and positive: s = 0 is the sample itself, got {levels}")
        self.levels = levels

    def read(self, indices: np.ndarray, pairs: "Images", before: Path | None, shard: int, s: float) -> dict[str, Any]:
        if before is None:
            raise UserError("there is no stage before whose walk could be stopped")
        return named(read_set(before, indices, shard, int(s)), "z_s" if s else "low_resolution")


class RealImages(Origin):
    """Real images, as small as the stage before makes them, with their labels: ground truth (CDM, table 3b).

    Image i is the i-th of the split in an order that is drawn once.
    """

    chained = False

    def __init__(self, split: str = "train") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', which Images names, got '{split}'")
        self.split = split

    def identity(self, pairs: "Images") -> dict[str, Any]:
        return {"data": pairs.source.fingerprint(pairs.split(self.split))}

    def read(self, indices: np.ndarray, pairs: "Images", before: Path | None, shard: int, s: float) -> dict[str, Any]:
        first, count = int(indices[0]), len(indices)
        examples = list(pairs.examples(self.split, count, seed=0, first=first).as_numpy_iterator())
        if len(examples) < count:
            raise UserError(
                f"split '{pairs.split(self.split)}' of {pairs.source.name} has "
                f"{pairs.source.count(pairs.split(self.split)):,} images, number {first + count:,} is asked for: "
                "sample fewer (SampleSet.count)"
            )
        images = np.stack([example["low_resolution"] for example in examples]).astype(np.float32) / 127.5 - 1
        labels = {"label": np.array([e["label"] for e in examples], np.int64)} if "label" in examples[0] else {}
        return {"low_resolution": images, **labels}


class StoredImages(Origin):
    """Images from elsewhere: `arr_0` of an npz file, uint8 [N, h, w, C], with labels `arr_1` where it has some."""

    chained = False

    def __init__(self, path: str) -> None:
        if not path.endswith(".npz"):
            raise ValueError(f"path must be an npz file, got '{path}'")
        self.path = path

    def identity(self, pairs: "Images") -> dict[str, Any]:
        return {"data": file_hash(Path(self.path))}

    def read(self, indices: np.ndarray, pairs: "Images", before: Path | None, shard: int, s: float) -> dict[str, Any]:
        images, labels = load_images(Path(self.path))
        size, channels = pairs.low_resolution, pairs.channels
        if images.shape[1:] != (size, size, channels):
            raise UserError(f"{self.path} must hold images [N, {size}, {size}, {channels}], got {images.shape}")
        if indices.max() >= len(images):
            raise UserError(
                f"{self.path} has {len(images):,} images, number {indices.max() + 1:,} is asked for: sample fewer "
                "(SampleSet.count)"
            )
        chosen = {"low_resolution": images[indices].astype(np.float32) / 127.5 - 1}
        return chosen if labels is None else {**chosen, "label": labels[indices].astype(np.int64)}


@functools.lru_cache(maxsize=1)
def load_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 images and labels of an npz file.

    Raises:
        UserError: it is not there, or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            images, labels = arrays["arr_0"], arrays.get("arr_1")
    except DAMAGED as error:
        raise UserError(f"{path} must be an npz file with images in arr_0: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(f"{path}: arr_0 must be uint8 [N, h, w, C], got {images.dtype} {images.shape}")
    return images, labels


def named(found: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A sample set as inputs: its images under the name that the conditioning knows."""
    return {name if key == "images" else key: value for key, value in found.items()}
