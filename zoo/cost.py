"""What a traced network costs: floating-point operations and the activations that a backward pass keeps.

Both are read from the graph of one forward pass, so they hold for any network.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from zoo.symbolic import WEIGHT, Traced

# Outputs that are the same memory as their first input.
VIEWS = {"Reshape", "Identity", "IdentityN", "Squeeze", "ExpandDims", "Snapshot", "StopGradient"}
# The gradient needs the inputs: those of a product that depend on the images, and what curves are evaluated at.
KEEPS_INPUTS = {
    "Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum",
    "Mul", "RealDiv", "Square", "SquaredDifference", "Pow", "Erf", "MaxPool",
}  # fmt: skip
# The gradient needs the output.
KEEPS_OUTPUT = {"Softmax", "Sigmoid", "Tanh", "Exp", "Rsqrt", "Sqrt", "Relu", "Elu", "LeakyRelu"}


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes:
        flops: of a forward pass; a multiplication and an addition count as two (matrix products and
            convolutions; all else is a few per cent).
        activation_bytes: what a forward pass in training keeps until the backward pass, an estimate.
    """

    flops: int
    activation_bytes: int


def measure(traced: Traced) -> Cost:
    """Counts the operations and activations of a traced forward pass, for each of its images."""
    operations = traced.graph.get_operations()
    flops = sum(_flops(operation) for operation in operations)
    kept: dict[str, tf.Tensor] = {}
    moving = _dependent(operations)
    for operation in operations:
        for tensor in _kept(operation):
            source = _source(tensor)
            if source.name in moving:
                kept[source.name] = source
    size = sum(math.prod(tensor.shape) * tensor.dtype.size for tensor in kept.values())
    return Cost(flops // traced.batch, size // traced.batch)


def _flops(operation: tf.Operation) -> int:
    """2 x multiply-adds of one operation."""
    match operation.type:
        case "Conv2D":
            height, width, channels, _ = operation.inputs[1].shape
            return 2 * math.prod(operation.outputs[0].shape) * height * width * channels
        case "DepthwiseConv2dNative":
            height, width, _, _ = operation.inputs[1].shape
            return 2 * math.prod(operation.outputs[0].shape) * height * width
        case "MatMul" | "BatchMatMulV2":
            transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
            return 2 * math.prod(operation.outputs[0].shape) * operation.inputs[0].shape[-2 if transposed else -1]
        case "Einsum":
            return _einsum_flops(operation)
    return 0


def _einsum_flops(operation: tf.Operation) -> int:
    """The product of the sizes of all indices, for two operands; batch dots ('...') count as one index."""
    equation = operation.get_attr("equation").decode()
    sizes: dict[str, int] = {}
    for labels, tensor in zip(equation.split("->")[0].split(","), operation.inputs, strict=True):
        before, dots, after = labels.partition("...")
        shape = list(tensor.shape)
        sizes |= dict(zip(before, shape, strict=False))
        sizes |= dict(zip(reversed(after), reversed(shape), strict=False))
        if dots:
            sizes["..."] = math.prod(shape[len(before) : len(shape) - len(after)])
    return (2 if len(operation.inputs) > 1 else 0) * math.prod(sizes.values())


def _dependent(operations: list[tf.Operation]) -> set[str]:
    """The names of the tensors that depend on the network's inputs; the rest are weights and constants."""
    found: set[str] = set()
    for operation in operations:
        is_input = operation.type == "Placeholder" and not operation.name.rpartition("/")[2].startswith(WEIGHT)
        if is_input or any(tensor.name in found for tensor in operation.inputs):
            found |= {tensor.name for tensor in operation.outputs}
    return found


def _kept(operation: tf.Operation) -> list[tf.Tensor]:
    if operation.type in KEEPS_OUTPUT:
        # x sigmoid(x) is one operation to TensorFlow's gradient: it keeps x and computes the rest again.
        return [] if _is_swish(operation) else list(operation.outputs)
    if operation.type not in KEEPS_INPUTS:
        return []
    inputs = list(operation.inputs)
    if operation.type == "Mul":
        if any(_source(tensor).op.type == "Sigmoid" and _is_swish(_source(tensor).op) for tensor in inputs):
            return [tensor for tensor in inputs if _source(tensor).op.type != "Sigmoid"]
        # A factor is kept for the gradient of the other one; a constant has none.
        return [a for a, b in zip(inputs, reversed(inputs), strict=True) if _source(b).op.type != "Const"]
    return inputs


def _is_swish(operation: tf.Operation) -> bool:
    """Whether a sigmoid is only multiplied with its own argument."""
    if operation.type != "Sigmoid":
        return False
    argument = _source(operation.inputs[0]).name
    return all(
        user.type == "Mul" and argument in (_source(tensor).name for tensor in user.inputs)
        for user in operation.outputs[0].consumers()
    )


def _source(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one shows."""
    while tensor.op.type in VIEWS:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor
