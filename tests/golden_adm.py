"""U-Nets against guided-diffusion's, with its weights loaded by name, in float64 and in float32."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from golden_arrays import Arrays, Tolerances, assert_near, channels_last
from safetensors.numpy import load_file

from zoo.convert import adm

NETWORKS = ("unet_plain", "unet_cond_updown", "unet_halfmult_avgpool", "superres")


def check_network(golden: Path, name: str) -> None:
    """Output, time embedding and middle block of one configuration."""
    folder = golden / "adm"
    description = json.loads((folder / f"{name}.json").read_text())
    weights = load_file(folder / f"{name}.safetensors")
    assert len(weights) == description["num_tensors"]
    # The float64 network differs by rounding alone; enlarging is float32 in TensorFlow whatever it is given.
    sharp = 1e-5 if name == "superres" else 1e-10
    for dtype in ("float64", "float32"):
        arrays = Arrays(folder / f"{name}.npz")
        with Precision(dtype):
            network = adm.load(description, weights)
            assert network.count_params() == description["num_parameters"]
            outputs = run(network, arrays, dtype)
        for what, actual in outputs.items():
            expected = arrays[f"{what}_float64"] if f"{what}_float64" in arrays else arrays[what].astype("float64")
            exact = dtype == "float64" and f"{what}_float64" in arrays
            largest = float(np.abs(expected).max())
            tolerance = sharp if exact else 5e-5 * largest + 1e-6
            if what == "out" and dtype == "float32":
                tolerance = Tolerances(golden)(f"adm/{name}/out")
            assert_near(actual, expected, tolerance, f"{name}/{what} in {dtype}")
        assert_near(outputs["out"], arrays["out"].astype("float64"), 6e-4, f"{name}/out")
        for stored in arrays.names():
            if stored.endswith("_float64") or stored in outputs:
                arrays[stored]
        arrays.close()


def run(network: keras.Model, arrays: Arrays, dtype: str) -> dict[str, np.ndarray]:
    """The stored outputs, channels first."""
    inputs = {"image": channels_last(arrays["x"]).astype(dtype), "time": arrays["timesteps"].astype(dtype)}
    if "y" in arrays:
        inputs["label"] = arrays["y"].astype("int32")
    if "low_res" in arrays:
        inputs["low_resolution"] = channels_last(arrays["low_res"]).astype(dtype)
    middle: list[np.ndarray] = []
    last = network.middle[-1]
    call = last.call

    def spy(*given: object, **named: object) -> object:
        result = call(*given, **named)
        middle.append(np.asarray(result))
        return result

    last.call = spy
    try:
        out = np.asarray(network(inputs))
    finally:
        last.call = call
    embedding = network.embed(inputs)
    if "label" in inputs:
        embedding = embedding - network.label(inputs["label"])
    return {
        "out": np.moveaxis(out, -1, 1),
        "middle_block": np.moveaxis(middle[0], -1, 1),
        "time_embed": np.asarray(embedding),
    }


class Precision:
    """A context in which layers are made and run in one dtype."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        keras.config.set_floatx(self.dtype)
        keras.config.set_dtype_policy(self.dtype)

    def __exit__(self, *_: object) -> None:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


CHECKS: dict[str, Callable[[Path], None]] = {
    f"adm/{name}": lambda golden, name=name: check_network(golden, name) for name in NETWORKS
}
COVERS = {f"adm/{name}.{kind}" for name in NETWORKS for kind in ("npz", "json", "safetensors")}
