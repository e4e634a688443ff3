"""Published ADM weights (openai/guided-diffusion) -> networks of this zoo, by tensor name."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from zoo.console import UserError
from zoo.networks.attention import AttentionBlock, HeadChannels, HeadCount, Heads, HeadsFirst, HeadsLast, SelfAttention
from zoo.networks.blocks import AdaptiveModulation, AdditiveModulation, ResidualBlock
from zoo.networks.embeddings import StepEmbedding
from zoo.networks.layers import GroupNorm, GroupNormalisation
from zoo.networks.resampling import (
    ConvolutionResampling,
    Enlargement,
    PoolingResampling,
    Resampling,
    ResidualResampling,
)
from zoo.networks.unet import BilinearEnlarging, LowResolutionInput, UNet


def network(description: Mapping[str, Any]) -> UNet:
    """The U-Net of a published model, unbuilt.

    Args:
        description: `class` ("...UNetModel" or "...SuperResModel") and `kwargs`, the arguments of that class.
    """
    kind = description["class"].rsplit(".", 1)[-1]
    if kind not in ("UNetModel", "SuperResModel"):
        raise UserError(f"class must be UNetModel or SuperResModel, got {description['class']}")
    flags = description["kwargs"]
    if flags.get("num_head_channels", -1) != -1:
        heads: Heads = HeadChannels(flags["num_head_channels"])
    else:
        upsample = flags.get("num_heads_upsample", -1)
        heads = HeadCount(flags.get("num_heads", 1), None if upsample == -1 else upsample)
    order = HeadsLast() if flags.get("use_new_attention_order") else HeadsFirst()
    resolutions = tuple(flags["image_size"] // factor for factor in flags["attention_resolutions"])
    if flags.get("resblock_updown"):
        resampling: Resampling = ResidualResampling()
    else:
        resampling = ConvolutionResampling() if flags.get("conv_resample", True) else PoolingResampling()
    return UNet(
        channels=flags["model_channels"],
        multipliers=tuple(flags.get("channel_mult", (1, 2, 4, 8))),
        blocks=flags["num_res_blocks"],
        out_channels=flags["out_channels"],
        time=StepEmbedding(),
        modulation=AdaptiveModulation() if flags.get("use_scale_shift_norm") else AdditiveModulation(),
        resampling=resampling,
        attention=SelfAttention(resolutions, heads, order),
        normalisation=GroupNormalisation(groups=32, epsilon=1e-5),
        low_resolution=LowResolutionInput(BilinearEnlarging()) if kind == "SuperResModel" else None,
        classes=flags.get("num_classes"),
        dropout=flags.get("dropout", 0.0),
    )


def input_shapes(description: Mapping[str, Any], batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with which the network of `description` is built."""
    size = description["kwargs"]["image_size"]
    shapes: dict[str, tuple[int, ...]] = {"image": (batch, size, size, 3), "time": (batch,)}
    if description["kwargs"].get("num_classes") is not None:
        shapes["label"] = (batch,)
    if description["class"].endswith("SuperResModel"):
        shapes["low_resolution"] = (batch, size // 4, size // 4, 3)
    return shapes


def load(description: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> UNet:
    """The network of a published model with its weights.

    Args:
        description: as for `network`.
        weights: the state dict: published tensor name -> array.

    Raises:
        UserError: naming every missing, unused or mis-shaped tensor.
    """
    unet = network(description)
    inputs = {name: np.zeros(shape, "float32") for name, shape in input_shapes(description).items()}
    if "label" in inputs:
        inputs["label"] = inputs["label"].astype("int32")
    unet(inputs)
    assign(unet, weights)
    return unet


class Tensor(NamedTuple):
    """A published tensor and the variable that holds it here."""

    name: str
    variable: keras.Variable
    linear: bool
    """A kernel, whose axes the two frameworks order differently."""


def assign(unet: UNet, weights: Mapping[str, np.ndarray]) -> None:
    """Puts published tensors into a built network; nothing is changed unless every tensor fits."""
    problems: list[str] = []
    values: list[tuple[keras.Variable, np.ndarray]] = []
    expected = list(tensors(unet))
    for name, variable, linear in expected:
        if name not in weights:
            problems.append(f"missing: {name} {tuple(variable.shape)}")
            continue
        value = np.asarray(weights[name])
        value = _kernel(value, len(variable.shape)) if linear else value
        if value.shape != tuple(variable.shape):
            problems.append(f"mis-shaped: {name} is {value.shape}, the network has {tuple(variable.shape)}")
        values.append((variable, value))
    names = {tensor.name for tensor in expected}
    problems += [f"unused: {name}" for name in weights if name not in names]
    if problems:
        raise UserError("the weights do not fit the description:\n  " + "\n  ".join(problems))
    for variable, value in values:
        variable.assign(value)


def _kernel(value: np.ndarray, rank: int) -> np.ndarray:
    """PyTorch's layout -> Keras': [out, in, h, w] -> [h, w, in, out]; [out, in, 1 ..] -> [in, out].

    A kernel of neither kind is returned as it is, for `assign` to name its shape.
    """
    if rank == 4 and value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if rank == 2 and all(size == 1 for size in value.shape[2:]):
        return value.reshape(value.shape[:2]).T  # 1x1 convolutions are dense layers here
    return value


def tensors(unet: UNet) -> Iterator[Tensor]:
    """The published name of every variable of a built network, in the published order."""
    yield from _linear("time_embed.0", unet.time_in)
    yield from _linear("time_embed.2", unet.time_out)
    if unet.classes is not None:
        yield Tensor("label_emb.weight", unet.label.embeddings, False)
    for part, groups in (("input_blocks", unet.down), ("middle_block", [unet.middle]), ("output_blocks", unet.up)):
        for i, layers in enumerate(groups):
            for j, layer in enumerate(layers):
                yield from _layer(f"{part}.{j}" if part == "middle_block" else f"{part}.{i}.{j}", layer)
    yield from _norm("out.0", unet.norm_out)
    yield from _linear("out.2", unet.convolution_out)


def _layer(prefix: str, layer: keras.layers.Layer) -> Iterator[Tensor]:
    if isinstance(layer, ResidualBlock):
        yield from _norm(f"{prefix}.in_layers.0", layer.norm_in)
        yield from _linear(f"{prefix}.in_layers.2", layer.convolution_in)
        yield from _linear(f"{prefix}.emb_layers.1", layer.projection)
        yield from _norm(f"{prefix}.out_layers.0", layer.norm_out)
        yield from _linear(f"{prefix}.out_layers.3", layer.convolution_out)
        if layer.shortcut is not None:
            yield from _linear(f"{prefix}.skip_connection", layer.shortcut)
    elif isinstance(layer, AttentionBlock):
        yield from _norm(f"{prefix}.norm", layer.norm)
        yield from _linear(f"{prefix}.qkv", layer.projection_in)
        yield from _linear(f"{prefix}.proj_out", layer.projection_out)
    elif isinstance(layer, Enlargement):
        if layer.convolution is not None:
            yield from _linear(f"{prefix}.conv", layer.convolution)
    elif layer.variables:  # the first convolution, or a strided one between two levels
        yield from _linear(prefix if prefix == "input_blocks.0.0" else f"{prefix}.op", layer)


def _linear(prefix: str, layer: keras.layers.Layer) -> Iterator[Tensor]:
    yield Tensor(f"{prefix}.weight", layer.kernel, True)
    yield Tensor(f"{prefix}.bias", layer.bias, False)


def _norm(prefix: str, layer: GroupNorm) -> Iterator[Tensor]:
    yield Tensor(f"{prefix}.weight", layer.gamma, False)
    yield Tensor(f"{prefix}.bias", layer.beta, False)
