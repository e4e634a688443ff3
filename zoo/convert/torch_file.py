"""PyTorch files (.pt, .pth) as arrays, without PyTorch, and without running what is pickled in them.

Both layouts of `torch.save` are read: the zip archive (PyTorch 1.6 and later) and the sequence of pickles before it.
The pickle may ask for nothing but tensors, their storages and plain containers; anything else is refused by its name.
Arrays are read-only views of the file, mapped into memory: a checkpoint of gigabytes costs memory as it is used.
"""

import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from zoo.console import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
LOCAL_HEADER = 30  # bytes before the name in a zip archive's header of one entry

STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "UntypedStorage": np.dtype("u1"),
}
LATER_DTYPES: dict[str, np.dtype] = {  # without a storage class of their own
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
# What reading a cut or altered file ends in, by whichever byte was hit.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)


def read_torch_file(path: Path) -> Any:
    """What was saved, with every tensor as a read-only array: mostly a dict of arrays by name, or of such dicts.

    Raises:
        UserError: not a file of `torch.save`, cut short, damaged, or with objects that are not data.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            archive = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_archive(path) if archive else _read_legacy(path, file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is no whole file of torch.save ({type(error).__name__}: {error}): it may have been cut short or "
            "altered on its way; fetch or save it again"
        ) from error


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that holds a flat state dict: tensor name -> read-only array.

    Raises:
        UserError: as for `read_torch_file`, or something else than arrays by name was saved.
    """
    content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name (a state dict)")
    others = [str(name) for name, value in content.items() if not isinstance(value, np.ndarray)]
    if others:
        raise UserError(
            f"{path} holds other things than tensors by name: {', '.join(others[:10])}; save the state dict alone, "
            "torch.save(model.state_dict(), ...)"
        )
    return {str(name): value for name, value in content.items()}


class _Storage(NamedTuple):
    """A reference to the flat numbers of one or more tensors, as the pickle has it."""

    kind: str
    key: str
    view: tuple[str, int, int] | None = None
    """Of the oldest files: a part (key, start, length) of the storage."""


class _Tensor:
    """A reference to a tensor: nothing is read, and nothing checked, before the whole pickle is."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str):
        self.storage, self.offset, self.shape, self.strides, self.dtype = storage, offset, shape, strides, dtype


# The pickle gets instances, not functions: its BUILD instruction could set attributes of a function for good.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> _Tensor:
        return _Tensor(storage, offset, shape, strides, "")


class _RebuildLaterTensor:
    __slots__ = ()

    def __call__(
        self, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *others: Any
    ) -> _Tensor:
        return _Tensor(storage, offset, shape, strides, dtype)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor: Any, *others: Any) -> Any:
        return tensor


ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("builtins", "set"): lambda: set,
    ("__builtin__", "set"): lambda: set,
    ("torch", "Size"): lambda: tuple,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildLaterTensor,
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter,
    ("torch.storage", "UntypedStorage"): lambda: "UntypedStorage",
}


class _Unpickler(pickle.Unpickler):
    """Makes containers and references to tensors, and nothing else.

    Attributes:
        kinds: storage key -> kind, of all storages that were referred to.
    """

    def __init__(self, path: Path, file: Any):
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.kinds: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]()
        if module == "torch" and (name in STORAGES or name in LATER_DTYPES):
            return name
        raise UserError(
            f"{self.path} asks for {module}.{name}, which is neither a tensor nor a plain container: refused, for "
            "making it may run code. With the program that wrote the file, save the tensors alone: "
            "torch.save(model.state_dict(), ...)"
        )

    def persistent_load(self, identity: Any) -> _Storage:
        tag, kind, key, _, _, *view = identity
        if tag != "storage":
            raise pickle.UnpicklingError(f"it refers to a {tag}")
        self.kinds[str(key)] = kind
        return _Storage(kind, str(key), view[0] if view else None)


def _read_archive(path: Path) -> Any:
    """The zip layout: NAME/data.pkl, and a file NAME/data/KEY for each storage."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip archive, but not one of torch.save: it has no data.pkl")
        prefix = pickles[0].removesuffix("data.pkl")
        if prefix + "constants.pkl" in entries:
            raise UserError(
                f"{path} is a TorchScript program, not weights: with PyTorch, "
                "torch.save(torch.jit.load(FILE).state_dict(), ...) gives a file that can be read here"
            )
        if prefix + "byteorder" in entries and archive.read(prefix + "byteorder") != b"little":
            raise UserError(f"{path} was written on a big-endian machine: save it again on a little-endian one")
        with archive.open(pickles[0]) as file:
            unpickler = _Unpickler(path, file)
            content = unpickler.load()
        mapped = np.memmap(path, np.uint8, "r")
        storages = {
            key: _entry(archive, entries[f"{prefix}data/{key}"], mapped).view(STORAGES[kind])
            for key, kind in unpickler.kinds.items()
        }
    return _resolve(content, storages, {})


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, mapped: np.ndarray) -> np.ndarray:
    """The bytes of an entry: a view of the mapped file, checked against its checksum."""
    if entry.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(archive.read(entry), np.uint8)
    header = mapped[entry.header_offset : entry.header_offset + LOCAL_HEADER]
    lengths = header[26:30].view("<u2").astype(int)  # of the name and of the field that aligns the numbers
    start = entry.header_offset + LOCAL_HEADER + int(lengths.sum())
    found = mapped[start : start + entry.file_size]
    if len(found) < entry.file_size or zlib.crc32(found.data) != entry.CRC:
        raise zipfile.BadZipFile(f"bad checksum of {entry.filename}")
    return found


def _read_legacy(path: Path, file: BinaryIO) -> Any:
    """The layout before PyTorch 1.6: pickles of magic, version, system, content and storage keys, then the storages."""

    def load() -> Any:
        return _Unpickler(path, file).load()

    if load() != LEGACY_MAGIC or load() != LEGACY_VERSION:
        raise pickle.UnpicklingError("it does not begin as such a file does")
    if not load()["little_endian"]:
        raise UserError(f"{path} was written on a big-endian machine: save it again on a little-endian one")
    unpickler = _Unpickler(path, file)
    content = unpickler.load()
    keys = load()
    position = file.tell()
    mapped = np.memmap(path, np.uint8, "r")
    storages = {}
    for key in keys:
        dtype = STORAGES[unpickler.kinds[key]]
        count = int(mapped[position : position + 8].view("<i8")[0])
        end = position + 8 + count * dtype.itemsize
        if count < 0 or end > len(mapped):
            raise EOFError(f"storage {key} has {count} numbers, and the file ends before")
        storages[key] = mapped[position + 8 : end].view(dtype)
        position = end
    return _resolve(content, storages, {})


def _resolve(value: Any, storages: Mapping[str, np.ndarray], done: dict[int, Any]) -> Any:
    """The same with arrays in the place of references; what is there twice is made once."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Tensor):
        made: Any = _array(value, storages)
    elif isinstance(value, _Storage):
        made = storages[value.key]
    elif isinstance(value, Mapping):
        made = {key: _resolve(item, storages, done) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        made = type(value)([_resolve(item, storages, done) for item in value])
    else:
        return value
    done[id(value)] = made
    return made


def _array(tensor: _Tensor, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    """A view of the storage by offset and strides, which are counted in numbers; never beyond its end."""
    numbers = storages[tensor.storage.key]
    if tensor.storage.view is not None:
        _, start, length = tensor.storage.view
        numbers = numbers[start : start + length]
    if tensor.dtype:
        numbers = numbers.view(LATER_DTYPES[tensor.dtype])
    shape, strides = tuple(tensor.shape), tuple(tensor.strides)
    if len(shape) != len(strides) or min((*shape, *strides, tensor.offset), default=0) < 0:
        raise ValueError(f"a tensor of shape {shape}, strides {strides} and offset {tensor.offset}")
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= len(numbers):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {len(numbers)} numbers")
    return np.lib.stride_tricks.as_strided(
        np.asarray(numbers[tensor.offset :]),
        shape,
        [stride * numbers.itemsize for stride in strides],
        writeable=False,
    )
