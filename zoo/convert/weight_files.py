"""Files of weights, read and written by the ending of their names: .pt and .pth (PyTorch's), .safetensors."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.console import UserError
from zoo.convert.torch_file import read_state_dict
from zoo.convert.torch_writing import write_state_dict

TORCH = (".pt", ".pth", ".ckpt")
ENDINGS = (*TORCH, ".safetensors")


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Tensor name -> array; nothing in the file is run.

    Raises:
        UserError: no such file, another kind of file, cut short, damaged, or with objects that are not data.
    """
    _check(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix in TORCH:
        return read_state_dict(path)
    from_file = _safetensors()
    try:
        with from_file.safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # its own kind of error, which is no subclass of anything
        raise UserError(
            f"{path} is no whole safetensors file ({error}): it may have been cut short or altered on its way; fetch "
            "or save it again"
        ) from error


def write_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes tensors beside the place and renames, so that the file is whole or not there."""
    _check(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in TORCH:
            write_state_dict(partial, weights)
        else:
            import safetensors.numpy

            safetensors.numpy.save_file(dict(weights), partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error


def _check(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UserError(f"weights must be a file that ends in {', '.join(ENDINGS)}, got {path}")
    if path.suffix == ".safetensors":
        _safetensors()


def _safetensors():  # type: ignore[no-untyped-def]
    try:
        import safetensors
    except ImportError as error:
        raise UserError("safetensors files need the package safetensors: pip install -e '.[convert]'") from error
    return safetensors
