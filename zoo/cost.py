"""What a traced network costs: floating-point operations and the activations that a backward pass keeps.

Both are read from the graph of one forward pass, so they hold for any network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from zoo.liveness import HALF_BYTES, PRECISE, VIEWS, bytes_of, dependent, memory_of, peak
from zoo.symbolic import PRODUCTS, Traced

# The gradient needs the inputs: those of a product that depend on the images, and what curves are evaluated at.
KEEPS_INPUTS = {
    "Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum",
    "Mul", "RealDiv", "Square", "SquaredDifference", "Pow", "Erf", "MaxPool",
}  # fmt: skip
# The gradient needs the output.
KEEPS_OUTPUT = {"Softmax", "Sigmoid", "Tanh", "Exp", "Rsqrt", "Sqrt", "Relu", "Elu", "LeakyRelu"}
# The gradient needs the condition: the mask of dropout.
KEEPS_CONDITION = {"Select", "SelectV2"}
# Tensors of the largest size that live while a layer is differentiated: gradients of its output and input, what is
# computed again on the way, and the same of its neighbour. Measured on two U-Nets (docs/facts.md).
WORKING_TENSORS = 6


@dataclass(frozen=True)
class Activations:
    """Bytes of one image in a training step, and in sampling.

    Attributes:
        kept: from the forward to the backward pass.
        working: while one layer is differentiated.
        kept_between: from the forward to the backward pass where blocks are computed again: their inputs, and what
            lies outside of blocks.
        largest_block: what the largest block keeps while it is differentiated.
        forward: at the worst moment of a forward pass of its own, which keeps nothing.
    """

    kept: int
    working: int
    kept_between: int
    largest_block: int
    forward: int

    def total(self, recompute: bool) -> int:
        """At the worst moment."""
        return self.working + (self.kept_between + self.largest_block if recompute else self.kept)


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes:
        flops: of a forward pass; a multiplication and an addition count as two (matrix products and
            convolutions; all else is a few per cent).
        block_flops: those of them inside blocks, which recomputation does twice.
        single: activations of a network in float32.
        half: of one in bfloat16 or float16, whose normalisations and softmaxes stay in float32.
    """

    flops: int
    block_flops: int
    single: Activations
    half: Activations

    @property
    def activation_bytes(self) -> int:
        """What a forward pass in float32 keeps until the backward pass."""
        return self.single.kept

    def activations(self, policy: str) -> Activations:
        """Under a Keras policy."""
        return self.half if policy.endswith("float16") else self.single


def measure(traced: Traced) -> Cost:
    """Counts the operations and activations of a traced forward pass, for each of its images."""
    operations = traced.graph.get_operations()
    flops = [_flops(operation) for operation in operations]
    inside = [sum(flops[start:end]) for start, end in traced.blocks]
    graph = _Graph(operations, traced)
    return Cost(
        sum(flops) // traced.batch, sum(inside) // traced.batch, graph.activations(False), graph.activations(True)
    )


def _flops(operation: tf.Operation) -> int:
    """2 x multiply-adds of one operation."""
    if operation.type not in PRODUCTS:
        return 0
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
    return _einsum_flops(operation)


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


class _Graph:
    """Which tensors of a forward pass the backward pass reads."""

    def __init__(self, operations: list[tf.Operation], traced: Traced) -> None:
        self.batch, self.operations = traced.batch, operations
        self.moving = dependent(operations)
        hidden = _inside_custom_gradients(operations)
        block_of = {i: number for number, (start, end) in enumerate(traced.blocks) for i in range(start, end)}
        # (source, precise, block) of everything that is kept, and the sources that blocks are given.
        self.kept: list[tuple[tf.Tensor, bool, int | None]] = []
        self.given: dict[str, tf.Tensor] = {}
        made_in: dict[str, int | None] = {}
        largest = 0
        for i, operation in enumerate(operations):
            block = block_of.get(i)
            made_in[operation.name] = block
            for tensor in operation.inputs if block is not None else ():
                if made_in[tensor.op.name] != block and tensor.name in self.moving:
                    source = memory_of(tensor)
                    self.given[source.name] = source
            if operation.name not in hidden:
                for tensor, precise in _kept(operation):
                    source = memory_of(tensor)
                    if source.name in self.moving:
                        self.kept.append((source, precise, block))
            if operation.type not in VIEWS:
                largest = max([largest, *(math.prod(x.shape) for x in operation.outputs if x.name in self.moving)])
        self.largest = largest

    def activations(self, half: bool) -> Activations:
        """For each image."""
        width = HALF_BYTES if half else tf.float32.size
        # Half the tensors at work are those of normalisation, in single precision.
        working = WORKING_TENSORS * self.largest * (width + tf.float32.size) // 2
        inside: dict[int, list[tuple[tf.Tensor, bool]]] = {}
        outside = [(source, False) for source in self.given.values()]
        for source, precise, block in self.kept:
            if block is None:
                outside.append((source, precise))
            elif source.name not in self.given:
                inside.setdefault(block, []).append((source, precise))
        largest = max((_bytes(tensors, half) for tensors in inside.values()), default=0)
        everything = _bytes([(source, precise) for source, precise, _ in self.kept], half)
        sizes = (everything, working, _bytes(outside, half), largest, peak(self.operations, half))
        return Activations(*(size // self.batch for size in sizes))


def _bytes(tensors: list[tuple[tf.Tensor, bool]], half: bool) -> int:
    """Of different tensors; in half precision one that is also needed precisely exists twice."""
    different = {(source.name, half and precise): source for source, precise in tensors}
    return sum(bytes_of(source, half and not precise) for (_, precise), source in different.items())


def _inside_custom_gradients(operations: list[tf.Operation]) -> set[str]:
    """The names of operations that TensorFlow does not differentiate, but a gradient written by hand does."""
    hidden: set[str] = set()
    for operation in operations:
        arguments = {tensor.op.name for tensor in _arguments(operation)}
        if not arguments:
            continue
        waiting = [tensor.op for tensor in operation.inputs if tensor.op.name not in arguments]
        while waiting:
            inner = waiting.pop()
            if inner.name not in hidden and inner.name not in arguments:
                hidden.add(inner.name)
                waiting += [tensor.op for tensor in inner.inputs]
    return hidden


def _arguments(operation: tf.Operation) -> list[tf.Tensor]:
    """The arguments of a function with a gradient written by hand, which such a function ends with; else none.

    It ends in an IdentityN of its results and then its arguments, and nothing reads the latter. The gradient is taken
    to need the arguments alone, as that of swish does and that of the group normalisation here.
    """
    if operation.type != "IdentityN" or "_gradient_op_type" not in operation.node_def.attr:
        return []
    return [
        tensor
        for tensor, result in zip(operation.inputs, operation.outputs, strict=True)
        if result.value_index > 0 and not result.consumers()
    ]


def _kept(operation: tf.Operation) -> Iterator[tuple[tf.Tensor, bool]]:
    """What the gradient of an operation reads, and whether in single precision in any case."""
    precise = operation.type in PRECISE
    if operation.type == "IdentityN":
        yield from ((tensor, False) for tensor in _arguments(operation))
    elif operation.type in KEEPS_OUTPUT:
        yield from ((tensor, precise) for tensor in operation.outputs)
    elif operation.type in KEEPS_CONDITION:
        yield operation.inputs[0], precise
    elif operation.type == "Mul":
        # A factor is kept for the gradient of the other one; a constant has none.
        left, right = operation.inputs
        yield from ((a, precise) for a, b in ((left, right), (right, left)) if memory_of(b).op.type != "Const")
    elif operation.type in KEEPS_INPUTS:
        yield from ((tensor, precise) for tensor in operation.inputs)
