"""Weights of the Inception network from the files that people have, recognised by what is in them.

- the frozen graph of 2015, `classify_image_graph_def.pb`, also inside `inception-2015-12-05.tgz`: the original;
- a PyTorch copy of it, as torch-fidelity and pytorch-fid publish it (`...inception-2015-12-05-6726825d.pth`);
- a SavedModel folder (or an archive of one) that keeps the names of the graph, in constants or in variables.

The names follow public conversion programs (torch-fidelity's, and others that agree with it). The reading was tried on
files of these forms made from known weights; the published files themselves were at hand to nobody who wrote this. A
file with other names or shapes is refused, never guessed at.
"""

import functools
import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from harness.features.inception_names import Name, convolutions, names
from harness.features.inception_network import EPSILON
from zoo.console import UserError
from zoo.convert.torch_file import read_state_dict

FROZEN_GRAPH, TORCH_FILE, SAVED_MODEL = "frozen graph", "PyTorch file", "SavedModel"
NORMALISATION_OPERATION = "BatchNormWithGlobalNormalization"  # of the 2015 graph; says its own epsilon
VARIABLE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
SHOWN = 8  # tensors named in a message

Reader = Callable[[], np.ndarray]


class Weights(NamedTuple):
    """Tensors by their names in the graph of 2015, float32; the form of their file; and their hash."""

    tensors: dict[str, np.ndarray]
    form: str
    hash: str


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """The weights of the Inception network in a file of any of the forms above.

    The hash is of the numbers, not of the file: the same weights have one hash in every form.

    Args:
        path: the file, or the folder of a SavedModel.
        shapes: what the network needs, by the names of the graph.

    Raises:
        UserError: nothing of a known form, or tensors are missing or of other shapes; the message names them.
    """
    form, found, named = _open(path)
    problems: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    content = hashlib.sha256()
    for name in names():
        known = name.torch if form == TORCH_FILE else name.graph
        if known not in found:
            problems.append(f"{known} is missing")
            continue
        value = np.asarray(found[known]())
        if form == TORCH_FILE and value.ndim == len(name.axes):
            value = value.transpose(name.axes)
        if value.shape != shapes[name.graph]:
            problems.append(
                f"{known} is {_shape(value.shape, name, form)}, not {_shape(shapes[name.graph], name, form)}"
            )
            continue
        tensors[name.graph] = np.ascontiguousarray(value, np.float32)
        content.update(name.graph.encode() + tensors[name.graph].tobytes())
    if problems:
        listed = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise UserError(
            f"{path} ({named}) is not the Inception network of FID: {listed}. Later Inception-v3 networks (1,000 or "
            "1,001 classes) give other numbers and do not fit; python -m harness.assets lists the files that do"
        )
    return Weights(tensors, form, content.hexdigest()[:20])


def _shape(shape: tuple[int, ...], name: Name, form: str) -> tuple[int, ...]:
    """A shape in the order of axes that the file has."""
    if form != TORCH_FILE or len(shape) != len(name.axes):
        return shape
    return tuple(shape[name.axes.index(axis)] for axis in range(len(shape)))


def _open(path: Path) -> tuple[str, Mapping[str, Reader], str]:
    """The form of a file, its tensors by name, and how messages call it."""
    if path.is_dir():
        return SAVED_MODEL, _saved_model(path), f"a {SAVED_MODEL}"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if start[:2] == b"\x1f\x8b":
        return _from_archive(path)
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        state = read_state_dict(path)
        return (
            TORCH_FILE,
            {name: functools.partial(np.asarray, value) for name, value in state.items()},
            f"a {TORCH_FILE}",
        )
    return FROZEN_GRAPH, _frozen_graph(path, path.read_bytes()), f"a {FROZEN_GRAPH}"


def _from_archive(path: Path) -> tuple[str, Mapping[str, Reader], str]:
    """The frozen graph in a .tar.gz file, the only .pb file there."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            graphs = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(".pb")]
            if len(graphs) != 1:
                raise UserError(f"{path} has {len(graphs)} .pb files, and one is needed: unpack it and name the file")
            if graphs[0].name.endswith("saved_model.pb"):
                raise UserError(f"{path} is the archive of a SavedModel: unpack it into a folder and name the folder")
            opened = archive.extractfile(graphs[0])
            content = opened.read() if opened else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole .tar.gz file ({error}): fetch it again") from error
    return FROZEN_GRAPH, _frozen_graph(path, content), f"a {FROZEN_GRAPH} in an archive"


def _frozen_graph(path: Path, content: bytes) -> dict[str, Reader]:
    """The constants of a GraphDef.

    Raises:
        UserError: no graph, cut short, or one whose normalisation is not that of 2015.
    """
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(content)
    except DecodeError as error:
        raise UserError(
            f"{path} is none of the weights files that are known here: a whole TensorFlow graph (.pb), a PyTorch file "
            "(.pth), the folder of a SavedModel"
        ) from error
    if not graph.node:
        raise UserError(f"{path} is a TensorFlow file without a graph of operations; a frozen graph is needed")
    return _constants(path, graph.node)


def _constants(path: Path, nodes: Iterable[tf.compat.v1.NodeDef]) -> dict[str, Reader]:
    """The constants among the operations of a graph, each read when asked for."""
    found: dict[str, Reader] = {}
    unscaled = set()
    for node in nodes:
        if node.op == "Const":
            found[node.name] = functools.partial(tf.make_ndarray, node.attr["value"].tensor)
        elif node.op == NORMALISATION_OPERATION:
            epsilon = node.attr["variance_epsilon"].f
            if abs(epsilon - EPSILON) > 1e-6 * EPSILON:
                raise UserError(f"{path}: {node.name} has epsilon {epsilon:g}, and the network of FID has {EPSILON:g}")
            if not node.attr["scale_after_normalization"].b:
                unscaled.add(node.name)
    for name in unscaled & {f"{graph}/batchnorm" for graph, _ in convolutions()}:
        if f"{name}/gamma" in found:  # there, but the operation leaves it out
            found[f"{name}/gamma"] = functools.partial(_ones_like, found[f"{name}/gamma"])
    return found


def _ones_like(read: Reader) -> np.ndarray:
    return np.ones_like(read())


def _saved_model(folder: Path) -> dict[str, Reader]:
    """The constants of all graphs and functions of a SavedModel, and its variables, by the names of the graph of 2015.

    Names may have a common beginning, which an exporting program has put before them.
    """
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(file.read_bytes())
    except OSError as error:
        raise UserError(f"{folder} is not a SavedModel: {file} cannot be read ({error.strerror})") from error
    except DecodeError as error:
        raise UserError(f"{file} is not a whole SavedModel: fetch it again") from error
    found: dict[str, Reader] = {}
    for part in model.meta_graphs:
        found |= _constants(file, part.graph_def.node)
        for function in part.graph_def.library.function:
            found |= _constants(file, function.node_def)
    found |= _variables(folder)
    return _without_prefix(found)


def _variables(folder: Path) -> dict[str, Reader]:
    if not (folder / "variables" / "variables.index").is_file():
        return {}
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    return {  # TensorFlow 2 writes the slashes of a name as .S
        name.removesuffix(VARIABLE_SUFFIX).replace(".S", "/"): functools.partial(checkpoint.get_tensor, name)
        for name in checkpoint.get_variable_to_shape_map()
    }


def _without_prefix(found: dict[str, Reader]) -> dict[str, Reader]:
    """The tensors of the beginning under which the most of them are found."""
    wanted = [name.graph for name in names()]

    def matches(prefix: str) -> int:
        return sum(prefix + name in found for name in wanted)

    best = max(_prefixes(found, wanted[-1]), key=matches, default="")
    return {name: found[best + name] for name in wanted if best + name in found}


def _prefixes(found: Mapping[str, Reader], ending: str) -> Iterator[str]:
    """What stands before a tensor's name; the name itself is that of one tensor only."""
    for name in sorted(found):
        if name == ending or name.endswith("/" + ending):
            yield name.removesuffix(ending)
