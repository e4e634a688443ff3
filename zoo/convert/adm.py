"""Networks of openai/guided-diffusion and openai/improved-diffusion here, with their weights by name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.console import UserError
from zoo.convert import adm_flags, state_dicts
from zoo.convert.state_dicts import StateDict, Tensor
from zoo.convert.weight_files import read_weights
from zoo.networks.attention import AttentionBlock, HeadChannels, HeadCount, Heads, HeadsFirst, HeadsLast, SelfAttention
from zoo.networks.blocks import AdaptiveModulation, AdditiveModulation, ResidualBlock
from zoo.networks.classifier import NoisyClassifier
from zoo.networks.embeddings import StepEmbedding
from zoo.networks.encoder import Encoder
from zoo.networks.layers import GroupNorm, GroupNormalisation
from zoo.networks.pooling import (
    AdaptivePooling,
    AttentionPooling,
    NormalisedSpatialPooling,
    Pooling,
    SpatialPooling,
)
from zoo.networks.resampling import (
    ConvolutionResampling,
    Enlargement,
    PoolingResampling,
    Resampling,
    ResidualResampling,
)
from zoo.networks.unet import BilinearEnlarging, LowResolutionInput, UNet

Description = Mapping[str, Any]
KINDS = ("UNetModel", "SuperResModel", "EncoderUNetModel")
POOLINGS: dict[str, type[Pooling]] = {
    "adaptive": AdaptivePooling,
    "attention": AttentionPooling,
    "spatial": SpatialPooling,
    "spatial_v2": NormalisedSpatialPooling,
}


def described(description: Description) -> tuple[str, dict[str, Any]]:
    """The class and its arguments, of a description or of published flags.

    Raises:
        UserError: another class, or flags that describe no network.
    """
    if "class" not in description:
        description = adm_flags.description(description)
    kind = description["class"].rsplit(".", 1)[-1]
    if kind not in KINDS:
        raise UserError(f"class must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {description['class']}")
    return kind, dict(description["kwargs"])


def network(description: Description) -> Encoder:
    """A published network, unbuilt.

    Args:
        description: the published command-line flags as a map; or `class` ("...UNetModel", "...SuperResModel" or
            "...EncoderUNetModel") and `kwargs`, the arguments of that class.
    """
    kind, flags = described(description)
    resolutions = tuple(flags["image_size"] // factor for factor in flags["attention_resolutions"])
    order = HeadsLast() if flags.get("use_new_attention_order") else HeadsFirst()
    if flags.get("resblock_updown"):
        resampling: Resampling = ResidualResampling()
    else:
        resampling = ConvolutionResampling() if flags.get("conv_resample", True) else PoolingResampling()
    heads = _heads(flags)
    shared: dict[str, Any] = {
        "channels": flags["model_channels"],
        "multipliers": tuple(flags.get("channel_mult", (1, 2, 4, 8))),
        "blocks": flags["num_res_blocks"],
        "time": StepEmbedding(),
        "modulation": AdaptiveModulation() if flags.get("use_scale_shift_norm") else AdditiveModulation(),
        "resampling": resampling,
        "attention": SelfAttention(resolutions, heads, order),
        "normalisation": GroupNormalisation(groups=32, epsilon=1e-5),
        "dropout": flags.get("dropout", 0.0),
    }
    try:
        if kind == "EncoderUNetModel":
            pooling = _pooling(flags.get("pool", "adaptive"), heads)
            return NoisyClassifier(out_classes=flags["out_channels"], pooling=pooling, **shared)
        low = LowResolutionInput(BilinearEnlarging()) if kind == "SuperResModel" else None
        return UNet(out_channels=flags["out_channels"], classes=flags.get("num_classes"), low_resolution=low, **shared)
    except ValueError as error:
        raise UserError(f"the flags describe no network: {error}") from error


def _heads(flags: Mapping[str, Any]) -> Heads:
    if flags.get("num_head_channels", -1) != -1:
        return HeadChannels(flags["num_head_channels"])
    upsample = flags.get("num_heads_upsample", -1)
    return HeadCount(flags.get("num_heads", 1), None if upsample == -1 else upsample)


def _pooling(name: str, heads: Heads) -> Pooling:
    if name not in POOLINGS:
        raise UserError(f"pool must be {', '.join(POOLINGS)}, got '{name}'")
    if name == "attention":
        if not isinstance(heads, HeadChannels):
            raise UserError("pool attention needs num_head_channels")
        return AttentionPooling(heads)
    return POOLINGS[name]()


def input_shapes(description: Description, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with which the network of `description` is built."""
    kind, flags = described(description)
    size = flags["image_size"]
    shapes: dict[str, tuple[int, ...]] = {"image": (batch, size, size, 3), "time": (batch,)}
    if flags.get("num_classes") is not None:
        shapes["label"] = (batch,)
    if kind == "SuperResModel":
        low = flags.get("small_size", size // 4)
        shapes["low_resolution"] = (batch, low, low, 3)
    return shapes


def load(description: Description, weights: StateDict | Path | str) -> Encoder:
    """The network of a published model with its weights.

    Args:
        description: as for `network`.
        weights: the state dict, published tensor name -> array; or a file that has it, .pt or .safetensors.

    Raises:
        UserError: naming every missing, unused or mis-shaped tensor.
    """
    state = weights if isinstance(weights, Mapping) else read_weights(Path(weights))
    made = network(description)
    try:
        made(
            {
                name: keras.KerasTensor(shape, "int32" if name == "label" else "float32")
                for name, shape in input_shapes(description).items()
            }
        )
    except ValueError as error:
        raise UserError(f"the flags describe no network: {error}") from error
    state_dicts.assign(list(tensors(made)), state)
    return made


def export(network: Encoder) -> dict[str, np.ndarray]:
    """The weights of a built network under their published names."""
    return state_dicts.export(list(tensors(network)))


# ------------------------------------------------------------------ names


def tensors(network: Encoder) -> Iterator[Tensor]:
    """The published name of every variable of a built network, in the published order."""
    yield from _linear("time_embed.0", network.time_in)
    yield from _linear("time_embed.2", network.time_out)
    groups = [("input_blocks", network.down), ("middle_block", [network.middle])]
    if isinstance(network, UNet):
        if network.classes is not None:
            yield Tensor("label_emb.weight", network.label.embeddings)
        groups.append(("output_blocks", network.up))
    for part, members in groups:
        for i, layers in enumerate(members):
            for j, layer in enumerate(layers):
                yield from _layer(f"{part}.{j}" if part == "middle_block" else f"{part}.{i}.{j}", layer)
    if isinstance(network, NoisyClassifier):
        yield from _pooled(network)
    else:
        yield from _norm("out.0", network.norm_out)
        yield from _linear("out.2", network.convolution_out)


def _pooled(network: NoisyClassifier) -> Iterator[Tensor]:
    head = network.head
    match network.pooling:
        case AdaptivePooling():
            yield from _norm("out.0", head.norm)
            yield from _linear("out.3", head.projection, 2)
        case AttentionPooling():
            yield from _norm("out.0", head.norm)
            yield Tensor("out.2.positional_embedding", head.positions, 0)  # [C, tokens] there
            yield from _linear("out.2.qkv_proj", head.projection_in, 1)
            yield from _linear("out.2.c_proj", head.projection_out, 1)
        case NormalisedSpatialPooling():
            yield from _linear("out.0", head.hidden)
            yield from _norm("out.1", head.norm)
            yield from _linear("out.3", head.projection)
        case SpatialPooling():
            yield from _linear("out.0", head.hidden)
            yield from _linear("out.2", head.projection)
        case _:
            raise UserError(f"{type(network.pooling).__name__} has no published name")


def _layer(prefix: str, layer: keras.layers.Layer) -> Iterator[Tensor]:
    if isinstance(layer, ResidualBlock):
        yield from _norm(f"{prefix}.in_layers.0", layer.norm_in)
        yield from _linear(f"{prefix}.in_layers.2", layer.convolution_in)
        yield from _linear(f"{prefix}.emb_layers.1", layer.projection)
        yield from _norm(f"{prefix}.out_layers.0", layer.norm_out)
        yield from _linear(f"{prefix}.out_layers.3", layer.convolution_out)
        if layer.shortcut is not None:
            yield from _linear(f"{prefix}.skip_connection", layer.shortcut, 2)
    elif isinstance(layer, AttentionBlock):
        yield from _norm(f"{prefix}.norm", layer.norm)
        yield from _linear(f"{prefix}.qkv", layer.projection_in, 1)
        yield from _linear(f"{prefix}.proj_out", layer.projection_out, 1)
    elif isinstance(layer, Enlargement):
        if layer.convolution is not None:
            yield from _linear(f"{prefix}.conv", layer.convolution)
    elif layer.variables:  # the first convolution, or a strided one between two levels
        yield from _linear(prefix if prefix == "input_blocks.0.0" else f"{prefix}.op", layer)


def _linear(prefix: str, layer: keras.layers.Layer, ones: int = 0) -> Iterator[Tensor]:
    yield Tensor(f"{prefix}.weight", layer.kernel, ones)
    yield Tensor(f"{prefix}.bias", layer.bias)


def _norm(prefix: str, layer: GroupNorm) -> Iterator[Tensor]:
    yield Tensor(f"{prefix}.weight", layer.gamma)
    yield Tensor(f"{prefix}.bias", layer.beta)
