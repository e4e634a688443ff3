"""Sample sets on disk: shards of uint8 images and labels, in the layout of the ADM evaluation suite."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from zoo.console import UserError, say
from zoo.data.pictures import to_bytes
from zoo.training.checkpoints import write_text

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # what reading a cut or missing npz file raises


def claim(folder: Path, identity: dict[str, Any]) -> str:
    """Makes the folder the set of `identity`; shards of another one are removed."""
    text = json.dumps(identity, indent=1, sort_keys=True)
    marker = folder / "set.json"
    # an empty folder is one that another worker is about to claim, not a set of others
    known = marker.is_file() or any(folder.glob("shard-*.npz"))
    if known and not (marker.is_file() and marker.read_text() == text):
        say(f"{folder} holds samples of other weights or settings: they are made anew")
        shutil.rmtree(folder)
    if not marker.is_file():
        write_text(marker, text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_images(folder: Path, indices: np.ndarray, shard: int) -> np.ndarray:
    """Images of a sample set float32 [n, H, W, C] in [-1, 1], unrounded where they were stored so."""
    parts = []
    for number in np.unique(indices // shard):
        exact = folder / "s0000" / f"shard-{number:05d}.npz"
        path = exact if exact.is_file() else folder / f"shard-{number:05d}.npz"
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                images = arrays["arr_0"]
        except DAMAGED as error:
            raise UserError(f"{path} is missing or damaged: sample the stage before first") from error
        images = images if images.dtype == np.float32 else images.astype(np.float32) / 127.5 - 1
        wanted = indices[indices // shard == number] - number * shard
        if wanted.max() >= len(images):
            raise UserError(f"{path} has {len(images)} images, {wanted.max() + 1} are needed: sample that stage again")
        parts.append(images[wanted])
    return np.concatenate(parts)


def is_whole(path: Path, count: int) -> bool:
    """Whether a shard is there, undamaged, with exactly `count` images: the last one grows with the set."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return len(arrays["arr_0"]) == count
    except DAMAGED:
        return False


def remove_beyond(folder: Path, shards: int) -> None:
    """Removes the shards that a larger set of the same identity left: whoever reads the folder takes all it holds."""
    for path in [*folder.glob("shard-*.npz"), *folder.glob("s0000/shard-*.npz")]:
        if int(path.stem.removeprefix("shard-")) >= shards:
            path.unlink()


def write_shard(path: Path, images: np.ndarray, labels: np.ndarray | None, keep_float: bool) -> None:
    """Writes images [-1, 1] as uint8 `arr_0` with int64 labels `arr_1`; each file is written whole or not at all."""
    arrays = {"arr_0": to_bytes(images)} | ({} if labels is None else {"arr_1": labels.astype(np.int64)})
    exact = path.parent / "s0000" / path.name
    if keep_float:
        _write_npz(exact, {**arrays, "arr_0": images.astype(np.float32)})
    else:  # of a set that stored them: a reader would prefer it
        exact.unlink(missing_ok=True)
    _write_npz(path, arrays)


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)
