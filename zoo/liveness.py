"""Which tensors of a graph are memory of their own, and how much of a forward pass is in memory at once."""

import math
from collections.abc import Sequence

import tensorflow as tf

from zoo.symbolic import SEED, WEIGHT

HALF_BYTES = 2
# Outputs that are the same memory as their first input.
VIEWS = {"Reshape", "Identity", "IdentityN", "Squeeze", "ExpandDims", "Snapshot", "StopGradient"}
# Computed in single precision by networks that compute in half.
PRECISE = {"Square", "SquaredDifference", "Pow", "Softmax", "Exp", "Rsqrt", "Sqrt", "RealDiv"}
# Their result is written over an input of the same size that nothing else reads.
IN_PLACE = {
    "Add", "AddV2", "BiasAdd", "Cast", "Exp", "Maximum", "Minimum", "Mul", "Neg", "RealDiv", "Relu", "Rsqrt",
    "SelectV2", "Sigmoid", "Softmax", "Square", "Sub", "Tanh",
}  # fmt: skip


def memory_of(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one shows."""
    while tensor.op.type in VIEWS:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor


def bytes_of(tensor: tf.Tensor, half: bool) -> int:
    """Bytes of a tensor; `half` where what is a float is stored in half precision."""
    width = HALF_BYTES if half and tensor.dtype.is_floating else tensor.dtype.size
    return math.prod(tensor.shape) * width


def dependent(operations: Sequence[tf.Operation], left_out: tuple[str, ...] = ()) -> set[str]:
    """The names of the tensors that depend on the network's inputs; the rest are weights and constants.

    Args:
        left_out: names of inputs that do not count.
    """
    found: set[str] = set()
    for operation in operations:
        name = operation.name.rpartition("/")[2]
        is_input = operation.type == "Placeholder" and not name.startswith(WEIGHT) and name not in left_out
        if is_input or any(tensor.name in found for tensor in operation.inputs):
            found |= {tensor.name for tensor in operation.outputs}
    return found


def peak(operations: Sequence[tf.Operation], half: bool) -> int:
    """The most bytes at once while operations run one after the other, a tensor freed after the last that reads it.

    That is a forward pass that keeps nothing for a gradient, without its inputs and weights. Masks of dropout, which
    there are none of in sampling, are left out.
    """
    moving = dependent(operations, left_out=(SEED,))
    last: dict[str, int] = {}
    for number, operation in enumerate(operations):
        last |= {memory_of(tensor).name: number for tensor in operation.inputs if tensor.name in moving}
    here = most = 0
    for number, operation in enumerate(operations):
        sources = {
            tensor.name: tensor for tensor in map(memory_of, operation.inputs) if tensor.op.type != "Placeholder"
        }
        dead = [_stored(tensor, half) for name, tensor in sources.items() if name in moving and last[name] == number]
        made = (
            []
            if operation.type in {*VIEWS, "Placeholder"}
            else [x for x in operation.outputs if x.name in moving and x.name in last]
        )
        new = [_stored(tensor, half) for tensor in made]
        over = operation.type in IN_PLACE and bool(new) and new[0] in dead
        here += sum(new) - (new[0] if over else 0)
        most = max(most, here)
        here -= sum(dead) - (new[0] if over else 0)
    return most


def _stored(tensor: tf.Tensor, half: bool) -> int:
    return bytes_of(tensor, half and tensor.op.type not in PRECISE)
