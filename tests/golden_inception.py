"""The Inception network of FID against torch-fidelity's on random weights."""

import functools
import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from golden_arrays import Arrays, assert_near, channels_last

from harness.features.inception_names import names
from harness.features.inception_network import SIZE, build_network, load
from harness.features.resizing import TF1Bilinear

TOLERANCE = 1e-4
OUTPUTS = {  # of the network here -> in the file
    "64": "64",
    "192": "192",
    "768": "768",
    "pooled": "2048",
    "logits": "logits_unbiased",
    "biased_logits": "logits",
    "spatial": "spatial",
}


def random_tensor(name: str, shape: list[int]) -> np.ndarray:
    """A tensor of the random weights, float32: a function of its name and shape."""
    generator = np.random.default_rng([1234, zlib.crc32(name.encode("utf-8"))])
    if name.endswith("num_batches_tracked"):
        return np.array(0, np.int64)
    if name.endswith("bn.running_var"):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    z = generator.standard_normal(shape)
    if name.endswith("conv.weight"):
        z *= np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith("bn.weight"):
        z = 1 + 0.1 * z
    elif name == "fc.weight":
        z *= np.sqrt(4 / shape[1])
    else:
        z *= 0.1
    return z.astype(np.float32)


@functools.cache
def random_weights(folder: Path) -> dict[str, np.ndarray]:
    """torch-fidelity's tensor name -> array, kernels as [out, in, height, width]."""
    listed = json.loads((folder / "inception" / "weights.json").read_text())["tensors"]
    return {name: random_tensor(name, facts["shape"]) for name, facts in listed.items()}


@functools.cache
def loaded_network(folder: Path) -> keras.Model:
    """The network with the random weights."""
    weights = random_weights(folder)
    network = build_network()
    load(network, {name.graph: weights[name.torch].transpose(name.axes) for name in names()})
    return network


def check_weights(folder: Path) -> None:
    """That the weights are the ones the outputs were computed with, and that the network has a place for each."""
    listed = json.loads((folder / "inception" / "weights.json").read_text())
    weights = random_weights(folder)
    assert listed["num_tensors"] == len(weights)
    for name, facts in listed["tensors"].items():
        value = weights[name]
        if name.endswith("num_batches_tracked"):
            assert value.shape == tuple(facts["shape"])
            continue
        np.testing.assert_array_equal(value.ravel()[:3], np.array(facts["first3"], value.dtype), err_msg=name)
        assert abs(value.sum(dtype=np.float64) - facts["sum_float64"]) <= 1e-6, name
        content = value.astype(value.dtype.newbyteorder("<")).tobytes()
        assert hashlib.sha256(content).hexdigest().startswith(facts["sha256_first16"]), name
    used = {name.torch for name in names()}
    assert {name for name in weights if not name.endswith("num_batches_tracked")} == used


def check_outputs(folder: Path) -> None:
    """Every output, for images that are resized and for images of the network's own size."""
    arrays = Arrays(folder / "inception" / "inception.npz")
    network = loaded_network(folder)
    for size in ("small", "large"):
        images = TF1Bilinear()(channels_last(arrays[f"{size}/input"]), SIZE)
        found = network(images, training=False)
        for output, published in OUTPUTS.items():
            for name in arrays.names(f"{size}/{published}"):
                if name.removeprefix(f"{size}/") in (published, f"{published}_float64_evaluation"):
                    assert_near(found[output], arrays[name].astype(np.float64), TOLERANCE, name)
    arrays.close()


COVERS: set[str] = {"inception/inception.npz", "inception/weights.json"}

CHECKS: dict[str, Callable[[Path], None]] = {
    "inception/weights": check_weights,
    "inception/outputs": check_outputs,
}
