"""npz files, read without unpickling and row by row: an array of 50,000 images is never in memory whole."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from zoo.console import UserError

PART_BYTES = 4 * 2**20  # of an array in memory at a time


class Header(NamedTuple):
    """What an array is, without its content."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool = False
    """Whether it is stored in Fortran order: its rows are not runs of bytes then."""


def read_headers(path: Path) -> dict[str, Header]:
    """Header of every array of an npz file, by name; no array is read.

    Raises:
        UserError: it is not there, no npz file, cut short, or holds pickled objects.
    """
    headers: dict[str, Header] = {}
    with _explained(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                headers[member.removesuffix(".npy")] = _read_header(file)
    for name, header in headers.items():
        if header.dtype.hasobject:
            raise UserError(f"{path}: {name} is a pickled object, which can run code when read: save plain arrays")
    return headers


def read_array(path: Path, name: str) -> np.ndarray:
    """One whole array."""
    with _explained(path), np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[name])


def read_rows(path: Path, name: str) -> Iterator[np.ndarray]:
    """One array [N, ...] in consecutive parts [n, ...] of about `PART_BYTES`."""
    with _explained(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, dtype, by_columns = _read_header(file)
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        at_a_time = max(1, PART_BYTES // max(1, row_bytes))
        whole = read_array(path, name) if by_columns else None
        for start in range(0, shape[0], at_a_time):
            count = min(at_a_time, shape[0] - start)
            if whole is not None:
                yield np.ascontiguousarray(whole[start : start + count])
                continue
            content = file.read(count * row_bytes)
            if len(content) < count * row_bytes:
                raise EOFError(f"{name} ends inside row {start + len(content) // row_bytes}")
            yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


def _read_header(file: IO[Any]) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    return Header(tuple(shape), dtype, bool(by_columns) and len(shape) > 1)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what reading a damaged file raises into one message."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: give an .npz file") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is cut short or not an npz file ({error}): write or fetch it again") from error
