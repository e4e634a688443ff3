"""Networks against guided-diffusion's, with its weights loaded by name, in float64 and in float32; and their sizes."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import published_tensors
from golden_arrays import Arrays, Tolerances, assert_near, channels_last
from safetensors.numpy import load_file

from zoo import registry, symbolic
from zoo.convert import adm, adm_flags, state_dicts
from zoo.diffusion.guidance import class_gradient, log_probability
from zoo.networks.classifier import NoisyClassifier
from zoo.training.gradients import input_gradient

UNETS = ("unet_plain", "unet_cond_updown", "unet_halfmult_avgpool", "superres")
CLASSIFIERS = ("encoder_adaptive", "encoder_attention", "encoder_spatial", "encoder_spatial_v2")
NETWORKS = (*UNETS, *CLASSIFIERS)
SUGGESTED = {"unet": 6e-4, "superres": 6e-4, "encoder": 5e-5}
"""Absolute tolerances of float32 outputs, by the first word of a configuration's name."""


def check_network(golden: Path, name: str) -> None:
    """Every stored output of one configuration; and its weights come out again as they went in."""
    folder = golden / "adm"
    description = json.loads((folder / f"{name}.json").read_text())
    weights = load_file(folder / f"{name}.safetensors")
    assert len(weights) == description["num_tensors"]
    expected = published_tensors.tensors(description["class"].rsplit(".", 1)[-1], description["kwargs"])
    assert {tensor: value.shape for tensor, value in weights.items()} == expected  # the second derivation is right
    # The float64 network differs by rounding alone; enlarging is float32 in TensorFlow whatever it is given.
    sharp = 1e-5 if name == "superres" else 1e-10
    for dtype in ("float64", "float32"):
        arrays = Arrays(folder / f"{name}.npz")
        with Precision(dtype):
            network = adm.load(description, weights)
            assert network.count_params() == description["num_parameters"]
            outputs = run(network, arrays, dtype)
            if dtype == "float32":
                check_round_trip(description, network, weights)
        for what, actual in outputs.items():
            expected = arrays[f"{what}_float64"] if f"{what}_float64" in arrays else arrays[what].astype("float64")
            exact = dtype == "float64" and f"{what}_float64" in arrays
            largest = float(np.abs(expected).max())
            tolerance = sharp if exact else 5e-5 * largest + 1e-6
            if what == "out" and dtype == "float32":
                tolerance = Tolerances(golden)(f"adm/{name}/out")
            assert_near(actual, expected, tolerance, f"{name}/{what} in {dtype}")
        assert_near(outputs["out"], arrays["out"].astype("float64"), SUGGESTED[name.split("_")[0]], f"{name}/out")
        for stored in arrays.names():
            if stored.endswith("_float64") or stored in outputs:
                arrays[stored]
        arrays.close()


def check_round_trip(description: Mapping[str, Any], network: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Exported from a network, the weights are bit for bit those that it was given; and so is a network of them."""
    exported = adm.export(network)
    assert set(exported) == set(weights)
    for name, value in exported.items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)
    again = adm.load(description, exported)
    for variable, other in zip(again.variables, network.variables, strict=True):
        np.testing.assert_array_equal(variable, other, err_msg=variable.path)


def run(network: keras.Model, arrays: Arrays, dtype: str) -> dict[str, np.ndarray]:
    """The stored outputs, channels first."""
    inputs = {"image": channels_last(arrays["x"]).astype(dtype), "time": arrays["timesteps"].astype(dtype)}
    classifies = isinstance(network, NoisyClassifier)
    if "y" in arrays and not classifies:
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
    found = {
        "out": out if classifies else np.moveaxis(out, -1, 1),
        "middle_block": np.moveaxis(middle[0], -1, 1),
        "time_embed": np.asarray(embedding),
    }
    if classifies:
        label = arrays["y"].astype("int32")
        gradient = class_gradient(network, inputs, label, input_gradient)
        found["log_prob_y"] = np.asarray(log_probability(out, label))
        found["grad_logp_x"] = np.moveaxis(np.asarray(gradient), -1, 1)
    return found


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


# ------------------------------------------------------------------ sizes


# What is told with each model of param_counts.json -> the recipes that have its network, or such a stage of a recipe.
MODELS: dict[str, tuple[str, ...]] = {
    "openai/guided-diffusion: imagenet64_cond": ("adm_imagenet64",),
    "openai/guided-diffusion: imagenet128_cond": ("adm_imagenet128",),
    "openai/guided-diffusion: imagenet256_cond": ("adm_imagenet256",),
    "openai/guided-diffusion: imagenet256_uncond": ("adm_imagenet256_uncond",),
    "openai/guided-diffusion: imagenet512_cond": ("adm_imagenet512",),
    "openai/guided-diffusion: upsampler_64_256": ("adm_upsampler256",),
    "openai/guided-diffusion: upsampler_128_512": ("adm_upsampler512",),
    "openai/guided-diffusion: lsun_bedroom_cat_horse_256": ("adm_lsun_bedroom", "adm_lsun_cat", "adm_lsun_horse"),
    "openai/guided-diffusion: lsun_horse_nodropout_256": ("adm_lsun_horse_nodropout",),
    "openai/guided-diffusion: classifier64": ("adm_imagenet64_guided/classifier",),
    "openai/guided-diffusion: classifier128": ("adm_imagenet128_guided/classifier",),
    "openai/guided-diffusion: classifier256": ("adm_imagenet256_guided/classifier",),
    "openai/guided-diffusion: classifier512": ("adm_imagenet512_guided/classifier",),
    "openai/improved-diffusion: imagenet64_uncond": ("iddpm_imagenet64",),
    "openai/improved-diffusion: imagenet64_cond_270M": ("iddpm_imagenet64_cond",),
    "openai/improved-diffusion: imagenet64_uncond_vlb": ("iddpm_imagenet64_vlb",),
    "openai/improved-diffusion: cifar10_uncond": ("iddpm_cifar10",),
    "openai/improved-diffusion: cifar10_uncond_vlb": ("iddpm_cifar10_vlb",),
    "openai/improved-diffusion: upsample_64_256_cond": ("iddpm_upsampler256",),
    "openai/improved-diffusion: lsun_bedroom_256": ("iddpm_lsun_bedroom", "iddpm_lsun_bedroom_bs64"),
    "hojonathanho/diffusion: cifar10_32": ("ddpm_cifar10",),
    "hojonathanho/diffusion: lsun_celebahq_256": ("ddpm_lsun_bedroom",),
}


def check_size(golden: Path, name: str) -> None:
    """Numbers and tensors of a published model by its flags; and that the catalogue says of its recipes the same."""
    projects = json.loads((golden / "param_counts.json").read_text())
    assert set(MODELS) == {f"{project}: {model}" for project in projects for model in projects[project]["models"]}
    project, _, key = name.partition(": ")
    model = projects[project]["models"][key]
    for entry in MODELS[name]:
        recipe, _, stage = entry.partition("/")
        counted = registry.load().recipes[recipe].parameters
        assert (counted[stage] if stage else sum(counted.values())) == model["num_parameters"], entry
    if "resolved" in model:
        check_flags(name, model)


def check_flags(name: str, model: Mapping[str, Any]) -> None:
    """The flags as typed and as resolved describe one network, of the published sizes module by module."""
    sizes = {name: model["resolved"][name] for name in adm_flags.UPSAMPLER if name in model["resolved"]}
    typed = adm_flags.description(sizes | adm_flags.from_text(model["flags"]))  # one README leaves out the sizes
    assert typed == adm_flags.description(model["resolved"]), name
    kwargs = {key: value for key, value in typed["kwargs"].items() if key != "dropout"}
    tensors, numbers = tensors_here(json.dumps({**typed, "kwargs": kwargs}))
    assert tensors == published_tensors.tensors(typed["class"], typed["kwargs"]), name
    assert len(tensors) == model["num_tensors"], name
    assert numbers == model["by_top_level_module"], name
    assert sum(numbers.values()) == model["num_parameters"], name


@functools.cache
def tensors_here(description: str) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Published names and shapes of the variables of a network, and how many numbers each module has."""
    published = json.loads(description)
    network = adm.network(published)
    shapes = adm.input_shapes(published)
    symbolic.trace(
        network, {name: (shape, "int32" if name == "label" else "float32") for name, shape in shapes.items()}, 1
    )
    tensors = list(adm.tensors(network))
    assert len(network.variables) == len(tensors)
    return {tensor.name: tensor.shape for tensor in tensors}, state_dicts.numbers(tensors)


CHECKS: dict[str, Callable[[Path], None]] = {
    f"adm/{name}": lambda golden, name=name: check_network(golden, name) for name in NETWORKS
} | {f"param_counts/{name}": lambda golden, name=name: check_size(golden, name) for name in MODELS}
COVERS = {f"adm/{name}.{kind}" for name in NETWORKS for kind in ("npz", "json", "safetensors")} | {"param_counts.json"}
