"""A folder of finished work, found by what it was made from; whole or not there, so that a kill loses one part."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.whole_files import write_text, writing


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file of named arrays atomically."""
    with writing(path) as file:
        np.savez(file, allow_pickle=False, **dict(arrays))


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def digest(value: Any) -> str:
    """A short hash of a JSON-able value that does not depend on the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


class Cache:
    """Results of expensive work in files named by the hash of everything that they depend on.

    Args:
        folder: made when the first file is written.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def arrays(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays that were made from `key`, from the file if it is there, else from `make`."""
        path = self.folder / f"{kind}-{digest(key)}.npz"
        found = _read_arrays(path)
        if found is None:
            found = {name: np.asarray(array) for name, array in make().items()}
            write_arrays(path, {**found, "key": np.array(json.dumps(key, sort_keys=True))})
        return found

    def numbers(self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """The numbers that were made from `key`, from the file if it is there, else from `make`."""
        path = self.folder / f"{kind}-{digest(key)}.json"
        try:
            return dict(json.loads(path.read_text())["numbers"])
        except (OSError, ValueError, KeyError):
            pass  # not there, or cut short by a full disk: made again
        made = dict(make())
        write_json(path, {"numbers": made, "key": dict(key)})
        return made


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file without its key, or None where there is no whole file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name != "key"}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
