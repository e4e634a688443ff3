"""Writes the files of this folder with PyTorch and safetensors: `pip install -e '.[torch,test]'`, then run it.

weights.pt (zip), weights_legacy.pt (before PyTorch 1.6) and weights.safetensors hold the same tensors. carries_code.pt
and carries_code_legacy.pt, when unpickled without care, make a file `made-by-a-pickle` in the current folder.
"""

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

HERE = Path(__file__).parent


class Code:
    """A pickle of it makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("made-by-a-pickle", "w")


def tensors() -> OrderedDict[str, torch.Tensor]:
    """Every kind of number that weights come in, and every way in which a tensor lies in its storage."""
    row = torch.arange(12, dtype=torch.float32) / 7 - 0.5
    return OrderedDict(
        {
            "out.0.weight": row.reshape(3, 4),
            "out.0.turned": row.reshape(3, 4).t(),
            "out.0.part": row[5:9],
            "out.0.spread": row[::3],
            "out.0.one": torch.tensor(0.1),
            "out.0.none": torch.zeros(0, 4),
            "out.2.weight": torch.nn.Parameter(row.double().reshape(1, 12, 1, 1)),
            "half": row.half(),
            "brain": row.bfloat16(),
            "steps": torch.arange(-3, 3),
            "bytes": torch.arange(5, dtype=torch.uint8),
            "flags": row > 0,
        }
    )


def main() -> None:
    warnings.simplefilter("ignore")
    code = {"out.0.weight": torch.ones(2), "more": Code()}
    for ending, zipped in (("", True), ("_legacy", False)):
        torch.save(tensors(), HERE / f"weights{ending}.pt", _use_new_zipfile_serialization=zipped)
        torch.save(code, HERE / f"carries_code{ending}.pt", _use_new_zipfile_serialization=zipped)
    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors().items()}
    safetensors.torch.save_file(whole, HERE / "weights.safetensors")


if __name__ == "__main__":
    main()
