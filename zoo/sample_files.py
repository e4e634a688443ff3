"""Sample sets on disk: shards of uint8 images and labels, in the layout of the ADM evaluation suite.

Whose set a folder is, and files that are whole or not there, serve other work in shards too.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.console import UserError, say
from zoo.data.pictures import to_bytes
from zoo.locks import locked

if TYPE_CHECKING:
    from zoo.sampling import SampleSet

# What reading a cut, altered or missing npz file raises.
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
PATIENCE = 10.0  # seconds in which workers that start together agree on whose set the folder is


# ---- whose set it is


@contextlib.contextmanager
def claimed(
    folder: Path, identity: dict[str, Any], part: tuple[int, int] = (1, 1), holds: str = "samples"
) -> Iterator[str]:
    """The folder as the set of `identity`, for as long as this worker writes into it; gives the hash of the identity.

    The worker of a whole set has the folder alone. Workers of parts have it together, each alone with its part.
    Shards of another identity are removed, unless one of their workers is alive.

    Args:
        holds: what the shards hold, for messages.

    Raises:
        UserError: another process has the folder or the part.
    """
    text = json.dumps(identity, indent=1, sort_keys=True)
    what = f"the folder of {holds} {folder}"
    number, parts = part
    lock = folder.parent / f".{folder.name}.lock"  # beside the folder, which may be removed
    with contextlib.ExitStack() as held:
        if part == (1, 1):
            held.enter_context(locked(lock, what))
            if not _is_set_of(folder, text):
                _make_anew(folder, text, holds)
        else:
            own = folder.parent / f".{folder.name}.{number}-of-{parts}.lock"
            held.enter_context(locked(own, f"part {number}/{parts} of {what}"))
            held.enter_context(_joined(folder, text, lock, what, holds))
        yield hashlib.sha256(text.encode()).hexdigest()


def _joined(folder: Path, text: str, lock: Path, what: str, holds: str) -> contextlib.ExitStack:
    """A shared hold on the folder; who finds a set of others makes it anew in a moment in which nobody holds it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.ExitStack() as held:
            held.enter_context(locked(lock, what, shared=True, patience=PATIENCE))
            if _is_set_of(folder, text):
                return held.pop_all()
        with contextlib.ExitStack() as alone:
            try:
                alone.enter_context(locked(lock, what))
            except UserError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{what} is in use by workers that make {holds} of other weights or settings: wait for them "
                        "to end, stop them, or choose another --workdir"
                    ) from error
                time.sleep(0.05)
            else:
                if not _is_set_of(folder, text):
                    _make_anew(folder, text, holds)


def _is_set_of(folder: Path, text: str) -> bool:
    marker = folder / "set.json"
    return marker.is_file() and marker.read_text() == text


def _make_anew(folder: Path, text: str, holds: str) -> None:
    if any(folder.glob("shard-*.npz")):
        say(f"{folder} holds {holds} of other weights or settings: they are made anew")
    shutil.rmtree(folder, ignore_errors=True)
    _write(folder / "set.json", text.encode(), (1, 1))


def tidy(folder: Path, shards: int) -> None:
    """Removes what is not of a set of so many shards: those that a larger one left, and what was being written.

    Whoever reads the folder takes all it holds. For the worker that has the folder alone.
    """
    for path in [*folder.glob("shard-*.npz"), *folder.glob("s*/shard-*.npz")]:
        if int(path.stem.removeprefix("shard-")) >= shards:
            path.unlink()
    for path in [*folder.glob(".*.partial"), *folder.glob("s*/.*.partial")]:
        path.unlink()


# ---- reading


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def shard_path(folder: Path, number: int) -> Path:
    """The place of a shard."""
    return folder / f"shard-{number:05d}.npz"


def level_path(path: Path, s: int) -> Path:
    """The place of z_s of the same images, float32; z_0 are the images before they were rounded."""
    return path.parent / f"s{s:04d}" / path.name


def read_images(folder: Path, indices: np.ndarray, shard: int) -> np.ndarray:
    """Images of a sample set float32 [n, H, W, C] in [-1, 1], unrounded where they were stored so."""
    return read_set(folder, indices, shard)["images"]


def read_set(folder: Path, indices: np.ndarray, shard: int, s: int = 0) -> dict[str, np.ndarray]:
    """`images` float32 [n, H, W, C] of a sample set, or z_s of level s, and `label` int64 [n] where they have some.

    Raises:
        UserError: a shard is missing or damaged, or too short.
    """
    parts: dict[str, list[np.ndarray]] = {"images": [], "label": []}
    for number in np.unique(indices // shard):
        path = shard_path(folder, number)
        path = level_path(path, s) if s or level_path(path, s).is_file() else path
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                images, labels = arrays["arr_0"], arrays.get("arr_1")
        except DAMAGED as error:
            raise UserError(f"{path} is missing or damaged: sample the stage before first") from error
        images = images if images.dtype == np.float32 else images.astype(np.float32) / 127.5 - 1
        wanted = indices[indices // shard == number] - number * shard
        if wanted.max() >= len(images):
            raise UserError(f"{path} has {len(images)} images, {wanted.max() + 1} are needed: sample that stage again")
        parts["images"].append(images[wanted])
        if labels is not None:
            parts["label"].append(labels[wanted])
    return {name: np.concatenate(found) for name, found in parts.items() if found}


def is_whole(path: Path, count: int) -> bool:
    """Whether a shard is there, undamaged, with exactly `count` images: the last one grows with the set."""
    found = whole_arrays(path)
    return found is not None and len(found.get("arr_0", ())) == count


def whole_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an npz file that is there and undamaged.

    It must be what writing its arrays gives, byte for byte: the checksums of an npz file do not cover its headers.
    """
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content)) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return found if _npz(found) == content else None
    except DAMAGED:
        return None


def missing(folder: Path, samples: "SampleSet") -> list[int]:
    """The numbers of the shards that are not there, or not whole.

    Shard k is made by worker k mod n + 1 of n (`--shard`).
    """
    shards = enumerate(samples.shards())
    return [number for number, indices in shards if not is_whole(shard_path(folder, number), len(indices))]


# ---- writing


def write_shard(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray | None,
    levels: Mapping[int, np.ndarray] | None = None,
    part: tuple[int, int] = (1, 1),
    captions: np.ndarray | None = None,
) -> None:
    """Writes images [-1, 1] as uint8 `arr_0` with int64 labels `arr_1` and unicode `captions`, and z_s of `levels`
    beside them as float32.

    Each file is written whole or not at all.

    Raises:
        UserError: it could not be written, the disk is full for example; the shards before are whole.
    """
    arrays = {"arr_0": to_bytes(images)} | ({} if labels is None else {"arr_1": labels.astype(np.int64)})
    arrays |= {} if captions is None else {"captions": captions}
    for s, z in (levels or {}).items():
        _write(level_path(path, s), _npz({**arrays, "arr_0": z.astype(np.float32)}), part)
    if not levels or 0 not in levels:  # of a set that stored them: a reader would prefer it
        level_path(path, 0).unlink(missing_ok=True)
    _write(path, _npz(arrays), part)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], part: tuple[int, int] = (1, 1)) -> None:
    """Writes arrays as one npz file, whole or not at all.

    Raises:
        UserError: it could not be written, the disk is full for example.
    """
    _write(path, _npz(arrays), part)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """An npz file; the same arrays give the same bytes, for NumPy writes no time into it."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def _write(path: Path, content: bytes, part: tuple[int, int]) -> None:
    """Writes beside the place, under a name that no other living worker uses, and renames."""
    partial = path.with_name(f".{path.name}.{part[0]}-of-{part[1]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written: {error.strerror}. It needs {len(content):,} bytes, "
            f"{_free(path):,} are free. All shards before it are whole: make room, and the same command goes on"
        ) from error


def _free(path: Path) -> int:
    """Bytes free on the disk of a file that may not be there."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(there).free
