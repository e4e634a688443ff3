"""Writes a state dict as torch.save does, without PyTorch: the zip layout, float32 tensors by name."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

ALIGNMENT = 64
"""Where the numbers of each storage begin in the file, as PyTorch maps them."""
VERSION = b"3\n"


def write_state_dict(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name; every number becomes float32."""
    arrays = {name: np.asarray(value, dtype="<f4", order="C") for name, value in weights.items()}
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, file, "archive/data.pkl", _pickled(arrays))
        _add(archive, file, "archive/byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            _add(archive, file, f"archive/data/{key}", array.tobytes())
        _add(archive, file, "archive/version", VERSION)


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes) -> None:
    """A stored entry whose bytes begin at a multiple of the alignment: its extra field is the padding."""
    entry = zipfile.ZipInfo(name)
    header = 30 + len(name) + 4  # of the entry, then of its extra field
    padding = -(file.tell() + header) % ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    # sizes are known from the start, so an entry of more than 2 GiB would need another header: no tensor is so large
    archive.writestr(entry, content)


class _Words:
    """The instructions of a pickle of protocol 2 that a state dict needs."""

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.out.write(pickle.PROTO + bytes([2]))

    def name(self, module: str, name: str) -> None:
        self.out.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def text(self, value: str) -> None:
        encoded = value.encode()
        self.out.write(pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded)

    def number(self, value: int) -> None:
        size = value.bit_length() // 8 + 1
        self.out.write(pickle.LONG1 + bytes([size]) + value.to_bytes(size, "little", signed=True))

    def numbers(self, values: tuple[int, ...]) -> None:
        self.out.write(pickle.MARK)
        for value in values:
            self.number(value)
        self.out.write(pickle.TUPLE)

    def ordered_dict(self) -> None:
        self.name("collections", "OrderedDict")
        self.out.write(pickle.EMPTY_TUPLE + pickle.REDUCE)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """OrderedDict(name=torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), ...)."""
    words = _Words()
    words.ordered_dict()
    words.out.write(pickle.MARK)
    for key, (name, array) in enumerate(arrays.items()):
        words.text(name)
        words.name("torch._utils", "_rebuild_tensor_v2")
        words.out.write(pickle.MARK)
        words.out.write(pickle.MARK)  # the storage, by its persistent identity
        words.text("storage")
        words.name("torch", "FloatStorage")
        words.text(str(key))
        words.text("cpu")
        words.number(array.size)
        words.out.write(pickle.TUPLE + pickle.BINPERSID)
        words.number(0)
        words.numbers(array.shape)
        words.numbers(tuple(stride // array.itemsize for stride in array.strides))
        words.out.write(pickle.NEWFALSE)
        words.ordered_dict()
        words.out.write(pickle.TUPLE + pickle.REDUCE)
    words.out.write(pickle.SETITEMS + pickle.STOP)
    return words.out.getvalue()
