"""Builds a stage's network as a graph of shapes: no weights, no memory, a second for half a billion parameters."""

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from zoo.console import UserError

if TYPE_CHECKING:
    from zoo.learner import Learner

WEIGHT, SEED = "weight", "seed"
# Operations that are counted as arithmetic (zoo/cost.py).
PRODUCTS = frozenset({"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum"})


@dataclass(frozen=True)
class Traced:
    """A network as a graph.

    Attributes:
        parameters: numbers in the weights, the state of seed generators left out.
        trainable: those of them that training changes.
        graph: one forward pass; its placeholders are the inputs, by name, and the weights ("weight...").
        batch: images that the forward pass is made for.
        largest_weight: numbers in the largest of the weights.
        blocks: the operations of each block, as (first, end) in the order of the graph; none where the network does
            not know of recomputation.
        output: the shape of what the network returns.
    """

    parameters: int
    trainable: int
    graph: tf.Graph
    batch: int
    largest_weight: int = 0
    blocks: tuple[tuple[int, int], ...] = ()
    output: tuple[int, ...] = ()


class _Placeholders(keras.StatelessScope):
    """Lets variables be made without values; where one is read, the graph gets a placeholder of its shape.

    Keras itself would put the operations of the initializer there: ten for each weight instead of one.
    """

    def __init__(self) -> None:
        super().__init__(initialize_variables=False)
        self._made: dict[int, tuple[Any, tf.Tensor]] = {}

    def get_current_value(self, variable: Any) -> tf.Tensor:
        # The variable is kept beside its placeholder, so that its id stays its own.
        if id(variable) not in self._made:
            shape, dtype = tuple(variable.shape), variable.dtype
            self._made[id(variable)] = variable, tf.compat.v1.placeholder(dtype, shape, name=WEIGHT)
        return self._made[id(variable)][1]


def build(stage: "Learner", batch: int = 1) -> Traced:
    """Traces one forward pass in training of a stage's network on the inputs that the stage gives it, in float32.

    The network's variables have shapes and no values afterwards: it cannot be trained, build the recipe again.

    Args:
        batch: images in the forward pass.

    Raises:
        UserError: the output is not of the shape that the stage needs.
        ValueError: the network refuses its inputs.
    """
    traced = trace(stage.network, stage.input_spec(batch), batch)
    wanted = tuple(stage.output_shape(batch))
    if traced.output != wanted:
        raise UserError(
            f"the network returns {_shape(traced.output)}, but {_shape(wanted)} is needed: out_channels must be "
            f"{wanted[-1]}, with a learned variance twice what the images have"
        )
    return traced


def trace(network: Any, spec: Mapping[str, tuple[tuple[int, ...], str]], batch: int) -> Traced:
    """Traces one forward pass in training of a network on inputs of given shapes and dtypes, by name."""
    graph = tf.Graph()
    with graph.as_default(), _forgotten(), _Placeholders(), _without_collection(), _seen_before(graph):
        inputs = {name: tf.compat.v1.placeholder(dtype, shape, name=name) for name, (shape, dtype) in spec.items()}
        inputs[SEED] = tf.compat.v1.placeholder("int32", (2,), name=SEED)
        with _recording_blocks(network, graph) as blocks:
            output = network(inputs)
    sizes = [math.prod(weight.shape) for weight in network.weights]
    trainable = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    return Traced(sum(sizes), trainable, graph, batch, max(sizes, default=0), tuple(blocks), tuple(output.shape))


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    """Keras lists variables without values, and gives all of them one the next time that a network is built.

    Those made here are taken off the list again: a network that is built later would allocate this one's weights.
    """
    name = "uninitialized_variables"
    before = list(global_state.get_global_attribute(name, []))
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


@contextlib.contextmanager
def _recording_blocks(network: Any, graph: tf.Graph) -> Iterator[list[tuple[int, int]]]:
    """Notes which operations each block makes, where a network calls its blocks through its `recompute`."""
    blocks: list[tuple[int, int]] = []

    def record(function: Callable[..., Any], *tensors: Any) -> Any:
        first = len(graph.get_operations())
        result = function(*tensors)
        made = first, len(graph.get_operations())
        if made[1] > first:  # Keras calls a model without `build` once more, in a graph of its own, to build it
            blocks.append(made)
        return result

    if not hasattr(network, "recompute"):
        yield blocks
        return
    before, network.recompute = network.recompute, record
    try:
        yield blocks
    finally:
        network.recompute = before


@contextlib.contextmanager
def _seen_before(graph: tf.Graph) -> Iterator[None]:
    """Functions with a gradient written by hand are traced once for each shape; then one operation stands for them.

    Of such a function a graph tells what its gradient keeps, which is its arguments, and its products (zoo/cost.py).
    One that makes no products and gives an image as large as its first argument costs as much as this operation. Group
    normalisation is one: 60 operations, seven of ten in the graph of a U-Net.
    """
    traced, original = set(), keras.ops.custom_gradient

    def custom_gradient(function: Any) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            key = function.__code__, *((tuple(tensor.shape), tensor.dtype) for tensor in arguments)
            if key in traced:
                return _stand_in(graph, arguments)
            first = len(graph.get_operations())
            result = original(function)(*arguments)
            made = {operation.type for operation in graph.get_operations()[first:]}
            alike = isinstance(result, tf.Tensor) and (result.shape, result.dtype) == (
                arguments[0].shape,
                arguments[0].dtype,
            )
            if alike and not made & PRODUCTS:
                traced.add(key)
            return result

        return call

    keras.ops.custom_gradient = custom_gradient
    try:
        yield
    finally:
        keras.ops.custom_gradient = original


def _stand_in(graph: tf.Graph, arguments: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """A new image as large as the first argument, marked as the result of a function with a gradient of its own."""
    with graph.gradient_override_map({"IdentityN": "SeenBefore"}):
        return tf.raw_ops.IdentityN(input=[tf.negative(arguments[0]), *arguments])[0]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Tracing makes very many objects that stay: looking through them for garbage takes a sixth of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _shape(shape: Any) -> str:
    return "[" + ", ".join(map(str, tuple(shape))) + "]"
