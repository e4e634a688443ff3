"""State dicts: the tensors of a network under the names and in the layout of the PyTorch program that it came from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from zoo.console import UserError

StateDict = Mapping[str, np.ndarray]

NAMED = 20  # tensors of a kind of mistake that a message names all


class Tensor(NamedTuple):
    """A published tensor and the variable that holds it here."""

    name: str
    variable: keras.Variable
    ones: int | None = None
    """Of a kernel: how many axes of one pixel the published one has at its end; None for what is no kernel.

    Kernels are [out, in, ...] there and [..., in, out] here, and convolutions of one pixel are linear maps here.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is published."""
        shape = tuple(self.variable.shape)
        if self.ones is None:
            return shape
        *pixels, width_in, width_out = shape
        return (width_out, width_in, *pixels, *[1] * self.ones)

    def here(self, value: np.ndarray) -> np.ndarray:
        """The published layout -> that of the variable."""
        if self.ones is None:
            return value
        value = value.reshape(value.shape[: value.ndim - self.ones])
        return np.moveaxis(value, (0, 1), (-1, -2))

    def there(self) -> np.ndarray:
        """The variable's value in the published layout."""
        value = np.asarray(self.variable)
        return value if self.ones is None else np.moveaxis(value, (-1, -2), (0, 1)).reshape(self.shape)


class Part(NamedTuple):
    """A tensor that was converted, as the parity report shows it."""

    name: str
    shape: tuple[int, ...]
    norm: float
    """Of the published numbers."""
    variable: str
    norm_here: float
    """Of the variable's numbers, read back."""


def assign(tensors: Sequence[Tensor], weights: StateDict) -> None:
    """Puts published tensors into the variables of a built network; nothing is changed unless every tensor fits.

    Raises:
        UserError: naming every missing, unused, mis-shaped or non-finite tensor.
    """
    problems: dict[str, list[str]] = {}
    for tensor in tensors:
        if tensor.name not in weights:
            problems.setdefault("missing", []).append(f"{tensor.name} {tensor.shape}")
            continue
        value = weights[tensor.name]
        if value.shape != tensor.shape:
            found = f"{tensor.name} is {value.shape}, the network has {tensor.shape}"
            problems.setdefault("mis-shaped", []).append(found)
        elif value.dtype.kind not in "fV":  # V: bfloat16 and its like
            problems.setdefault("not of real numbers", []).append(f"{tensor.name} is {value.dtype}")
        elif not np.isfinite(value).all():
            problems.setdefault("not finite", []).append(f"{tensor.name} has numbers that are none")
    names = {tensor.name for tensor in tensors}
    unused = [f"{name} {value.shape}" for name, value in weights.items() if name not in names]
    problems |= {"unused": unused} if unused else {}
    if problems:
        raise UserError(_account(problems))
    for tensor in tensors:
        value = np.asarray(weights[tensor.name]).astype(tensor.variable.dtype)
        tensor.variable.assign(tensor.here(value))


def _account(problems: Mapping[str, Sequence[str]]) -> str:
    """How many tensors are wrong in which way, and their names: of many the first."""
    lines = []
    for kind, found in problems.items():
        shown = found if len(found) <= NAMED else found[: NAMED // 2]
        lines += [f"{kind}: {line}" for line in shown]
        lines += [f"{kind}: {len(found) - len(shown)} more"] if len(shown) < len(found) else []
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in problems.items())
    return f"the weights do not fit the description ({counts}):\n  " + "\n  ".join(lines)


def export(tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The variables under their published names, in the published layout and order."""
    return {tensor.name: np.ascontiguousarray(tensor.there()) for tensor in tensors}


def parity(tensors: Sequence[Tensor], weights: StateDict) -> list[Part]:
    """What became of each published tensor."""
    return [
        Part(
            tensor.name,
            tensor.shape,
            _norm(weights[tensor.name]),
            tensor.variable.path.partition("/")[2],
            _norm(np.asarray(tensor.variable)),
        )
        for tensor in tensors
    ]


def _norm(value: np.ndarray) -> float:
    """Euclidean norm of the numbers, summed in an order that does not depend on their layout's strides."""
    return float(np.sqrt(np.square(value, dtype="float64").sum()))


def report(parts: Sequence[Part]) -> Iterator[str]:
    """Layer by layer: what the published tensors are, and where they are here."""
    layers: dict[str, list[Part]] = {}
    for part in parts:
        layers.setdefault(part.name.rpartition(".")[0], []).append(part)
    for name, members in layers.items():
        yield f"{name}  ->  {members[0].variable.rpartition('/')[0] or members[0].variable}"
        for part in members:
            equal = "equal" if np.isclose(part.norm, part.norm_here, rtol=1e-12) else f"HERE {part.norm_here:.9g}"
            shape = " x ".join(map(str, part.shape))
            yield f"    {part.name.rpartition('.')[2]:10} {shape:22} norm {part.norm:<16.9g} {equal}"


def numbers(tensors: Sequence[Tensor]) -> dict[str, int]:
    """How many numbers each top-level module of the published network has, in its order."""
    found: dict[str, int] = {}
    for tensor in tensors:
        module: Any = tensor.name.split(".")[0]
        found[module] = found.get(module, 0) + int(np.prod(tensor.shape))
    return found
