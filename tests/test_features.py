"""The Inception network's files, identity and input; resize filters; PyTorch files; features by place."""

import collections
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from golden_inception import random_tensor
from tensorflow.core.protobuf import saved_model_pb2

from harness.cache import Cache
from harness.features.inception import Inception
from harness.features.inception_names import convolutions, names
from harness.features.inception_network import build_network, load, shapes
from harness.features.inception_weights import FROZEN_GRAPH, SAVED_MODEL, TORCH_FILE, read_weights
from harness.features.network import Extractor, extract, extract_cached
from harness.features.resizing import CleanBicubic, QuantisedBicubic, QuantisedLanczos, Resizing, TF1Bilinear
from harness.images import ArrayImages, RealImages
from zoo import registry
from zoo.console import UserError
from zoo.convert.torch_file import read_state_dict, read_torch_file

# ---- PyTorch files, written here instruction by instruction: PyTorch is not a dependency


class Reference:
    """What stands in a pickle for a storage: (kind, key, count)."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.content = (kind, key, count)


class Call:
    """What stands in a pickle for a call of module.name."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments


def tensor(kind: str, key: str, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    storage = Reference(kind, key, count)
    hooks = collections.OrderedDict[str, None]()
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, hooks)


def dump(value: Any, legacy: bool = False) -> bytes:
    """A pickle of protocol 2 as `torch.save` writes it; global names are text, so nothing needs to be importable."""
    return pickle.PROTO + b"\x02" + _instructions(value, legacy) + pickle.STOP


def _instructions(value: Any, legacy: bool) -> bytes:
    def each(*values: Any) -> bytes:
        return b"".join(_instructions(one, legacy) for one in values)

    if isinstance(value, Call):
        return _global(value.module, value.name) + b"(" + each(*value.arguments) + b"tR"
    if isinstance(value, Reference):
        kind, key, count = value.content
        return b"(" + each("storage") + _global("torch", kind) + each(key, "cpu", count, *[None] * legacy) + b"tQ"
    if isinstance(value, collections.OrderedDict):
        return (
            _global("collections", "OrderedDict") + b")R(" + each(*[x for item in value.items() for x in item]) + b"u"
        )
    if isinstance(value, dict):
        return b"}(" + each(*[x for item in value.items() for x in item]) + b"u"
    if isinstance(value, tuple):
        return b"(" + each(*value) + b"t"
    if isinstance(value, list):
        return b"](" + each(*value) + b"e"
    return pickle.dumps(value, protocol=2)[2:-1]


def _global(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def write_zip(path: Path, value: Any, storages: dict[str, bytes], **extra: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", dump(value))
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
        for name, content in extra.items():
            archive.writestr(f"model/{name.replace('_pkl', '.pkl')}", content)
    return path


def write_legacy(path: Path, value: Any, storages: dict[str, bytes], sizes: dict[str, int]) -> Path:
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    parts += [dump(value, legacy=True), pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", len(content) // sizes[key]) + content for key, content in storages.items()]
    path.write_bytes(b"".join(parts))
    return path


NUMBERS = np.arange(12, dtype="<f4")
SMALL = np.array([1.5, -2, 3e38], ml_dtypes.bfloat16)
HALVES = np.array([0.5, -1, 65504], "<f2")
STATE = collections.OrderedDict(
    whole=tensor("FloatStorage", "0", 12, 0, (3, 4), (4, 1)),
    transposed=tensor("FloatStorage", "0", 12, 0, (4, 3), (1, 4)),
    part=tensor("FloatStorage", "0", 12, 5, (2, 2), (4, 2)),
    repeated=tensor("FloatStorage", "0", 12, 3, (5, 2), (0, 1)),
    brain=Call("torch._utils", "_rebuild_parameter", tensor("BFloat16Storage", "1", 3, 0, (3,), (1,)), True, {}),
    half=tensor("HalfStorage", "2", 3, 0, (3,), (1,)),
    steps=tensor("LongStorage", "3", 1, 0, (), ()),
    none=tensor("FloatStorage", "0", 12, 0, (0, 4), (4, 1)),
)
STORAGES = {
    "0": NUMBERS.tobytes(),
    "1": SMALL.tobytes(),
    "2": HALVES.tobytes(),
    "3": np.array([2**40], "<i8").tobytes(),
}
SIZES = {"0": 4, "1": 2, "2": 2, "3": 8}


@pytest.fixture(params=["zip", "legacy"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    path = tmp_path / "weights.pth"
    if request.param == "zip":
        return lambda value: write_zip(path, value, STORAGES, version=b"3\n", byteorder=b"little")
    return lambda value: write_legacy(path, value, STORAGES, SIZES)


def test_tensors_of_a_torch_file_are_arrays(write):
    found = read_state_dict(write(STATE))
    whole = NUMBERS.reshape(3, 4)
    expected = {
        "whole": whole,
        "transposed": whole.T,
        "part": np.array([[5, 7], [9, 11]], "f4"),
        "repeated": np.array([[3, 4]] * 5, "f4"),
        "brain": SMALL,
        "half": HALVES,
        "steps": np.array(2**40),
        "none": np.zeros((0, 4), "f4"),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert not found[name].flags.writeable, name
    assert np.shares_memory(found["whole"], found["part"])


def test_nested_content_of_a_torch_file(write):
    content = {"model": STATE, "step": 7, "shape": Call("torch", "Size", (3, 4)), "history": [0.5, None], "name": "ä"}
    path = write(content)
    found = read_torch_file(path)
    np.testing.assert_array_equal(found["model"]["part"], [[5, 7], [9, 11]])
    assert (found["step"], found["shape"], found["history"], found["name"]) == (7, (3, 4), [0.5, None], "ä")
    with pytest.raises(UserError, match="other things than tensors by name: model, step, shape"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("functools", "partial"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch", "load"),
        ("numpy.core.multiarray", "scalar"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ],
)
def test_a_torch_file_cannot_run_code(write, tmp_path, module, name):
    trace = tmp_path / "ran"
    with pytest.raises(UserError) as raised:
        read_torch_file(write({"weight": Call(module, name, f"touch {trace}")}))
    assert f"asks for {module}.{name}" in str(raised.value)
    assert not trace.exists()


def test_a_torch_file_cannot_alter_the_reader(tmp_path):
    """The BUILD instruction sets attributes of whatever stands before it, functions of the reader included."""
    rebuild = _global("torch._utils", "_rebuild_tensor_v2")
    for state in (
        b"}(" + _instructions("x", False) + b"K\x01u",
        b"N}(" + _instructions("__call__", False) + b"K\x01u\x86",
    ):
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", b"\x80\x02" + rebuild + state + b"b.")
        with pytest.raises(UserError, match=r"no whole file of torch.save"):
            read_torch_file(path)


@pytest.mark.parametrize(
    "wrong",
    [
        tensor("FloatStorage", "0", 12, 9, (2, 2), (2, 1)),
        tensor("FloatStorage", "0", 12, -1, (2,), (1,)),
        tensor("FloatStorage", "0", 12, 0, (2,), (-1,)),
        tensor("FloatStorage", "0", 12, 0, (2, 2), (1,)),
        tensor("FloatStorage", "no", 12, 0, (2,), (1,)),
        tensor("DoubleStorage", "1", 12, 0, (2,), (1,)),
    ],
)
def test_tensors_never_reach_beyond_their_storage(write, wrong):
    with pytest.raises(UserError, match=r"no whole file of torch.save"):
        read_torch_file(write({"weight": wrong}))


def test_cut_and_altered_torch_files_are_one_message(write, tmp_path):
    content = write(STATE).read_bytes()
    broken = tmp_path / "broken.pth"
    for length in (*range(0, len(content) - 1, 37), len(content) - 1):
        broken.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"broken\.pth"):
            read_torch_file(broken)
    place = content.index(NUMBERS.tobytes()) + 5
    broken.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    if content.startswith(b"PK"):  # the older layout has no checksums
        with pytest.raises(UserError, match="bad checksum"):
            read_torch_file(broken)


def test_other_files_are_not_torch_files(tmp_path):
    for name, content, message in (
        ("text.pth", b"<html>not found</html>", "no whole file of torch.save"),
        ("empty.pth", b"", "no whole file of torch.save"),
        ("pickle.pth", pickle.dumps({"a": 1}), "no whole file of torch.save"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_torch_file(tmp_path / name)
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"not one of torch.save"):
        read_torch_file(tmp_path / "arrays.npz")
    program = write_zip(tmp_path / "program.pt", {}, {}, constants_pkl=dump(()))
    with pytest.raises(UserError, match="TorchScript program"):
        read_torch_file(program)
    foreign = write_zip(tmp_path / "foreign.pt", {}, {}, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(foreign)
    with pytest.raises(UserError, match="cannot be read"):
        read_torch_file(tmp_path / "nothing.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_pytorch_itself_writes(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its files are imitated in the other tests")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "view": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base.t()),
        "brain": base.bfloat16(),
        "nested": {"count": torch.tensor(3), "flags": torch.tensor([True, False])},
    }
    torch.save(state, tmp_path / "real.pt", _use_new_zipfile_serialization=zipped)
    found = read_torch_file(tmp_path / "real.pt")
    np.testing.assert_array_equal(found["view"], base.numpy()[1:3, ::2])
    np.testing.assert_array_equal(found["parameter"], base.numpy().T)
    np.testing.assert_array_equal(found["brain"].astype("f4"), base.numpy())
    assert found["nested"]["count"] == 3
    np.testing.assert_array_equal(found["nested"]["flags"], [True, False])


# ---- Inception: one set of random weights in every form of file


@pytest.fixture(scope="module")
def empty_network() -> keras.Model:
    return build_network()


@pytest.fixture(scope="module")
def needed(empty_network: keras.Model) -> dict[str, tuple[int, ...]]:
    return shapes(empty_network)


@pytest.fixture(scope="module")
def tensors(needed: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensor of the graph -> array, by the rule of the golden weights."""
    found = {}
    for name in names():
        shape = [needed[name.graph][name.axes.index(axis)] for axis in range(len(name.axes))]
        found[name.graph] = random_tensor(name.torch, shape).transpose(name.axes)
    return found


def graph_of(tensors: dict[str, np.ndarray], prefix: str = "") -> tf.compat.v1.GraphDef:
    graph = tf.compat.v1.GraphDef()
    for name, value in tensors.items():
        node = graph.node.add(op="Const", name=prefix + name)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    for name, _ in convolutions():
        node = graph.node.add(op="BatchNormWithGlobalNormalization", name=f"{prefix}{name}/batchnorm")
        node.attr["variance_epsilon"].f = 0.001
        node.attr["scale_after_normalization"].b = True
    return graph


@pytest.fixture(scope="module")
def frozen_graph(tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "classify_image_graph_def.pb"
    path.write_bytes(graph_of(tensors).SerializeToString())
    return path


def torch_state(tensors: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, bytes], dict[str, int]]:
    """A state dict as in the published PyTorch copies, counters of batches included."""
    state: dict[str, Any] = collections.OrderedDict()
    storages: dict[str, bytes] = {}
    for number, name in enumerate(names()):
        inverse = tuple(name.axes.index(axis) for axis in range(len(name.axes)))
        value = np.ascontiguousarray(tensors[name.graph].transpose(inverse))
        strides = tuple(stride // 4 for stride in value.strides)
        state[name.torch] = tensor("FloatStorage", str(number), value.size, 0, value.shape, strides)
        storages[str(number)] = value.tobytes()
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = tensor("LongStorage", "counter", 1, 0, (), ())
    storages["counter"] = bytes(8)
    return state, storages, collections.defaultdict(lambda: 4, counter=8)


def saved_model_of(tensors: dict[str, np.ndarray], folder: Path) -> Path:
    """The constants in a function of a SavedModel, under the name that an exporting program gave them."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    function = model.meta_graphs.add().graph_def.library.function.add()
    function.signature.name = "classify"
    function.node_def.extend(graph_of(tensors, "RunClassifier/").node)
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


class Weights(tf.Module):
    """The tensors as variables."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.held = [tf.Variable(value, name=name) for name, value in tensors.items()]


def test_every_form_of_the_weights_is_the_same_network(tensors, needed, frozen_graph, tmp_path):
    state, storages, sizes = torch_state(tensors)
    archive = tmp_path / "inception-2015-12-05.tgz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as packed:
        packed.add(frozen_graph, "classify_image_graph_def.pb")
        packed.addfile(tarfile.TarInfo("LICENSE"), io.BytesIO())
    files = {
        frozen_graph: FROZEN_GRAPH,
        archive: FROZEN_GRAPH,
        write_zip(tmp_path / "new.pth", state, storages): TORCH_FILE,
        write_legacy(tmp_path / "old.pth", state, storages, sizes): TORCH_FILE,
        saved_model_of(tensors, tmp_path / "saved"): SAVED_MODEL,
    }
    hashes = set()
    for path, form in files.items():
        weights = read_weights(path, needed)
        assert weights.form == form
        hashes.add(weights.hash)
        for name, value in tensors.items():
            np.testing.assert_array_equal(weights.tensors[name], value, err_msg=f"{path}: {name}")
    assert len(hashes) == 1
    changed = dict(tensors) | {"softmax/biases": tensors["softmax/biases"] + 1}
    (tmp_path / "changed.pb").write_bytes(graph_of(changed).SerializeToString())
    assert read_weights(tmp_path / "changed.pb", needed).hash not in hashes


def test_the_variables_of_a_saved_model(tensors, needed, tmp_path):
    """Named as a TensorFlow 1 export names them."""
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(
        saved_model_pb2.SavedModel(saved_model_schema_version=1).SerializeToString()
    )
    prefix = str(folder / "variables" / "variables")
    named = {f"module/{name}": value for name, value in tensors.items()}
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(named), shape_and_slices=[""] * len(named), tensors=list(named.values())
    )
    found = read_weights(folder, needed)
    np.testing.assert_array_equal(found.tensors["mixed_10/conv/conv2d_params"], tensors["mixed_10/conv/conv2d_params"])


def test_a_graph_says_whether_it_scales(tensors, needed, tmp_path):
    graph = graph_of(tensors)
    node = next(node for node in graph.node if node.name == "mixed_6/conv/batchnorm")
    node.attr["scale_after_normalization"].b = False
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    found = read_weights(path, needed).tensors
    assert (found["mixed_6/conv/batchnorm/gamma"] == 1).all()
    np.testing.assert_array_equal(found["mixed_7/conv/batchnorm/gamma"], tensors["mixed_7/conv/batchnorm/gamma"])
    node.attr["variance_epsilon"].f = 1e-5
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match=r"mixed_6/conv/batchnorm has epsilon 1e-05, and the network of FID has 0.001"):
        read_weights(path, needed)


def test_files_that_do_not_fit_name_what_is_wrong(tensors, needed, frozen_graph, tmp_path):
    path = tmp_path / "weights"
    fewer = {name: value for name, value in tensors.items() if not name.startswith("mixed_9/tower_2")}
    path.write_bytes(graph_of(fewer).SerializeToString())
    with pytest.raises(UserError, match=r"mixed_9/tower_2/conv/conv2d_params is missing; .*gamma is missing"):
        read_weights(path, needed)
    state, storages, _ = torch_state(tensors)
    state["fc.weight"] = tensor("FloatStorage", "0", 864, 0, (3, 288), (288, 1))  # as of 1,000 classes, but smaller
    write_zip(path, state, storages)
    with pytest.raises(UserError, match=r"fc.weight is \(3, 288\), not \(1008, 2048\)\. Later Inception-v3"):
        read_weights(path, needed)
    write_zip(path, {"conv1.weight": state["fc.weight"]}, storages)
    with pytest.raises(UserError, match=r"Conv2d_1a_3x3.conv.weight is missing; .*and 464 more"):
        read_weights(path, needed)


def test_files_that_are_no_weights(needed, frozen_graph, tmp_path):
    content = frozen_graph.read_bytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    packed = tmp_path / "cut.tgz"
    packed.write_bytes(b"\x1f\x8b\x08" + bytes(50))
    (tmp_path / "text").write_text("<html>404</html>")
    (tmp_path / "empty").touch()
    (tmp_path / "cut.pb").write_bytes(content[: len(content) // 2])
    for name, message in (
        ("text", "none of the weights files"),
        ("empty", "without a graph"),
        ("cut.pb", "none of the weights files|is missing"),
        ("folder", "is not a SavedModel"),
        ("empty.tgz", "has 0 .pb files"),
        ("cut.tgz", "not a whole .tar.gz"),
        ("nothing", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / name, needed)


@pytest.fixture(scope="module")
def inception(frozen_graph: Path) -> Iterator[Extractor]:
    yield Inception(str(frozen_graph)).extractor(batch=4)


def pictures(count: int, size: int = 20, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def test_the_extractor_is_the_network_behind_the_resize(inception, tensors, empty_network):
    images = pictures(3)
    found = inception(images)
    load(empty_network, tensors)
    expected = empty_network(TF1Bilinear()(images, (299, 299)), training=False)
    assert {name: array.shape for name, array in found.items()} == {
        "pooled": (3, 2048),
        "logits": (3, 1008),
        "spatial": (3, 2023),
    }
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], atol=1e-4)
    assert set(found) == Inception.gives


def test_grey_images_are_repeated(inception):
    grey = pictures(2, channels=1)
    np.testing.assert_array_equal(inception(grey)["pooled"], inception(np.repeat(grey, 3, axis=-1))["pooled"])
    assert "repeated" in inception.facts["input"]


def test_the_resize_belongs_to_the_identity(inception, frozen_graph):
    clean = Inception(str(frozen_graph), CleanBicubic()).extractor(batch=4)
    assert clean.identity != inception.identity
    assert clean.facts["weights"] == inception.facts["weights"]
    assert (inception.facts["resize"], clean.facts["resize"]) == ("TF1 bilinear", "clean-fid bicubic")
    images = pictures(2)
    moved = np.abs(clean(images)["pooled"] - inception(images)["pooled"]).max()
    assert moved > 0.01
    for facts in (inception.facts, clean.facts):
        assert {"title", "identity", "dimensions", "input", "resize", "weights"} <= set(facts)


def test_inception_without_weights_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_ASSETS", str(tmp_path))
    images = ArrayImages(pictures(12))
    real = RealImages(images, images, images)
    with pytest.raises(UserError, match="--fetch inception-2015-graph"):
        Inception().check(real)
    with pytest.raises(UserError, match=r"not at /nowhere/weights.pth"):
        Inception("/nowhere/weights.pth").check(real)
    (tmp_path / "classify_image_graph_def.pb").touch()
    Inception().check(real)
    odd = ArrayImages(pictures(12, channels=2), name="two channels")
    with pytest.raises(UserError, match="two channels has 2"):
        Inception().check(RealImages(odd, odd, odd))


def test_no_digits_are_left_out_on_gpus(inception, monkeypatch):
    """TensorFloat-32 is off while the network runs, and as it was afterwards."""
    seen = []
    forward = inception._forward._forward

    def watched(*arguments):
        seen.append(tf.config.experimental.tensor_float_32_execution_enabled())
        return forward(*arguments)

    monkeypatch.setattr(inception._forward, "_forward", watched)
    inception(pictures(1))
    assert seen == [False]
    assert tf.config.experimental.tensor_float_32_execution_enabled()


# ---- resize filters


@pytest.fixture(params=[entry for entry in registry.load().components.values() if entry.family == "resize filters"])
def resizing(request: pytest.FixtureRequest) -> Resizing:
    return request.param.load()()


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_filters_keep_their_contract(resizing, channels):
    images = pictures(2, size=24, channels=channels)
    resized = resizing(images, (40, 30))
    assert resized.shape == (2, 40, 30, channels)
    assert resized.dtype == np.float32
    assert resized.min() >= 0
    assert resized.max() <= 255
    np.testing.assert_array_equal(resizing(images, (24, 24)), images)
    flat = np.full_like(images, 77)
    np.testing.assert_allclose(resizing(flat, (30, 40)), 77, atol=1e-4)
    assert resizing.name


def test_names_of_resize_filters_differ():
    filters = [TF1Bilinear(), CleanBicubic(), QuantisedBicubic(), QuantisedLanczos()]
    assert len({each.name for each in filters}) == len(filters)


def test_tf1_bilinear_by_hand():
    """Source coordinate = index * in / out: from 2 to 4 pixels at 0, 0.5, 1 and 1.5, the last held at the border."""
    images = np.array([[0, 100], [40, 60]], np.uint8).reshape(1, 2, 2, 1)
    found = TF1Bilinear()(images, (2, 4))[0, ..., 0]
    np.testing.assert_array_equal(found, [[0, 50, 100, 100], [40, 50, 60, 60]])


# ---- extraction


class Places(Extractor):
    """An extractor with features by place that are known."""

    title, identity, facts = "places", "1", {}
    batch, at_once = 4, 8

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pooled = images.mean(axis=(1, 2), dtype=np.float32)
        return {"pooled": pooled, "logits": pooled, "spatial": images[:, 0, :, 0].astype(np.float32)}


def test_spatial_moments_come_from_the_same_pass(tmp_path):
    images = ArrayImages(pictures(21, size=6))
    found = extract(images, Places(), frozenset({"spatial"}), "")
    rows = images.images[:, 0, :, 0].astype(float)
    assert found.pooled is None
    assert found.spatial is not None
    np.testing.assert_allclose(found.spatial.covariance, np.cov(rows, rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(found.spatial.mean, rows.mean(axis=0), rtol=1e-12)
    for _ in range(2):
        cached = extract_cached(images, Places(), frozenset({"spatial", "pooled"}), "", Cache(tmp_path))
        np.testing.assert_array_equal(cached.spatial.scatter, found.spatial.scatter)
        assert cached.pooled.shape == (21, 3)
    assert extract_cached(images, Places(), frozenset(), "", Cache(tmp_path)).spatial is None


def test_spatial_features_that_are_not_numbers_are_named():
    class Broken(Places):
        def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return super().__call__(images) | {"spatial": np.full((len(images), 2), np.inf)}

    with pytest.raises(UserError, match="4 of 4 feature vectors have NaN"):
        extract(ArrayImages(pictures(9, size=6)), Broken(), frozenset({"spatial"}), "")
